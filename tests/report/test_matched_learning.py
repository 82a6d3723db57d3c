"""Methods at equal learning: what the section says of paths that were put in by hand."""

from __future__ import annotations

import pytest

from peftodyssey.measures.matched_learning import section as matched_learning

BEFORE = {"valid_nll_before": 3.0, "general_nll_before": 2.0}


def cell(label: str, seed: int, rise: float) -> tuple[dict, list[dict]]:
    """A cell that learns 0.5, 1.0 nats and forgets `rise` times as much, on two general texts of unequal length."""
    name = f"{label}{seed}"
    row = {
        "cell": name,
        "label": label,
        "method": label,
        "seed": seed,
        "status": "done",
        "domain": "news",
        "lr": 1e-3,
        "revision": "r",
        **BEFORE,
    }
    points = []
    for step, learning in ((1, 0.5), (2, 1.0)):
        seen = {"cell": name, "tokens_seen": step, "step": step}
        points.append({**seen, "corpus": "news", "split": "valid", "nll_nats": 3.0 - learning, "tokens": 10})
        points.append({**seen, "corpus": "one", "split": "test", "nll_nats": 2.0 + 2 * rise * learning, "tokens": 10})
        points.append({**seen, "corpus": "other", "split": "all", "nll_nats": 2.0, "tokens": 10})
    return row, points


def study(*cells: tuple[dict, list[dict]]) -> tuple[list[dict], list[dict]]:
    return [row for row, _ in cells], [point for _, points in cells for point in points]


def test_one_sentence_and_the_levels_of_each_pair() -> None:
    section = matched_learning.section(*study(cell("full", 0, 0.4), cell("lora", 0, 0.1)))
    assert section is not None
    (said,) = section.statements
    assert "where both have learned 0.900 nats/token" in said
    assert "Full fine-tuning forgets 0.2700 more than LoRA (one seed; no interval)" in said
    assert [line[2] for line in section.table] == ["0.500", "0.900"]
    assert section.table[0][3:5] == ["0.200", "0.050"]


def test_seeds_are_shown_below_five_and_make_an_interval_from_five_on() -> None:
    three = [
        cell(label, seed, rise + 0.01 * seed * (label == "full"))
        for label, rise in (("full", 0.4), ("lora", 0.1))
        for seed in range(3)
    ]
    assert "3 seeds: +0.2700, +0.2790, +0.2880; no interval" in matched_learning.section(*study(*three)).statements[0]
    five = [
        cell(label, seed, rise + 0.01 * seed * (label == "full"))
        for label, rise in (("full", 0.4), ("lora", 0.1))
        for seed in range(5)
    ]
    said = matched_learning.section(*study(*five)).statements[0]
    assert "no interval" not in said
    assert "[+0.2" in said


def test_many_methods_stand_beside_full_alone() -> None:
    section = matched_learning.section(
        *study(*(cell(label, 0, 0.1) for label in ("full", "lora", "qlora", "ia3", "bitfit")))
    )
    assert len(section.statements) == 4
    assert all("Full fine-tuning" in said for said in section.statements)


@pytest.mark.parametrize("missing", ["valid_nll_before", "general_nll_before"])
def test_without_validation_or_general_text_there_is_no_path(missing: str) -> None:
    rows, points = study(cell("full", 0, 0.4), cell("lora", 0, 0.1))
    assert matched_learning.section([{**row, missing: None} for row in rows], points) is None
    assert matched_learning.figures([{**row, missing: None} for row in rows], points) == []
