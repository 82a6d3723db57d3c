"""What the page says about constraints: learning and forgetting beside the free method, and at equal learning."""

from __future__ import annotations

import numpy as np
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
# The shares lie on -.8 s + .4 s^2 and -.04 s + .24 s^2: where the first is -.35, s is 1 - sqrt(.125), the second .0744.
ON_THE_PARABOLA = -0.04 * (1 - 0.125**0.5) + 0.24 * (1 - 0.125**0.5) ** 2


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
    on = said(*(row("full l2_sp=1", -0.35, ON_THE_PARABOLA + 0.005 * seed, seed, l2_sp=1.0) for seed in (0, 1)))
    assert "no clear difference" in on
    above = said(*(row("full norm_ball=0.1", -0.15, 0.1, seed, norm_ball=0.1) for seed in (0, 1)))
    assert "+0.098 nats/token" in above
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
    curve = [(share, *point) for share, point in zip(np.linspace(0, 1, len(falling)), falling, strict=True)]
    assert forgetting_at_change(curve, change) == pytest.approx(lost, abs=1e-12)
    assert forgetting_at_change(curve, falling[-1][0] - 0.1) is None
    assert forgetting_at_change([], change) is None


@pytest.mark.parametrize("shares", [(0, 0.25, 0.5, 0.75, 1), (0, 0.5, 1), (0, 0.1, 0.2, 0.9, 1)])
def test_losses_that_are_quadratic_in_the_share_are_found_exactly(shares):
    """Straight lines between the shares would put forgetting too high."""

    def learned(share):
        return -0.3 * share + 0.12 * share**2

    def forgotten(share):
        return 0.01 * share + 0.2 * share**2

    curve = [(share, learned(share), forgotten(share)) for share in shares]
    for share in (0.03, 0.125, 0.4, 0.66, 0.97):
        assert forgetting_at_change(curve, learned(share)) == pytest.approx(forgotten(share), abs=1e-12)


def test_between_two_points_it_is_a_line():
    assert forgetting_at_change([(0, 0.0, 0.0), (1, -0.2, 0.1)], -0.05) == pytest.approx(0.025)
