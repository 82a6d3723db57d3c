"""Collects `contrast.parquet`: the differences between methods on each text and base, from columns of losses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from peftodyssey.measures.contrast.column_means import ColumnMeans, column_means
from peftodyssey.measures.contrast.compute import MethodMeans
from peftodyssey.measures.contrast.differences import Clusters, Difference, cell_by_cell, differences, too_few
from peftodyssey.measures.contrast.pairs import BudgetCells, MethodCells, pairs_of
from peftodyssey.measures.contrast.table import DOMINANCE
from peftodyssey.measures.contrast.verdicts import row_of
from peftodyssey.recipe.numbers import parse_count, parse_number
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
    together = Counter(_family(one) for one, result in zip(found, results, strict=True) if result is not None)
    return [
        row_of(one.coordinates, one.difference, result, together[_family(one)])
        for one, result in zip(found, results, strict=True)
        if one.difference.point.at != DOMINANCE or _cells(one) in dominant
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
    setting = {name: cells[0]["coordinates"].get(name) for name in SETTING} | {"recipe": cells[0]["recipe"]}
    found = []
    for pair in pairs:
        seeds = sorted(pair.first.seeds & pair.second.seeds)
        own = {**setting, "method": pair.first.label, "minus": pair.second.label, "named": pair.named}
        own |= {"seeds": len(seeds), "margin": options["margin"]}
        a, b = (method_means(method, seeds, means) for method in (pair.first, pair.second))
        if a and b:
            both = [*differences(a, b, test, general, len(seeds))]
            both += cell_by_cell(a, b, test, general) if pair.named else ()
            found += [PairDifference(own, one) for one in both]
    return found


def _methods(run: StoredRun, cells: Sequence[Cell], finished: Sequence[Cell]) -> list[MethodCells]:
    labels = dict.fromkeys(cell["coordinates"]["label"] for cell in finished)
    of_labels = ([cell for cell in cells if cell["coordinates"]["label"] == label] for label in labels)
    return [method_cells(own, finished, run) for own in of_labels]


def method_cells(cells: Sequence[Cell], finished: Sequence[Cell], run: StoredRun) -> MethodCells:
    """One method from all of its cells; `finished` are those, of any method, whose losses are stored."""
    numbers = {cell["number"] for cell in finished}
    names = {_budget(cell) for cell in cells if cell["number"] in numbers}
    budgets = {
        name: _of_budget([cell for cell in cells if _budget(cell) == name], numbers, run)
        for name in sorted(names, key=_amount)
    }
    own = cells[0]["coordinates"]
    return MethodCells(own["label"], own["method"], budgets)


def _of_budget(cells: Sequence[Cell], finished: set[int], run: StoredRun) -> BudgetCells:
    done = {_rate_and_seed(cell): cell for cell in cells if cell["number"] in finished}
    others = (cell for cell in cells if cell["number"] not in finished)
    failed = {_rate_and_seed(cell)[0] for cell in others if manifest.failure(run.folder / cell["folder"])}
    return BudgetCells(done, tuple(sorted(failed)), tuple(sorted({_rate_and_seed(cell)[0] for cell in cells})))


def _budget(cell: Cell) -> str:
    """The cell's budget as its plan states it; "" in plans that do not."""
    return str(cell["coordinates"].get("budget") or "")


def _amount(budget: str) -> float:
    """The number of a budget, of which those of one recipe have one unit."""
    amount, _, unit = budget.partition(" ")
    return 0.0 if not budget else parse_number(amount) if unit.startswith("epoch") else parse_count(amount)


def _rate_and_seed(cell: Cell) -> tuple[float, int]:
    return float(cell["coordinates"]["lr"] or 0.0), int(cell["coordinates"]["seed"])


def method_means(method: MethodCells, seeds: Sequence[int], means: Mapping[str, ColumnMeans]) -> list[MethodMeans]:
    """The means of a method at each budget, ascending, of which a rate is finished with all seeds and finite."""
    found = (_of_budget_means(method.label, *item, seeds, means) for item in method.budgets.items())
    return [one for one in found if one is not None]


def _of_budget_means(
    label: str, budget: str, cells: BudgetCells, seeds: Sequence[int], means: Mapping[str, ColumnMeans]
) -> MethodMeans | None:
    def read(split: str, rates: Sequence[float]) -> np.ndarray:
        columns = [[means[split].of(cells.done[lr, seed], split, "after") for seed in seeds] for lr in rates]
        return np.stack([np.stack(of_rate, -1) for of_rate in columns], 1)

    rates = cells.rates(seeds) if seeds else []
    finite = [lr for lr in rates if all(np.isfinite(read(split, [lr])[0]).all() for split in means)]
    if not finite:
        return None
    cell = cells.done[finite[0], seeds[0]]
    base, origin = (
        {split: means[split].of(cell, split, kind) for split in ("test", "general")} for kind in ("before", "quantised")
    )
    return MethodMeans(
        label,
        finite,
        sorted({*rates, *cells.diverged}),
        cells.grid,
        valid=read("valid", finite),
        learning=base["test"][:, None, None] - read("test", finite),
        forgetting=read("general", finite) - base["general"][:, None, None],
        origin=np.stack([base["test"] - origin["test"], origin["general"] - base["general"]], -1),
        budget=budget,
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
    names = ("recipe", "method", "minus", "margin")
    return *(one.coordinates[name] for name in names), *_where(one)


def _family(one: PairDifference) -> tuple[Any, ...]:
    """What the pairs of methods share whose intervals hold together: text, base, and where they are compared."""
    pair = ("method", "minus", "named", "seeds")
    return *(value for name, value in one.coordinates.items() if name not in pair), *_where(one)


def _where(one: PairDifference) -> tuple[Any, ...]:
    """Quantity and point of a difference; levels and rates differ with the text, and count for dominance alone."""
    point = asdict(one.difference.point)
    left_out = {"level"} if point["at"] == DOMINANCE else {"level", "method_lr", "minus_lr"}
    return one.difference.quantity, *(value for name, value in point.items() if name not in left_out)


def _dominant(found: Sequence[PairDifference], results: Sequence[ContrastResult | None]) -> set[tuple[Any, ...]]:
    """The pairs of cells of which both differences are clear, in opposite directions."""
    verdicts: dict[tuple[Any, ...], set[str]] = {}
    for one, result in zip(found, results, strict=True):
        if result is not None and one.difference.point.at == DOMINANCE:
            verdicts.setdefault(_cells(one), set()).add(result.verdict)
    return {cells for cells, words in verdicts.items() if words == {LESS, MORE}}


def _cells(one: PairDifference) -> tuple[Any, ...]:
    return *one.coordinates.values(), *asdict(one.difference.point).values()
