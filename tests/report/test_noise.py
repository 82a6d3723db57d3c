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
    told = {
        "tokens_from": RUNGS[0],
        "tokens_to": RUNGS[1],
        "rungs": 4,
        "covers": "clusters and seeds",
        "verdict": "more" if lo > 0 else "less" if hi < 0 else "undecided",
        "reason": None,
        "margin": 0.01,
        "equal_lo": lo + 0.001,
        "equal_hi": hi - 0.001,
        "shape": None,
        "turn_tokens": None,
        "lowest_from": None,
        "lowest_to": None,
        "compared_at": None,
        "budget": None,
        "newline": None,
    }
    return {
        **BASE,
        **told,
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


def trained(lo, hi, **more):
    """A slope of forgetting on one text at the best rate of each rung."""
    own = {"quantity": "forgetting", "intervention": "full", "domain": "law", "gamma": None, "newline": "keep"}
    return slope(lo, hi, **{**own, "compared_at": "own best rate", **more})


def v_shaped(row):
    """The same where the line is rejected, and its steps."""
    middle = 256_000_000
    not_a_line = {"slope": None, "slope_lo": None, "slope_hi": None, "verdict": None}
    not_a_line |= {"shape": "falls, then rises", "turn_tokens": middle}
    places = ((RUNGS[0], middle, -0.02), (middle, RUNGS[1], 0.03))
    steps = [
        {**row, "tokens_from": start, "tokens_to": end, "change": change, "lo": change - 0.005, "hi": change + 0.005}
        for start, end, change in places
    ]
    return {**row, **not_a_line}, steps


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
        ((0.01, 0.03), ": more with longer pretraining"),
        ((-0.03, -0.01), ": less with longer pretraining"),
        ((-0.01, 0.03), ": undecided"),
    ],
)
def test_the_trend_is_what_its_verdict_says(ends, words):
    said = noise.statements(NOISE, [slope(*ends)], [])
    assert words in said[0]
    assert "per tenfold pretraining (clusters and seeds)" in said[0]
    assert "gamma 0.4" in said[0]
    assert "64M tokens" in said[0]
    assert "1.02B tokens" in said[0]


def test_equal_is_said_by_its_90_percent_interval_and_no_verdict_with_its_reason():
    (said, *_) = noise.statements(NOISE, [slope(-0.004, 0.006, verdict="equal")], [])
    assert "equal along the ladder (the 90 % interval [-0.0030, +0.0050] is within 0.01)" in said
    few = {"verdict": "not comparable", "reason": "2 noise pairs: a verdict takes 3", "covers": "clusters"}
    (said, *_) = noise.statements(NOISE, [slope(0.01, 0.03, **few)], [])
    assert "(clusters only): no verdict (2 noise pairs: a verdict takes 3)" in said
    assert "more with longer" not in said


def test_a_v_is_called_a_v_and_has_no_slope():
    row, steps = v_shaped(slope(0.01, 0.03))
    (said, *_) = noise.statements(NOISE, [row], steps)
    assert (
        "not a line in log tokens: it falls to 256M tokens and rises after (-0.0200 [-0.0250, -0.0150] to 256M" in said
    )
    assert "+0.0300 [+0.0250, +0.0350] to 1.02B tokens)" in said
    assert "per tenfold" not in said


def test_shifts_of_one_norm_stand_in_one_sentence_and_the_scale_in_the_last():
    said = noise.statements(NOISE, [slope(0.01, 0.03)], [])
    assert "rank 2 +0.0600 [+0.0550, +0.0650], along the update of lora r=8 +0.5000" in said[1]
    assert "to nf4 alone (norm 9) costs +0.0300" in said[2]
    assert "initial standard deviation" in said[-1]
    assert not noise.section([], [], []).is_shown
    relative = noise.statements([{**r, "scale": "relative"} for r in NOISE], [], [])
    assert "relative noise" in relative[-1]


@pytest.mark.parametrize(
    ("lowest", "words"),
    [
        ((2e8, 2e8), "is lowest at 200M tokens and turns up before 1.02B tokens"),
        ((2e8, 5e8), "is lowest at 200M tokens to 500M tokens and turns up"),
        ((2e8, RUNGS[1]), "is lowest somewhere from 200M tokens to 1.02B tokens"),
        ((RUNGS[1], RUNGS[1]), "is lowest at the last rung"),
        ((RUNGS[0], RUNGS[0]), "is lowest at the first rung"),
    ],
)
def test_where_the_loss_is_lowest_is_a_set_of_rungs(lowest, words):
    turning = slope(0.01, 0.03, lowest_from=lowest[0], lowest_to=lowest[1])
    assert f"with the noise, the loss {words}" in noise.statements(NOISE, [turning], [])[0]
    assert "the loss" not in noise.statements(NOISE, [slope(0.01, 0.03)], [])[0]


def test_differences_come_first_and_equal_learning_before_raw_slopes():
    rows = [
        trained(0.01, 0.03),
        trained(-0.005, 0.005, compared_at="equal learning", verdict="undecided"),
        trained(0.0, 0.02, intervention="lora r=8"),
        trained(0.01, 0.05, minus="lora r=8"),
        trained(0.5, 0.9, lr=1e-2, compared_at="one rate"),
        trained(-0.03, -0.01, minus="lora r=8", compared_at="equal learning"),
    ]
    said = sensitivity.statements(rows, [], [])
    assert len(said) == 4
    assert said[0].startswith(
        "law, trunk (64M tokens to 1.02B tokens, 4 rungs): forgetting of full minus that of lora r=8"
    )
    assert said[0].index("at equal learning -0.0200") < said[0].index("at the best rate of each rung +0.0300")
    assert said[1].index("at equal learning 0.0000") < said[1].index("at the best rate of each rung +0.0200")
    assert not any("0.7" in text for text in said)
    (only,) = sensitivity.statements([trained(0.5, 0.9, lr=1e-2, compared_at="one rate")], [], [])[:1]
    assert "at the rate 1e-2 +0.7000" in only  # a method with one rate has no other


def test_the_table_has_slopes_steps_and_verdicts():
    row, steps = v_shaped(trained(0.01, 0.03))
    found = sensitivity.section([row, trained(0.0, 0.02, intervention="lora r=8")], steps, [])
    assert [len(line) for line in found.table] == [len(found.headings)] * 2
    assert "to 256M tokens -0.0200" in found.table[0][4]
    assert (found.table[0][3], found.table[0][5]) == ("-", "falls, then rises")


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
    slopes = [trained(0.01, 0.03)]
    said = sensitivity.statements(
        slopes, [], [row for count, lr in zip(RUNGS, rates, strict=True) for row in tuned(count, lr)]
    )
    assert f"learning rate of full {words}" in said[1]
    assert "1e-3 at 64M tokens" in said[1] or rates[0] != 1e-3
    assert len(sensitivity.statements(slopes, [], tuned(RUNGS[0], rates[0]))) == 2  # one rung has no trend


def test_a_slope_on_the_edge_of_a_grid_is_unresolved():
    reason = "the rate of full is at the high edge of its grid (1e-3) at 64M tokens"
    slopes = [trained(0.01, 0.05, verdict="not comparable", reason=reason)]
    rows = [*tuned(RUNGS[0], 1e-3, lr_edge="high"), *tuned(RUNGS[1], 1e-3)]
    (said, *_) = sensitivity.statements(slopes, [], rows)
    assert f"no verdict ({reason})" in said
    assert said.endswith("full at 64M tokens (try 3e-3).")


def test_after_training_too_the_loss_may_turn():
    said = sensitivity.statements([trained(0.01, 0.03, lowest_from=2e8, lowest_to=2e8)], [], [])
    assert "after training, the loss on general text is lowest at 200M tokens and turns up" in said[0]


def test_rounding_is_told_at_both_ends_of_the_ladder_with_its_slope():
    rounded = [
        row(tokens, "quantiser", gamma=None, quantiser="nf4", rise=rise)
        for tokens, rise in zip(RUNGS, (0.01, 0.03), strict=True)
    ]
    (said,) = noise.statements(rounded, [slope(0.01, 0.03, intervention="nf4", gamma=None)], [])
    assert "+0.0100 [+0.0050, +0.0150] nats/token at 64M tokens and +0.0300" in said
    assert said.endswith("more with longer pretraining.")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((0.02, 0.03), "Verdict on annealed: more at 64M tokens, more at 1.02B tokens."),
        ((-0.02, -0.03), "Verdict on annealed: less at 64M tokens, less at 1.02B tokens."),
        ((-0.02, 0.03), "Verdict on annealed: less at 64M tokens, more at 1.02B tokens."),
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
            "verdict": "more" if change > 0 else "less",
            "reason": None,
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
