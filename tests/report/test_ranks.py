"""What the page says about the rank: families by alpha rule, noise, and rates that are not resolved."""

from __future__ import annotations

import pytest

from peftodyssey.measures.lora_ranks import collect
from peftodyssey.measures.lora_ranks import section as ranks
from peftodyssey.measures.lora_ranks.families import families


def row(rank: int, seed: int, change: float, alpha: float, **more: object) -> dict:
    return {
        "status": "done",
        "selected": True,
        "method": "lora",
        "label": f"lora r={rank}",
        "rank": rank,
        "alpha": alpha,
        "seed": seed,
        "lr": 1e-2,
        "lr_edge": None,
        "delta_nll": change,
        "valid_nll_before": 3.0,
        "valid_nll_after": 3.0 + change,
        "forgetting": 0.1,
        "domain": "notes",
        "newline": "keep",
        "model": "m",
        "revision": None,
        "objective": "text",
        "context": 64,
        "targets": "all-linear",
        "quant": None,
        **more,
    }


CHANGES = {1: -0.1, 4: -0.299, 16: -0.3}


def statements(rows: list[dict]) -> list[str]:
    return list(ranks.section(rows, collect.rows(rows, {})).statements)


def of_seeds(seeds: tuple[int, ...], **more: object) -> list[dict]:
    """The differences between ranks vary by 0.0001 over seeds."""
    return [
        row(rank, seed, change + 0.002 * seed + 0.0001 * ((rank + seed) % 3), 2.0 * rank, **more)
        for rank, change in CHANGES.items()
        for seed in seeds
    ]


def test_the_smallest_rank_that_is_enough_is_named() -> None:
    rows = of_seeds((0, 1, 2))
    (said,) = statements(rows)
    assert said.startswith("notes, LoRA, alpha 2r: on validation rank 16 is the best (on test it changes NLL by -0.298")
    assert "rank 4 is the smallest that is enough: it loses at most 0.001" in said
    assert "rank 1 is clearly worse" in said
    assert [figure.name for figure in ranks.figures(rows)] == ["rank", "rank_forgetting"]
    table = collect.rows(rows, {})
    assert [(line["rank"], line["verdict"]) for line in table] == [(1, "worse"), (4, "enough"), (16, "enough")]
    assert table[1]["loss_to_best"] == pytest.approx(0.001)
    assert table[1]["degrees_of_freedom"] == 4


def test_ranks_are_compared_on_validation_and_not_on_test() -> None:
    rows = [{**one, "delta_nll": -0.5 if one["rank"] == 1 else -0.2} for one in of_seeds((0, 1, 2))]
    (said,) = statements(rows)
    assert "on validation rank 16 is the best (on test it changes NLL by -0.200" in said
    assert "rank 4 is the smallest that is enough" in said


def test_an_alpha_that_belongs_to_both_rules_is_in_both() -> None:
    rows = [row(rank, 0, change, alpha) for rank, change in CHANGES.items() for alpha in {2.0 * rank, 32.0}]
    assert {(family.alpha, len(family.rows)) for family in families(rows)} == {("2r", 3), ("32", 3)}


def test_one_seed_makes_no_rank_enough() -> None:
    for seeds in ((0,), (0, 1)):
        (said,) = statements(of_seeds(seeds))
        assert "no statement which rank is enough" in said
        assert f"{len(seeds)} seed" in said


def test_a_rate_at_the_edge_is_said_with_what_to_add_and_not_compared() -> None:
    rows = [{**one, "lr_edge": "high" if one["rank"] == 16 else None} for one in of_seeds((0, 1, 2))]
    first, second = statements(rows)
    assert "rank 4 is the best" in first
    assert "not resolved at rank 16" in second
    assert "add 3e-2" in second


def test_two_ranks_are_no_trend() -> None:
    rows = [row(rank, 0, -0.1, 2.0 * rank) for rank in (1, 4)]
    assert ranks.section(rows, collect.rows(rows, {})) is None
    assert ranks.figures(rows) == []


def test_options_make_families_of_their_own() -> None:
    """DoRA beside LoRA at one rank is no second seed."""
    rows = [row(rank, 0, change, 2.0 * rank) for rank, change in CHANGES.items()]
    with_dora = [*rows, row(4, 0, -0.31, 8.0, label="lora r=4 dora")]
    assert [family.rows for family in families(with_dora)] == [rows]
    assert "1 seed" in statements(with_dora)[0]
    named = [
        row(rank, 0, change, 2.0 * rank, label=f"lora r={rank} dora alpha={2 * rank}")
        for rank, change in CHANGES.items()
    ]
    assert families(named)[0].name == "LoRA dora, alpha 2r"
