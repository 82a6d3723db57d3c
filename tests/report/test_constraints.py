"""What the page says about constraints: learning and forgetting beside the free method, and at equal learning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftodyssey.measures.wise_ft import section as constraints
from peftodyssey.measures.wise_ft.compute import forgetting_at_change


def row(label: str, change: float, forgetting: float, seed: int = 0, **more: object) -> dict:
    return {
        "status": "done",
        "selected": True,
        "method": "full",
        "label": label,
        "rank": None,
        "alpha": None,
        "seed": seed,
        "lr": 1e-3,
        "lr_edge": None,
        "delta_nll": change,
        "delta_lo": change - 0.01,
        "delta_hi": change + 0.01,
        "forgetting": forgetting,
        "forgetting_lo": forgetting - 0.01,
        "forgetting_hi": forgetting + 0.01,
        "domain": "notes",
        "newline": "keep",
        "model": "m",
        "revision": None,
        "objective": "text",
        "context": 64,
        "targets": None,
        "quant": None,
        "cell": f"{label}{seed}",
        "recipe": "r",
        "steps": 10,
        **more,
    }


def curve(seed: int) -> list[dict]:
    """Of the free cell: half of the update learns most of it and forgets little."""
    ends = {0.0: (0.0, 0.0), 0.5: (-0.3, 0.04), 1.0: (-0.4, 0.2)}
    return [
        {"cell": f"full{seed}", "recipe": "r", "share": share, "delta_nll": learnt, "forgetting": lost}
        for share, (learnt, lost) in ends.items()
    ]


WISE_FT = [*curve(0), *curve(1)]
FREE = [row("full", -0.4, 0.2, seed) for seed in (0, 1)]


def said(*held: dict, wise: list = WISE_FT) -> str:
    (text,) = constraints.statements([*FREE, *held], wise)
    return text


def test_a_constraint_is_named_better_only_below_the_line_of_shares() -> None:
    below = said(*(row("full l2_sp=1", -0.3, 0.0, seed, l2_sp=1.0) for seed in (0, 1)))
    assert "differs by -0.040 nats/token [-0.0" in below
    assert "(mean of 2 seeds; interval over documents and seeds): the constraint forgets less" in below
    assert "-0.300 nats/token" in below
    assert "changed by -0.400" in below
    assert "against +0.200" in below
    on = said(*(row("full l2_sp=1", -0.35, 0.12 + 0.005 * seed, seed, l2_sp=1.0) for seed in (0, 1)))
    assert "no clear difference" in on
    above = said(*(row("full norm_ball=0.1", -0.15, 0.1, seed, norm_ball=0.1) for seed in (0, 1)))
    assert "+0.080 nats/token" in above
    assert "which needs no training, forgets less" in above


def test_seeds_that_disagree_make_no_verdict() -> None:
    assert "no clear difference" in said(
        row("full l2_sp=1", -0.3, 0.0, 0, l2_sp=1.0), row("full l2_sp=1", -0.3, 0.1, 1, l2_sp=1.0)
    )


def test_what_no_share_learns_or_nobody_scored_is_not_compared() -> None:
    assert "no comparison at equal learning" in said(row("full replay=0.2", -0.5, 0.0, replay=0.2))
    assert "no comparison at equal learning" in said(row("full replay=0.2", -0.3, 0.0, replay=0.2), wise=[])


def test_a_constraint_without_a_free_twin_is_not_stated_and_is_drawn() -> None:
    alone = [row("lora r=8 l2_sp=1", -0.3, 0.1, method="lora", rank=8, l2_sp=1.0)]
    assert constraints.statements([*FREE, *alone], WISE_FT) == []
    assert [figure.name for figure in constraints.figures([*FREE, *alone], [])] == ["constraints"]
    assert constraints.section([*FREE, *alone], []).statements[0].startswith("Not measured")
    assert constraints.section(FREE, []) is None
    assert constraints.figures(FREE, []) == []


def test_an_early_end_is_told() -> None:
    assert "(weights of step 4 were kept)" in said(
        row("full early_stop=0.02", -0.2, 0.02, early_stop=0.02, stopped_at_step=6, steps=4)
    )


@given(st.lists(st.tuples(st.floats(-1, 0), st.floats(-1, 1)), min_size=2, max_size=6), st.integers(0, 4))
def test_equal_learning_gives_the_points_themselves_back(points, at):
    falling = [(learnt, lost) for learnt, lost in sorted(points, reverse=True)]
    if len({learnt for learnt, _ in falling}) < len(falling):
        return
    change, lost = falling[min(at, len(falling) - 1)]
    assert forgetting_at_change(falling, change) == pytest.approx(lost, abs=1e-12)
    assert forgetting_at_change(falling, falling[-1][0] - 0.1) is None
