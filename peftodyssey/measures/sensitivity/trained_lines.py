"""What training a method costs along a ladder: at its best rate on each rung, at one rate, and at equal learning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from peftodyssey.display.ladder_text import format_tokens
from peftodyssey.display.result_text import grouped
from peftodyssey.measures.contrast.collect import SETTING, method_cells, method_means
from peftodyssey.measures.contrast.column_means import SPLITS, ColumnMeans, column_means
from peftodyssey.measures.contrast.compute import MethodMeans, along_path, common_levels, path_over
from peftodyssey.measures.contrast.differences import Clusters, no_path, no_reach
from peftodyssey.measures.contrast.pairs import FREE, MethodCells
from peftodyssey.measures.contrast.table import BUDGETS, EQUAL_LEARNING, FORGETTING, LEARNING, OWN_RATE
from peftodyssey.measures.sensitivity.lines import BySeed, Line, Row, common_seeds, difference
from peftodyssey.measures.sensitivity.table import ONE_RATE
from peftodyssey.store.stored_run import Cell, StoredRun

Rungs = Mapping[int, Sequence[MethodMeans]]  # by pretraining tokens: the method at each budget, ascending
NO_LEARNING = "the rungs have no learning in common"


@dataclass(frozen=True)
class TrainedText:
    """One text adapted to, on the bases of one ladder and arm."""

    coordinates: Row
    methods: Mapping[str, Mapping[int, MethodCells]]  # by label, then by pretraining tokens
    means: Mapping[str, ColumnMeans]  # by split

    def clusters(self, split: str) -> Clusters:
        """Those of a split."""
        return Clusters(self.means[split].clusters, self.means[split].effective_clusters)

    def rungs(self, label: str, seeds: Sequence[int]) -> Rungs:
        """The means of a method at the rungs where every one of these seeds is finished at some rate."""
        found = {tokens: method_means(cells, seeds, self.means) for tokens, cells in self.methods[label].items()}
        return {tokens: method for tokens, method in sorted(found.items()) if method}

    def base(self, label: str, tokens: int, split: str) -> np.ndarray:
        """NLL of the unquantised base of a rung, float64 [1 + resamples]."""
        cell = next(iter(next(iter(self.methods[label][tokens].budgets.values())).done.values()))
        return self.means[split].of(cell, split, "before")


def trained_texts(run: StoredRun) -> list[TrainedText]:
    """Every text whose bases have known pretraining tokens, with a general text to forget."""

    def ladder(cell: Cell) -> tuple[Any, ...]:
        own, scores = cell["coordinates"], cell["scores"]
        indexes = (scores["test"]["index"], *(text["index"] for text in scores["general"]))
        names = [own.get(name) for name in SETTING if name != "revision"]
        return cell["recipe"], own.get("arm"), *names, *indexes

    known = [
        cell
        for cell in run.cells
        if cell["coordinates"].get("pretrain_tokens") and cell["coordinates"].get("lr") is not None
        if cell["scores"].get("general") and cell["scores"].get("valid")
    ]
    done = {cell["number"] for cell in run.done}
    found = []
    for cells in grouped(known, ladder).values():
        finished = [cell for cell in cells if cell["number"] in done]
        if finished:
            found.append(_text(run, cells, finished))
    return found


def _text(run: StoredRun, cells: Sequence[Cell], finished: Sequence[Cell]) -> TrainedText:
    own = finished[0]["coordinates"]
    coordinates = {name: own.get(name) for name in ("model", "arm", "domain", "newline")}
    methods: dict[str, dict[int, MethodCells]] = {}
    of_rung = grouped(cells, lambda cell: (cell["coordinates"]["label"], cell["coordinates"]["pretrain_tokens"]))
    for (label, tokens), members in of_rung.items():
        method = method_cells(members, finished, run)
        if method.budgets:
            methods.setdefault(label, {})[tokens] = method
    means = {split: column_means(run, finished, split) for split in SPLITS}
    return TrainedText({**coordinates, "recipe": finished[0]["recipe"]}, methods, means)


def text_lines(text: TrainedText) -> Iterator[Line]:
    """Each method by itself, then full fine-tuning less every other one."""
    for label in text.methods:
        yield from _method_lines(text, label, _seeds(text, label))
    references = [label for label in text.methods if label.split(" ")[0] == FREE]
    for first, second in product(references, [label for label in text.methods if label not in references]):
        yield from _pair_lines(text, first, second)


def _seeds(text: TrainedText, *labels: str) -> tuple[int, ...]:
    """The seeds that all rungs of all these methods have."""
    return common_seeds([dict.fromkeys(cells.seeds) for label in labels for cells in text.methods[label].values()])


def _method_lines(text: TrainedText, label: str, seeds: Sequence[int]) -> Iterator[Line]:
    rungs = text.rungs(label, seeds)
    if not rungs:
        return
    for budget in _common_budgets(rungs):
        own = {tokens: [one for one in method if one.budget == budget] for tokens, method in rungs.items()}
        rates = _common_rates(own)
        if any(len(set(method[0].tried)) > 1 for method in own.values()):
            yield from _raw_lines(text, label, seeds, own, None)
        else:
            rates = rates[:1]
        for lr in rates:
            yield from _raw_lines(text, label, seeds, own, lr)
    over = path_over(*rungs.values())
    yield _at_equal_learning(text, label, seeds, rungs, over, common_levels(list(rungs.values()), over))


def _common_budgets(rungs: Rungs) -> list[str]:
    """The budgets that all rungs have, in the order of the first."""
    common = set.intersection(*({one.budget for one in method} for method in rungs.values()))
    return [one.budget for one in next(iter(rungs.values())) if one.budget in common]


def _common_rates(rungs: Rungs) -> list[float]:
    """The rates that all rungs have, of one budget."""
    return sorted(set.intersection(*({float(lr) for lr in method[0].rates} for method in rungs.values())))


def _raw_lines(text: TrainedText, label: str, seeds: Sequence[int], rungs: Rungs, lr: float | None) -> Iterator[Line]:
    """Forgetting and the change on the text adapted to, at one budget, and one rate or the best of each rung (None)."""
    reasons = _unresolved(rungs) if lr is None else ()
    for quantity, split in ((FORGETTING, "general"), (LEARNING, "test")):

        def change(method: Sequence[MethodMeans], quantity: str = quantity) -> np.ndarray:
            (one,) = method
            values = one.forgetting if quantity == FORGETTING else -one.learning
            return one.at_best(values) if lr is None else values[:, list(one.rates).index(lr)]

        changes = _by_seed(rungs, seeds, change)
        losses = {
            tokens: {seed: value + text.base(label, tokens, split) for seed, value in of_seeds.items()}
            for tokens, of_seeds in changes.items()
        }
        coordinates = _coordinates(text, quantity, label, OWN_RATE if lr is None else ONE_RATE)
        coordinates |= {"lr": lr, "budget": next(iter(rungs.values()))[0].budget or None}
        yield Line(coordinates, changes, text.clusters(split), losses, reasons)


def _at_equal_learning(
    text: TrainedText, label: str, seeds: Sequence[int], rungs: Rungs, over: str, levels: np.ndarray | None
) -> Line:
    """Forgetting as a mean over levels of learning that all rungs have in common."""
    few = min(text.clusters("test"), text.clusters("general"), key=lambda clusters: clusters.effective)
    coordinates = _coordinates(text, FORGETTING, label, EQUAL_LEARNING)
    reasons = [
        f"at {format_tokens(tokens)}: {why}"
        for tokens, method in rungs.items()
        for why in (no_path(method, over), *no_reach([method], text.clusters("test")))
        if why
    ]
    if over == BUDGETS:
        reasons += _unresolved(rungs)
    if levels is None or any(len(method) < 2 for method in rungs.values() if over == BUDGETS):
        return Line(coordinates, {}, few, None, (*reasons, *(() if reasons else (NO_LEARNING,))))
    forgetting = _by_seed(rungs, seeds, lambda method: along_path(method, over, levels).mean(2))
    if any(np.isnan(value).any() for of_seeds in forgetting.values() for value in of_seeds.values()):
        return Line(coordinates, {}, few, None, (*reasons, NO_LEARNING))
    return Line(coordinates | {"level": float(levels.mean())}, forgetting, few, None, tuple(reasons))


def _pair_lines(text: TrainedText, first: str, second: str) -> Iterator[Line]:
    """The first method less the second, at their best rates and at learning that all rungs of both have in common."""
    seeds = _seeds(text, first, second)
    both = {label: text.rungs(label, seeds) for label in (first, second)}
    common = set(both[first]) & set(both[second])
    if len(common) < 2:
        return
    rungs = {label: {tokens: own[tokens] for tokens in own if tokens in common} for label, own in both.items()}
    lines: dict[str, list[Line]] = {first: [], second: []}
    for budget in _common_budgets({tokens: [*rungs[first][tokens]] for tokens in common}):
        if budget in _common_budgets(rungs[second]):
            for label, own in rungs.items():
                at = {tokens: [one for one in method if one.budget == budget] for tokens, method in own.items()}
                lines[label] += _raw_lines(text, label, seeds, at, None)
    methods = [method for own in rungs.values() for method in own.values()]
    over = path_over(*methods)
    levels = common_levels(methods, over)
    for label, own in rungs.items():
        lines[label].append(_at_equal_learning(text, label, seeds, own, over, levels))
    for one, other in zip(lines[first], lines[second], strict=True):
        coordinates = {**one.coordinates, "minus": second}
        reasons = tuple(dict.fromkeys((*one.reasons, *other.reasons)))
        yield difference(coordinates, one, other) or Line(coordinates, {}, one.clusters, None, reasons)


def _by_seed(
    rungs: Rungs, seeds: Sequence[int], value: Callable[[Sequence[MethodMeans]], np.ndarray]
) -> dict[int, BySeed]:
    return {tokens: dict(zip(seeds, value(method).T, strict=True)) for tokens, method in rungs.items()}


def _unresolved(rungs: Rungs) -> tuple[str, ...]:
    """Why the best rate is not known, by rung and, where there are several, by budget."""
    places = ((tokens, one, len(method) > 1) for tokens, method in rungs.items() for one in method)
    return tuple(
        f"at {format_tokens(tokens)}: {why}"
        for tokens, one, several in places
        if (why := one.unresolved(f" at {one.budget}" if several else ""))
    )


def _coordinates(text: TrainedText, quantity: str, label: str, at: str) -> Row:
    own = {"quantity": quantity, "intervention": label, "minus": None, "compared_at": at}
    corpus = text.coordinates["domain"] if quantity == LEARNING else "general"
    return {**text.coordinates, **own, "corpus": corpus, **dict.fromkeys(("gamma", "lr", "budget", "level"))}
