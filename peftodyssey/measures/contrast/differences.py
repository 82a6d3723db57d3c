"""The differences of one pair of methods on one text and base, before their variances over seeds are pooled."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from peftodyssey.measures.contrast.compute import MIN_RATES, SHARES, MethodMeans, equal_learning
from peftodyssey.measures.contrast.table import DOMINANCE, EQUAL_LEARNING, FORGETTING, LEARNING, OWN_RATE
from peftodyssey.stats.bootstrap import MIN_DOCUMENTS
from peftodyssey.stats.contrast import LEVEL, MIN_SEEDS, Parts, contrasts, parts


@dataclass(frozen=True)
class Clusters:
    """How many clusters the texts of a quantity have: of the text with the fewest."""

    number: int
    effective: float


@dataclass(frozen=True)
class Difference:
    """One row of the table, but for its interval and verdict."""

    quantity: str
    at: str
    parts: Parts | None  # None: there is no estimate
    clusters: Clusters
    reasons: tuple[str, ...] = ()  # why the methods are not comparable
    level: float | None = None
    share: float | None = None
    method_lr: float | None = None
    minus_lr: float | None = None
    confidence: float = LEVEL


def differences(
    first: MethodMeans, second: MethodMeans, test: Clusters, general: Clusters, seeds: int
) -> list[Difference]:
    """All differences of `first` - `second`."""
    few = () if seeds >= MIN_SEEDS else (f"{seeds} seed{'s' * (seeds > 1)}: a verdict takes {MIN_SEEDS}",)
    both = min(test, general, key=lambda clusters: clusters.effective)
    return [
        *_at_own_rates(first, second, (test, general), few),
        *_at_equal_learning(first, second, both, test, few),
        *_cell_by_cell(first, second, test, general),
    ]


def too_few(clusters: Clusters) -> tuple[str, ...]:
    """A reason where a text has too few clusters for an interval."""
    if clusters.effective >= MIN_DOCUMENTS - 1e-9:
        return ()
    of = "" if clusters.effective > clusters.number - 0.5 else f" of {clusters.number}"
    return (f"{clusters.effective:.0f} effective clusters{of}: an interval takes {MIN_DOCUMENTS}",)


def _at_own_rates(
    first: MethodMeans, second: MethodMeans, clusters: tuple[Clusters, Clusters], few: tuple[str, ...]
) -> Iterator[Difference]:
    unresolved = tuple(why for method in (first, second) if (why := method.unresolved()))
    values = (first.learning, second.learning), (first.forgetting, second.forgetting)
    for quantity, text, (own, other) in zip((LEARNING, FORGETTING), clusters, values, strict=True):
        difference = parts(first.at_best(own) - second.at_best(other), text.effective)
        reasons = (*unresolved, *few, *too_few(text))
        rates = first.best_rate, second.best_rate
        yield Difference(quantity, OWN_RATE, difference, text, reasons, None, None, *rates)


def _at_equal_learning(
    first: MethodMeans, second: MethodMeans, clusters: Clusters, test: Clusters, few: tuple[str, ...]
) -> Iterator[Difference]:
    reasons = (*_no_path(first, second), *_no_reach(first, second, test), *few, *too_few(clusters))
    found = equal_learning(first, second)
    if found is None:
        reasons = reasons or ("they have no learning in common",)
        yield Difference(FORGETTING, EQUAL_LEARNING, None, clusters, reasons)
        return
    mean = parts(found.differences.mean(2), clusters.effective)
    yield Difference(FORGETTING, EQUAL_LEARNING, mean, clusters, reasons)
    for i, share in enumerate(SHARES):
        at_level = parts(found.differences[:, :, i], clusters.effective)
        level = float(found.levels[i])
        yield Difference(FORGETTING, EQUAL_LEARNING, at_level, clusters, reasons, level, share)


def _no_path(*methods: MethodMeans) -> Iterator[str]:
    for method in methods:
        if len(method.rates) < MIN_RATES:
            yield f"{method.label} has one rate only: no path"


def _no_reach(first: MethodMeans, second: MethodMeans, test: Clusters) -> Iterator[str]:
    for method in (first, second):
        own = parts(method.at_best(method.learning), test.effective)
        (reached,) = contrasts([own], 1.0)
        if not reached.lower > 0:
            bounds = f"{reached.estimate:+.4f} [{reached.lower:+.4f}, {reached.upper:+.4f}]"
            yield f"{method.label} learned nothing that is clear of 0 ({bounds})"


def _cell_by_cell(first: MethodMeans, second: MethodMeans, test: Clusters, general: Clusters) -> Iterator[Difference]:
    """Learning and forgetting of each cell of one method less each of the other, for dominance."""
    searched = 2 * len(first.rates) * len(second.rates)
    confidence = 1 - (1 - LEVEL) / searched
    if too_few(test) or too_few(general) or first.learning.shape[2] < MIN_SEEDS:
        return
    for i, j in product(range(len(first.rates)), range(len(second.rates))):
        rates = None, None, float(first.rates[i]), float(second.rates[j]), confidence
        learning = first.learning[:, i] - second.learning[:, j]
        forgetting = first.forgetting[:, i] - second.forgetting[:, j]
        if np.sign(learning[0].mean()) == np.sign(forgetting[0].mean()):
            continue
        yield Difference(LEARNING, DOMINANCE, parts(learning, test.effective), test, (), *rates)
        yield Difference(FORGETTING, DOMINANCE, parts(forgetting, general.effective), general, (), *rates)
