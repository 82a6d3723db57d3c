"""Collects `contrast.parquet`: the differences between methods on each text and base, from columns of losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftodyssey.measures.contrast.column_means import ColumnMeans, column_means
from peftodyssey.measures.contrast.compute import MethodMeans
from peftodyssey.measures.contrast.differences import Clusters, Difference, differences, too_few
from peftodyssey.measures.contrast.pairs import MethodCells, pairs_of
from peftodyssey.measures.contrast.table import DOMINANCE
from peftodyssey.measures.contrast.verdicts import row_of
from peftodyssey.stats.contrast import LESS, MORE, ContrastResult, contrasts
from peftodyssey.store import manifest
from peftodyssey.store.stored_run import Cell, StoredRun

Row = dict[str, Any]
SETTING = ("model", "revision", "domain", "newline", "objective", "context", "score_tokens")


@dataclass(frozen=True)
class PairDifference:
    """A difference with what it is of."""

    coordinates: Row  # recipe, setting, methods, seeds, margin
    difference: Difference


def rows(run: StoredRun) -> list[Row]:
    """The rows of every setting whose recipe compares methods, in the order of the cells."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for cell, _ in run.entries("contrast"):
        setting = tuple(cell["coordinates"].get(name) for name in SETTING)
        groups.setdefault((cell["recipe"], *setting), []).append(cell)
    found = [one for cells in groups.values() for one in _of_setting(run, cells)]
    results = _results(found)
    dominant = _dominant(found, results)
    return [
        row_of(one.coordinates, one.difference, result)
        for one, result in zip(found, results, strict=True)
        if one.difference.at != DOMINANCE or _cells(one) in dominant
    ]


def _of_setting(run: StoredRun, cells: Sequence[Cell]) -> list[PairDifference]:
    done = {cell["number"] for cell in run.done}
    finished = [cell for cell in cells if cell["number"] in done and cell["scores"]["general"]]
    options = cells[0]["measures"]["contrast"]
    pairs = pairs_of(_methods(run, cells, finished), options["pairs"])
    if not pairs:
        return []
    means = {split: column_means(run, finished, split) for split in ("test", "valid", "general")}
    test, general = (Clusters(means[s].clusters, means[s].effective_clusters) for s in ("test", "general"))
    found = []
    for first, second in pairs:
        seeds = sorted(first.seeds & second.seeds)
        own = {name: cells[0]["coordinates"].get(name) for name in SETTING} | {"recipe": cells[0]["recipe"]}
        own |= {"method": first.label, "minus": second.label, "seeds": len(seeds), "margin": options["margin"]}
        a, b = (_method_means(method, seeds, means) for method in (first, second))
        if a is not None and b is not None:
            found += [PairDifference(own, one) for one in differences(a, b, test, general, len(seeds))]
    return found


def _methods(run: StoredRun, cells: Sequence[Cell], finished: Sequence[Cell]) -> list[MethodCells]:
    labels = dict.fromkeys(cell["coordinates"]["label"] for cell in finished)
    return [
        _method([cell for cell in cells if cell["coordinates"]["label"] == label], finished, run) for label in labels
    ]


def _method(cells: Sequence[Cell], finished: Sequence[Cell], run: StoredRun) -> MethodCells:
    numbers = {cell["number"] for cell in finished}
    done = {_rate_and_seed(cell): cell for cell in cells if cell["number"] in numbers}
    others = [cell for cell in cells if cell["number"] not in numbers]
    failed = [cell for cell in others if manifest.failure(run.folder / cell["folder"])]
    diverged, grid = (tuple(sorted({_rate_and_seed(cell)[0] for cell in some})) for some in (failed, cells))
    own = cells[0]["coordinates"]
    return MethodCells(own["label"], own["method"], done, diverged, grid)


def _rate_and_seed(cell: Cell) -> tuple[float, int]:
    return float(cell["coordinates"]["lr"] or 0.0), int(cell["coordinates"]["seed"])


def _method_means(method: MethodCells, seeds: Sequence[int], means: Mapping[str, ColumnMeans]) -> MethodMeans | None:
    """The means of a method's cells that are finished with all seeds and finite; None where there are none."""

    def read(split: str, rates: Sequence[float]) -> np.ndarray:
        columns = [[means[split].of(method.done[lr, seed], split, "after") for seed in seeds] for lr in rates]
        return np.stack([np.stack(of_rate, -1) for of_rate in columns], 1)

    rates = method.rates(seeds) if seeds else []
    finite = [lr for lr in rates if all(np.isfinite(read(split, [lr])[0]).all() for split in means)]
    if not finite:
        return None
    cell = method.done[finite[0], seeds[0]]
    base, origin = (
        {split: means[split].of(cell, split, kind) for split in ("test", "general")} for kind in ("before", "quantised")
    )
    return MethodMeans(
        method.label,
        finite,
        sorted({*rates, *method.diverged}),
        method.grid,
        valid=read("valid", finite),
        learning=base["test"][:, None, None] - read("test", finite),
        forgetting=read("general", finite) - base["general"][:, None, None],
        origin=np.stack([base["test"] - origin["test"], origin["general"] - base["general"]], -1),
    )


def _results(found: Sequence[PairDifference]) -> list[ContrastResult | None]:
    """The contrast of each difference; those that differ in text and base only share their variance over seeds."""
    results: list[ContrastResult | None] = [None] * len(found)
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, one in enumerate(found):
        if one.difference.parts is not None and not too_few(one.difference.clusters):
            groups.setdefault(_comparison(one), []).append(number)
    for numbers in groups.values():
        settings = [parts for i in numbers if (parts := found[i].difference.parts) is not None]
        first = found[numbers[0]]
        pooled = contrasts(settings, first.coordinates["margin"], first.difference.confidence)
        for i, result in zip(numbers, pooled, strict=True):
            results[i] = result
    return results


def _comparison(one: PairDifference) -> tuple[Any, ...]:
    """What settings share whose variance over seeds may be pooled."""
    own, difference = one.coordinates, one.difference
    rates = (difference.method_lr, difference.minus_lr) if difference.at == DOMINANCE else ()
    names = ("recipe", "method", "minus", "margin")
    return *(own[name] for name in names), difference.quantity, difference.at, difference.share, *rates


def _dominant(found: Sequence[PairDifference], results: Sequence[ContrastResult | None]) -> set[tuple[Any, ...]]:
    """The pairs of cells of which both differences are clear, in opposite directions."""
    verdicts: dict[tuple[Any, ...], set[str]] = {}
    for one, result in zip(found, results, strict=True):
        if result is not None and one.difference.at == DOMINANCE:
            verdicts.setdefault(_cells(one), set()).add(result.verdict)
    return {cells for cells, words in verdicts.items() if words == {LESS, MORE}}


def _cells(one: PairDifference) -> tuple[Any, ...]:
    return *one.coordinates.values(), one.difference.method_lr, one.difference.minus_lr
