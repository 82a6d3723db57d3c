"""Slopes along a ladder from planted columns: at equal learning beside the raw ones, and paired by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report.test_annealing import write_noise
from support.demo_store import Fit, write_run
from support.plans import collect

from peftodyssey.measures.contrast.differences import Clusters
from peftodyssey.measures.sensitivity import collect as collect_sensitivity
from peftodyssey.measures.sensitivity import section
from peftodyssey.measures.sensitivity.lines import Line, difference
from peftodyssey.measures.sensitivity.table import STEPS_TABLE, TABLE
from peftodyssey.store import parquet, plans

RUNGS = (16, 64, 256)
TOKENS = tuple(rung * 10**6 for rung in RUNGS)
BEST = (0.16, 0.20, (2 * 0.20**2 - 0.16**2) ** 0.5)  # learning at the best rate of each rung: their squares are a line
REACHED = tuple((best / 2, best, 0.24 + 0.04 * rung) for rung, best in enumerate(BEST))  # by rung and rate
MEASURED = ("degradation", "forgetting")
RATES = (1e-4, 3e-4, 1e-3)


def forgotten(learned: float, method: str) -> float:
    """Every rung has the same curve: what differs is how far along it the best rate goes."""
    return (1.6 if method == "full" else 0.8) * learned**2


def fits(domain: str, rung: int) -> list[Fit]:
    """The rate in the middle is the best on validation text."""
    return [
        Fit(
            method if method == "full" else "lora r=8",
            method,
            lr,
            -learned,
            forgotten(learned, method),
            valid=-0.2 if place == 1 else -0.1,
            group=method,
            extra={} if method == "full" else {"rank": 8, "alpha": 16.0},
        )
        for method in ("full", "lora")
        for place, (lr, learned) in enumerate(zip(RATES, REACHED[rung], strict=True))
    ]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    folder: Path = tmp_path_factory.mktemp("slopes")
    write_run(folder, fits=fits, domains=("law",), rungs=RUNGS, seeds=(0, 1, 2), measure=MEASURED)
    results = collect(folder)
    found = {name: parquet.read(folder / name).to_pylist() for name in (TABLE, STEPS_TABLE)}
    return {**found, "results": results or parquet.read(folder / "results.parquet").to_pylist()}


def row_of(rows: list[dict], **wanted: object) -> dict:
    (found,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return found


def test_the_raw_slope_is_that_of_the_planted_cells(tables: dict) -> None:
    row = row_of(tables[TABLE], quantity="forgetting", intervention="full", minus=None, compared_at="own best rate")
    planted = [forgotten(reached[1], "full") for reached in REACHED]
    assert row["slope"] == pytest.approx(np.polyfit(np.log10(TOKENS), planted, 1)[0], abs=1e-5)
    assert (row["rungs"], row["repetitions"], row["clusters"]) == (3, 3, 40)
    assert (row["verdict"], row["covers"]) == ("more", "clusters and seeds")
    steps = [s for s in tables[STEPS_TABLE] if all(s[n] == row[n] for n in ("intervention", "minus", "compared_at"))]
    changes = [step["change"] for step in steps if step["quantity"] == "forgetting"]
    assert changes == pytest.approx(list(np.diff(planted)), abs=1e-5)
    changes = {
        lr: [step["change"] for step in tables[STEPS_TABLE] if (step["quantity"], step["lr"]) == ("learning", lr)]
        for lr in (None, 3e-4)
    }
    assert changes[None] == pytest.approx(2 * list(-np.diff(BEST)) + [0, 0], abs=1e-5)  # full, LoRA, their difference
    assert changes[3e-4] == pytest.approx(2 * list(-np.diff(BEST)), abs=1e-5)  # the best rate is the same on every rung


def test_at_equal_learning_the_same_curve_has_no_slope(tables: dict) -> None:
    row = row_of(tables[TABLE], quantity="forgetting", intervention="full", minus=None, compared_at="equal learning")
    assert row["slope"] == pytest.approx(0, abs=0.003)
    assert row["verdict"] == "equal"
    assert row["level"] == pytest.approx(0.5 * 0.24)  # the middle of what every rung reached
    pair = row_of(tables[TABLE], quantity="forgetting", minus="lora r=8", compared_at="equal learning")
    raw = row_of(tables[TABLE], quantity="forgetting", minus="lora r=8", compared_at="own best rate")
    assert pair["slope"] == pytest.approx(0, abs=0.003)
    assert raw["slope"] > 0.01
    assert (pair["verdict"], raw["verdict"]) == ("equal", "more")


def test_the_sentence_has_both(tables: dict) -> None:
    found = section.section(tables[TABLE], tables[STEPS_TABLE], tables["results"])
    assert found is not None
    assert len(found.statements) == 1 + 2 + 2 + 1  # the difference, each method, its learning rates, the limits
    of_full = found.statements[1]
    assert of_full.index("at equal learning") < of_full.index("at the best rate of each rung")
    assert "equal along the ladder" in of_full
    assert "more with longer pretraining" in of_full
    assert all("one rate" not in line[1] for line in found.table)


def line(values: dict[int, dict[int, float]], arm: str = "trunk", **more: object) -> Line:
    """Values without any variance over clusters."""
    drawn = {tokens: {seed: np.full(11, v) for seed, v in own.items()} for tokens, own in values.items()}
    told = {"quantity": "forgetting", "intervention": "full", "minus": None, "compared_at": "own best rate", "arm": arm}
    names = ("recipe", "model", "corpus", "domain", "newline", "gamma", "lr")
    return Line({**dict.fromkeys(names), **told, **more}, drawn, Clusters(40, 40.0))


def of_seed(rung: float, seeds: tuple[int, ...]) -> dict[int, float]:
    """Seeds differ by ten times what is between rungs."""
    return {seed: rung + 0.1 * seed for seed in seeds}


def test_seeds_are_paired_by_number_along_a_ladder() -> None:
    given = line({64: of_seed(0.0, (0, 1, 2, 3)), 256: of_seed(0.01, (1, 2, 3, 4)), 0: of_seed(9.0, (7,))})
    assert (given.tokens, given.seeds) == ((64, 256), (1, 2, 3))
    ladder = given.ladder()
    assert ladder is not None
    np.testing.assert_allclose(ladder.values[:, :, 1] - ladder.values[:, :, 0], 0.01)


def test_seeds_are_paired_by_number_between_methods_and_arms() -> None:
    first = line({64: of_seed(0.03, (0, 1, 2, 3)), 256: of_seed(0.03, (0, 1, 2, 3))}, "annealed")
    second = line({64: of_seed(0.01, (1, 2, 3)), 256: of_seed(0.01, (1, 2, 3))})
    between = difference(first.coordinates, first, second)
    assert between is not None
    assert between.seeds == (1, 2, 3)
    assert all(value == pytest.approx(0.02) for own in between.rungs.values() for value in own.values())
    rows = list(collect_sensitivity._between_arms([first, second]))
    assert [row["change"] for row in rows] == pytest.approx([0.02, 0.02])
    assert {(row["repetitions"], row["verdict"]) for row in rows} == {(3, "more")}


def test_a_ladder_without_common_seeds_has_no_slope() -> None:
    assert line({64: of_seed(0.0, (0,)), 256: of_seed(0.0, (1,))}).ladder() is None
    assert line({64: of_seed(0.0, (0, 1))}).ladder() is None
    apart = [line({64: of_seed(0.0, (0,))}, "annealed"), line({64: of_seed(0.0, (1,))})]
    assert list(collect_sensitivity._between_arms(apart)) == []


def test_noise_pairs_are_paired_by_number_and_rungs_of_a_v_have_no_slope(tmp_path: Path) -> None:
    """The largest pair costs a tenth more on every rung; the rungs are those of a known ladder that is a V."""
    write_run(tmp_path, fits=lambda domain, rung: [], domains=("law",))
    costs = {16: 0.0801, 64: 0.0643, 256: 0.0462, 1024: 0.0721}
    entries = [write_noise(tmp_path, "annealed", tokens, cost) for tokens, cost in costs.items()]
    told = {"recipe": "demo", "created": "2026-01-02T00:00:00", "measure": [], "cells": []}
    plans.write(tmp_path, "demo", "1" * 8, {**told, "measures": {"noise": entries}})
    collect(tmp_path)
    row = row_of(parquet.read(tmp_path / TABLE).to_pylist(), quantity="noise")
    assert (row["shape"], row["turn_tokens"], row["slope"]) == ("falls, then rises", 256_000_000, None)
    assert (row["lowest_from"], row["lowest_to"]) == (256_000_000, 256_000_000)
    steps = parquet.read(tmp_path / STEPS_TABLE).to_pylist()
    assert [step["change"] for step in steps] == pytest.approx(list(np.diff(list(costs.values()))), abs=1e-9)
    assert [step["sign"] for step in steps] == [-1, -1, 1]
