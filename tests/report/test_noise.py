"""What the report says of noise and of slopes follows the intervals, and names what it compares."""

import json

import pytest

from peftodyssey.measures.noise import section as noise
from peftodyssey.measures.sensitivity import annealing
from peftodyssey.measures.sensitivity import section as sensitivity

BASE = {
    "run": None,
    "recipe": "r",
    "model": "m",
    "arm": "trunk",
    "corpus": "wiki",
    "scale": "initializer",
    "tensors": "blocks",
}
RUNGS = (64_000_000, 1_024_000_000)


def row(tokens, kind="gaussian", gamma=0.4, rise=0.02, **more):
    told = {
        "revision": f"trunk-{tokens}",
        "pretrain_tokens": tokens,
        "rank": None,
        "quantiser": None,
        "label": None,
        "norm": 12.5,
    }
    return {
        **BASE,
        **told,
        "kind": kind,
        "gamma": gamma,
        "nll_base": 3.0,
        "nll_perturbed": 3.0 + rise,
        "rise_nats": rise,
        "lo": rise - 0.005,
        "hi": rise + 0.005,
        **more,
    }


def slope(lo, hi, **more):
    ends = {
        "turn_tokens": None,
        "turn_lo": None,
        "turn_hi": None,
        "turn_share": 0.0,
        "tokens_from": RUNGS[0],
        "tokens_to": RUNGS[1],
        "rungs": 2,
    }
    return {
        **BASE,
        **ends,
        "quantity": "noise",
        "intervention": "gaussian",
        "minus": None,
        "gamma": 0.4,
        "lr": None,
        "domain": None,
        "slope": (lo + hi) / 2,
        "slope_lo": lo,
        "slope_hi": hi,
        **more,
    }


NOISE = [
    *(
        row(tokens, gamma=gamma, rise=gamma * place / 10)
        for gamma in (0.1, 0.4)
        for place, tokens in enumerate(RUNGS, 1)
    ),
    row(RUNGS[1], "low_rank", rank=2, rise=0.06),
    row(RUNGS[1], "update", label="lora r=8", rise=0.5),
    row(RUNGS[1], "quantiser", gamma=None, quantiser="nf4", rise=0.03, norm=9.0),
]


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ((0.01, 0.03), "longer pretraining costs more"),
        ((-0.03, -0.01), "costs less"),
        ((-0.01, 0.03), "no clear trend"),
    ],
)
def test_the_trend_is_what_its_interval_says(ends, words):
    said = noise.statements(NOISE, [slope(*ends)])
    assert words in said[0]
    assert "gamma 0.4" in said[0]
    assert "64M tokens" in said[0]
    assert "1.02B tokens" in said[0]


def test_shifts_of_one_norm_stand_in_one_sentence_and_the_scale_in_the_last():
    said = noise.statements(NOISE, [slope(0.01, 0.03)])
    assert "rank 2 +0.0600 [+0.0550, +0.0650], along the update of lora r=8 +0.5000" in said[1]
    assert "to nf4 alone (norm 9) costs +0.0300" in said[2]
    assert "initial standard deviation" in said[-1]
    assert not noise.section([], []).is_shown
    relative = noise.statements([{**r, "scale": "relative"} for r in NOISE], [])
    assert "relative noise" in relative[-1]


def test_where_the_loss_turns_is_said_with_its_interval():
    turning = slope(0.01, 0.03, turn_tokens=2e8, turn_lo=1e8, turn_hi=None, turn_share=0.97)
    assert "lowest at 200M tokens [100M tokens, beyond the ladder]" in noise.statements(NOISE, [turning])[0]


def test_the_difference_of_slopes_comes_first_and_only_selected_rates_speak():
    rows = [
        slope(0.01, 0.03, quantity="forgetting", intervention="full", domain="law"),
        slope(0.0, 0.02, quantity="forgetting", intervention="lora r=8", domain="law"),
        slope(0.01, 0.05, quantity="forgetting", intervention="full", minus="lora r=8", domain="law"),
        slope(0.5, 0.9, quantity="forgetting", intervention="full", lr=1e-2, domain="law"),
    ]
    said = sensitivity.statements(rows, [])
    assert "full minus that of lora r=8 is +0.0300 [+0.0100, +0.0500]" in said[0]
    assert "longer pretraining costs full more than lora r=8" in said[0]
    assert len(said) == 4
    assert not any("0.7" in text for text in said)


def cell(tokens, lr, seed=0, label="full", **more):
    return {
        **BASE,
        "domain": "law",
        "label": label,
        "method": "full",
        "status": "done",
        "selected": True,
        "seed": seed,
        "lr": lr,
        "pretrain_tokens": tokens,
        "revision": f"trunk-{tokens}",
        "lr_edge": None,
        **more,
    }


def tuned(tokens, lr, seed=0, **more):
    """A selected cell and one that was tried beside it."""
    return [cell(tokens, lr, seed, **more), cell(tokens, lr / 3, seed, selected=False)]


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((1e-3, 1e-3), "stays the same"),
        ((1e-3, 3e-4), "falls with longer pretraining"),
        ((1e-4, 3e-4), "rises with longer pretraining"),
    ],
)
def test_the_tuned_rate_along_the_ladder_is_said(rates, words):
    slopes = [slope(0.01, 0.03, quantity="forgetting", intervention="full", domain="law")]
    said = sensitivity.statements(
        slopes, [row for count, lr in zip(RUNGS, rates, strict=True) for row in tuned(count, lr)]
    )
    assert f"learning rate of full {words}" in said[1]
    assert "1e-3 at 64M tokens" in said[1] or rates[0] != 1e-3
    assert len(sensitivity.statements(slopes, tuned(RUNGS[0], rates[0]))) == 2  # one rung has no trend


def test_a_slope_on_the_edge_of_a_grid_is_unresolved():
    slopes = [slope(0.01, 0.05, quantity="forgetting", intervention="full", minus="lora r=8", domain="law")]
    rows = [*tuned(RUNGS[0], 1e-3, lr_edge="high"), *tuned(RUNGS[1], 1e-3), *tuned(RUNGS[0], 1e-2, label="lora r=8")]
    (said, *_) = sensitivity.statements(slopes, rows)
    assert said.endswith("full at 64M tokens (try 3e-3).")


def test_after_training_too_the_loss_may_turn():
    turning = slope(
        0.01,
        0.03,
        quantity="forgetting",
        intervention="full",
        domain="law",
        turn_tokens=2e8,
        turn_lo=1e8,
        turn_hi=4e8,
        turn_share=1.0,
    )
    said = sensitivity.statements([turning], [])
    assert "after training, the loss on general text is lowest at 200M tokens [100M tokens, 400M tokens]" in said[0]


def test_rounding_is_told_at_both_ends_of_the_ladder_with_its_slope():
    rounded = [
        row(tokens, "quantiser", gamma=None, quantiser="nf4", rise=rise)
        for tokens, rise in zip(RUNGS, (0.01, 0.03), strict=True)
    ]
    (said,) = noise.statements(rounded, [slope(0.01, 0.03, intervention="nf4", gamma=None)])
    assert "+0.0100 [+0.0050, +0.0150] nats/token at 64M tokens and +0.0300" in said
    assert said.endswith("longer pretraining costs more.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((0.02, 0.03), "costs the annealed base more"),
        ((-0.02, -0.03), "costs the trunk base more"),
        ((-0.02, 0.03), "no difference that holds on every rung"),
    ],
)
def test_arms_are_compared_at_equal_pretraining(changes, words):
    told = {
        "recipe": "r",
        "model": "m",
        "arm": "annealed",
        "minus": "trunk",
        "corpus": "general",
        "domain": "law",
        "gamma": None,
    }
    rows = [
        {
            **told,
            "quantity": quantity,
            "intervention": "full",
            "pretrain_tokens": count,
            "change": change,
            "lo": change - 0.005,
            "hi": change + 0.005,
        }
        for quantity in ("forgetting", "learning")
        for count, change in zip(RUNGS, changes, strict=True)
    ]
    found = annealing.section(rows)
    (said,) = found.statements
    assert words in said
    assert f"{changes[0]:+.4f}" in said
    assert len(found.table) == 4
    assert annealing.section([]) is None


def test_figures_hold_every_row_with_its_interval():
    made = {figure.name: json.loads(figure.chart.to_json()) for figure in noise.figures(NOISE)}
    assert set(made) == {"noise_by_rung", "noise_loss", "noise_rank"}
    assert len(made["noise_by_rung"]["data"]["values"]) == 4
    assert len(made["noise_loss"]["data"]["values"]) == 6  # and the base at each rung
    kinds = {value["intervention"] for value in made["noise_rank"]["data"]["values"]}
    assert kinds == {"gaussian", "rank 2", "along the update of lora r=8"}
    assert all(value["lo"] < value["value"] < value["hi"] for value in made["noise_rank"]["data"]["values"])


def test_the_ladder_is_drawn_before_and_after_with_the_intervals_of_the_change():
    scored = {"general_nll_before": 3.0, "general_nll_after": 3.2, "forgetting_lo": 0.1, "forgetting_hi": 0.3}
    made = {figure.name: figure for figure in sensitivity.figures([], [cell(count, 1e-3, **scored) for count in RUNGS])}
    (value, _) = json.loads(made["ladder"].chart.to_json())["data"]["values"]
    assert (value["base"], value["value"], value["lo"], value["hi"]) == (3.0, 3.2, 3.1, 3.3)
    assert sensitivity.figures([], [cell(RUNGS[0], 1e-3, **scored)]) == []
