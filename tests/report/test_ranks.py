"""What the page says about the rank: families by alpha rule, noise, and rates that are not resolved."""

from __future__ import annotations

from peftodyssey.measures.lora_ranks import section as ranks


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


def test_the_smallest_rank_within_the_noise_is_named() -> None:
    rows = [
        row(rank, seed, change + 0.002 * seed, 2.0 * rank) for rank, change in CHANGES.items() for seed in (0, 1, 2)
    ]
    (said,) = ranks.section(rows).statements
    assert said.startswith(
        "notes, LoRA, alpha 2r: rank 16 changes test NLL most (-0.298 nats/token); rank 4 is the smallest within"
    )
    assert [figure.name for figure in ranks.figures(rows)] == ["rank", "rank_forgetting"]


def test_an_alpha_that_belongs_to_both_rules_is_in_both() -> None:
    rows = [row(rank, 0, change, alpha) for rank, change in CHANGES.items() for alpha in {2.0 * rank, 32.0}]
    assert {(family.alpha, len(family.rows)) for family in ranks.families(rows)} == {("2r", 3), ("32", 3)}
    assert "one seed" in ranks.section(rows).statements[0]


def test_a_rate_at_the_edge_is_said_with_what_to_add_and_not_compared() -> None:
    rows = [
        row(rank, seed, change, 2.0 * rank, lr_edge="high" if rank == 16 else None)
        for rank, change in CHANGES.items()
        for seed in (0, 1)
    ]
    first, second = ranks.section(rows).statements
    assert "rank 4 changes test NLL most" in first
    assert "not resolved at rank 16" in second
    assert "add 3e-2" in second


def test_two_ranks_are_no_trend() -> None:
    rows = [row(rank, 0, -0.1, 2.0 * rank) for rank in (1, 4)]
    assert ranks.section(rows) is None
    assert ranks.figures(rows) == []


def test_options_make_families_of_their_own() -> None:
    """DoRA beside LoRA at one rank is no second seed."""
    rows = [row(rank, 0, change, 2.0 * rank) for rank, change in CHANGES.items()]
    with_dora = [*rows, row(4, 0, -0.31, 8.0, label="lora r=4 dora")]
    assert [family.rows for family in ranks.families(with_dora)] == [rows]
    assert "one seed" in ranks.section(with_dora).statements[0]
    named = [
        row(rank, 0, change, 2.0 * rank, label=f"lora r={rank} dora alpha={2 * rank}")
        for rank, change in CHANGES.items()
    ]
    assert ranks.families(named)[0].name == "LoRA dora, alpha 2r"
