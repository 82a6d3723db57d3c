"""The differences of one pair of methods on one text and base, before their variances over seeds are pooled.

A method is the sequence of its means at each budget, ascending.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from peftodyssey.measures.contrast.compute import MIN_ENDS, SHARES, MethodMeans, equal_learning, path_over
from peftodyssey.measures.contrast.table import (
    BUDGETS,
    DOMINANCE,
    EQUAL_LEARNING,
    FORGETTING,
    LEARNING,
    OWN_RATE,
)
from peftodyssey.stats.bootstrap import MIN_DOCUMENTS
from peftodyssey.stats.contrast import LEVEL, MIN_SEEDS, Parts, contrasts, parts

Method = Sequence[MethodMeans]


@dataclass(frozen=True)
class Clusters:
    """How many clusters the texts of a quantity have: of the text with the fewest."""

    number: int
    effective: float


@dataclass(frozen=True)
class Point:
    """Where methods are compared, as the columns of the table say it."""

    at: str
    path: str | None = None  # of equal learning: what the ends of the paths differ in
    level: float | None = None
    share: float | None = None
    method_budget: str | None = None
    minus_budget: str | None = None
    method_lr: float | None = None
    minus_lr: float | None = None


@dataclass(frozen=True)
class Difference:
    """One row of the table, but for its interval and verdict."""

    quantity: str
    point: Point
    parts: Parts | None  # None: there is no estimate
    clusters: Clusters
    reasons: tuple[str, ...] = ()  # why the methods are not comparable
    confidence: float = LEVEL
    storage: float | None = None  # part of the estimate that storage of a quantised base makes up


def differences(first: Method, second: Method, test: Clusters, general: Clusters, seeds: int) -> list[Difference]:
    """The differences of `first` - `second` at their own best rates and at equal learning."""
    missing = MIN_SEEDS - seeds
    few = () if missing <= 0 else (f"{seeds} seed{'s' * (seeds > 1)}, and a verdict takes {MIN_SEEDS}: add {missing}",)
    both = min(test, general, key=lambda clusters: clusters.effective)
    return [
        *_at_own_rates(first, second, (test, general), few),
        *_at_equal_learning(first, second, both, test, few),
    ]


def too_few(clusters: Clusters) -> tuple[str, ...]:
    """A reason where a text has too few clusters for an interval."""
    if clusters.effective >= MIN_DOCUMENTS - 1e-9:
        return ()
    of = "" if clusters.effective > clusters.number - 0.5 else f" of {clusters.number}"
    more = "raise score.tokens, or hold more documents out"
    return (
        f"{clusters.effective:.0f} effective clusters{of} are scored and an interval takes {MIN_DOCUMENTS}: {more}",
    )


def _at_own_rates(
    first: Method, second: Method, clusters: tuple[Clusters, Clusters], few: tuple[str, ...]
) -> Iterator[Difference]:
    several = path_over(first, second) == BUDGETS
    for a, b in ((a, b) for a in first for b in second if a.budget == b.budget):
        where = f" at {a.budget}" if several else ""
        unresolved = tuple(why for method in (a, b) if (why := method.unresolved(where)))
        point = Point(
            OWN_RATE,
            method_budget=a.budget or None,
            minus_budget=b.budget or None,
            method_lr=a.best_rate,
            minus_lr=b.best_rate,
        )
        values = (a.learning, b.learning), (a.forgetting, b.forgetting)
        for axis, (quantity, text, (own, other)) in enumerate(
            zip((LEARNING, FORGETTING), clusters, values, strict=True)
        ):
            difference = parts(a.at_best(own) - b.at_best(other), text.effective)
            reasons = (*unresolved, *few, *too_few(text))
            storage = _storage(a, b, axis)
            yield Difference(quantity, point, difference, text, reasons, storage=storage)


def _storage(first: MethodMeans, second: MethodMeans, axis: int) -> float | None:
    """What storage of quantised bases adds to a difference of learning (axis 0) or forgetting; None: none is."""
    if not (first.origin[0].any() or second.origin[0].any()):
        return None
    return float(first.origin[0, axis] - second.origin[0, axis])


def _at_equal_learning(
    first: Method, second: Method, clusters: Clusters, test: Clusters, few: tuple[str, ...]
) -> Iterator[Difference]:
    over = path_over(first, second)
    without = tuple(why for method in (first, second) if (why := no_path(method, over)))
    reasons = (*without, *_unresolved(first, second, over), *no_reach([first, second], test), *few, *too_few(clusters))
    found = None if without and over == BUDGETS else equal_learning(first, second, over)
    if found is None:
        reasons = reasons or ("the methods have no learning in common",)
        yield Difference(FORGETTING, Point(EQUAL_LEARNING, over), None, clusters, reasons)
        return
    mean = parts(found.differences.mean(2), clusters.effective)
    yield Difference(FORGETTING, Point(EQUAL_LEARNING, over), mean, clusters, reasons)
    for i, share in enumerate(SHARES):
        at_level = parts(found.differences[:, :, i], clusters.effective)
        yield Difference(
            FORGETTING, Point(EQUAL_LEARNING, over, float(found.levels[i]), share), at_level, clusters, reasons
        )


def no_path(method: Method, over: str) -> str:
    """Why a method has no path of learning and forgetting, or an empty string."""
    n_ends = len(method) if over == BUDGETS else len(method[0].rates)
    what = "budget" if over == BUDGETS else "learning rate"
    return f"{method[0].label} has one {what} only, and a path takes {MIN_ENDS}: add one" if n_ends < MIN_ENDS else ""


def _unresolved(first: Method, second: Method, over: str) -> Iterator[str]:
    """Budgets whose best rate is not known: their ends are then worse than the method's. A path over rates has all."""
    if over == BUDGETS:
        for means in (*first, *second):
            if why := means.unresolved(f" at {means.budget}"):
                yield why


def no_reach(methods: Sequence[Method], test: Clusters) -> Iterator[str]:
    """Which methods learned nothing that is clear of 0: they cannot be compared at equal learning."""
    for method in methods:
        learned = [means.at_best(means.learning) for means in method]
        (reached,) = contrasts([parts(max(learned, key=lambda values: values[0].mean()), test.effective)], 1.0)
        if not reached.lower > 0:
            bounds = f"{reached.estimate:+.4f} [{reached.lower:+.4f}, {reached.upper:+.4f}]"
            yield f"{method[0].label} learned nothing that is clear of 0 ({bounds}), so there is nothing to compare at"


def cell_by_cell(first: Method, second: Method, test: Clusters, general: Clusters) -> Iterator[Difference]:
    """Learning and forgetting of each cell of one method less each of the other, for dominance."""
    cells, others = ([(means, i) for means in method for i in range(len(means.rates))] for method in (first, second))
    confidence = 1 - (1 - LEVEL) / (2 * len(cells) * len(others))
    if too_few(test) or too_few(general) or first[0].learning.shape[2] < MIN_SEEDS:
        return
    for (a, i), (b, j) in product(cells, others):
        learning = a.learning[:, i] - b.learning[:, j]
        forgetting = a.forgetting[:, i] - b.forgetting[:, j]
        if np.sign(learning[0].mean()) == np.sign(forgetting[0].mean()):
            continue
        budgets = a.budget or None, b.budget or None
        point = Point(DOMINANCE, None, None, None, *budgets, float(a.rates[i]), float(b.rates[j]))
        for quantity, values, text in ((LEARNING, learning, test), (FORGETTING, forgetting, general)):
            axis = int(quantity == FORGETTING)
            yield Difference(quantity, point, parts(values, text.effective), text, (), confidence, _storage(a, b, axis))
