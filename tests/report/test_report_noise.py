"""What the report says of noise and of slopes follows the intervals, and names what it compares."""

import json

import pytest

from peftodyssey.report import noise, sensitivity

BASE = {"run": None, "recipe": "r", "model": "m", "arm": "trunk", "corpus": "wiki", "scale": "initializer", "tensors": "blocks"}
RUNGS = (64_000_000, 1_024_000_000)


def row(tokens, kind="gaussian", gamma=0.4, rise=0.02, **more):
    told = {"revision": f"trunk-{tokens}", "pretrain_tokens": tokens, "rank": None, "quantiser": None, "label": None, "norm": 12.5}
    return {**BASE, **told, "kind": kind, "gamma": gamma, "nll_base": 3.0, "nll_perturbed": 3.0 + rise, "rise_nats": rise,
            "lo": rise - 0.005, "hi": rise + 0.005, **more}  # fmt: skip


def slope(lo, hi, **more):
    ends = {"turn_tokens": None, "turn_lo": None, "turn_hi": None, "turn_share": 0.0, "tokens_from": RUNGS[0], "tokens_to": RUNGS[1], "rungs": 2}
    return {**BASE, **ends, "quantity": "noise", "who": "gaussian", "minus": None, "gamma": 0.4, "lr": None, "domain": None,
            "slope": (lo + hi) / 2, "slope_lo": lo, "slope_hi": hi, **more}  # fmt: skip


NOISE = [
    *(row(tokens, gamma=gamma, rise=gamma * place / 10) for gamma in (0.1, 0.4) for place, tokens in enumerate(RUNGS, 1)),
    row(RUNGS[1], "low_rank", rank=2, rise=0.06), row(RUNGS[1], "update", label="lora r=8", rise=0.5),
    row(RUNGS[1], "quantiser", gamma=None, quantiser="nf4", rise=0.03, norm=9.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("ends", "words"), [((0.01, 0.03), "longer pretraining costs more"), ((-0.03, -0.01), "costs less"), ((-0.01, 0.03), "no clear trend")]
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
    assert "nf4 +0.0300" in said[2]
    assert "initial standard deviation" in said[-1]
    assert noise.section([], []) is None
    relative = noise.statements([{**r, "scale": "relative"} for r in NOISE], [])
    assert "relative noise" in relative[-1]


def test_where_the_loss_turns_is_said_with_its_interval():
    turning = slope(0.01, 0.03, turn_tokens=2e8, turn_lo=1e8, turn_hi=None, turn_share=0.97)
    assert "lowest at 200M tokens [100M tokens, beyond the ladder]" in noise.statements(NOISE, [turning])[0]


def test_the_difference_of_slopes_comes_first_and_only_selected_rates_speak():
    rows = [
        slope(0.01, 0.03, quantity="forgetting", who="full", domain="law"), slope(0.0, 0.02, quantity="forgetting", who="lora r=8", domain="law"),
        slope(0.01, 0.05, quantity="forgetting", who="full", minus="lora r=8", domain="law"),
        slope(0.5, 0.9, quantity="forgetting", who="full", lr=1e-2, domain="law"),
    ]  # fmt: skip
    said = sensitivity.statements(rows)
    assert "full minus that of lora r=8 is +0.0300 [+0.0100, +0.0500]" in said[0]
    assert "longer pretraining costs full more than lora r=8" in said[0]
    assert len(said) == 4
    assert not any("0.7" in text for text in said)


def test_figures_hold_every_row_with_its_interval():
    made = {figure.name: json.loads(figure.chart.to_json()) for figure in noise.figures(NOISE)}
    assert set(made) == {"noise_by_rung", "noise_loss", "noise_rank"}
    assert len(made["noise_by_rung"]["data"]["values"]) == 4
    assert len(made["noise_loss"]["data"]["values"]) == 6  # and the base at each rung
    kinds = {value["who"] for value in made["noise_rank"]["data"]["values"]}
    assert kinds == {"gaussian", "rank 2", "along the update of lora r=8"}
    assert all(value["lo"] < value["value"] < value["hi"] for value in made["noise_rank"]["data"]["values"])
