"""Values per seed and resample of a pair of methods: at their own best rates, at equal learning, and cell by cell.

Arrays begin with [1 + resamples]: the text itself, then its resamples, drawn alike for every cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.stats import lr_selection
from peftodyssey.stats.learning_path import forgetting_at

SHARES = (0.25, 0.5, 0.75)  # of the learning that every seed of both methods reaches
MIN_RATES = 2  # of a path: through one cell it is a straight line


@dataclass(frozen=True)
class MethodMeans:
    """One method: means in nats per token, float64 [1 + resamples, rates, seeds]."""

    label: str
    rates: Sequence[float]  # ascending
    tried: Sequence[float]  # with those that diverged
    grid: Sequence[float]  # with those that are pending or were stopped
    valid: np.ndarray  # NLL of validation text after training
    learning: np.ndarray  # fall of test NLL from the unquantised base
    forgetting: np.ndarray  # rise of general NLL from the unquantised base
    origin: np.ndarray  # [1 + resamples, 2]: learning and forgetting before training, not 0 on a quantised base

    @property
    def best(self) -> np.ndarray:
        """The rate that is best on validation text, pooled over seeds: int [1 + resamples], positions in `rates`."""
        return np.asarray(self.valid.mean(2).argmin(1))

    @property
    def best_rate(self) -> float:
        """The best rate on the text itself."""
        return float(self.rates[self.best[0]])

    def at_best(self, values: np.ndarray) -> np.ndarray:
        """`values` at the best rate of each resample, [1 + resamples, seeds]."""
        return np.asarray(np.take_along_axis(values, self.best[:, None, None], axis=1)[:, 0])

    def unresolved(self) -> str:
        """Why the best rate is not known, or an empty string."""
        if len(set(self.grid)) < 2:
            return f"{self.label} has one rate only: untuned"
        edge = lr_selection.edge(self.best_rate, self.grid, self.tried)
        if edge == lr_selection.UNMEASURED:
            return f"a neighbour of the rate of {self.label} ({self.best_rate:g}) was not trained to the end"
        return f"the rate of {self.label} is at the {edge} edge of its grid ({self.best_rate:g})" if edge else ""


@dataclass(frozen=True)
class EqualLearning:
    """Differences of forgetting at levels of learning; none where the methods have no learning in common."""

    levels: np.ndarray  # [levels], nats per token
    differences: np.ndarray  # [1 + resamples, seeds, levels]


def equal_learning(first: MethodMeans, second: MethodMeans) -> EqualLearning | None:
    """Forgetting of `first` minus `second` at SHARES of what every seed of both learned on the text itself."""
    common = min(float(method.learning[0].max(0).min()) for method in (first, second))
    start = max(0.0, *(float(method.origin[0, 0]) for method in (first, second)))
    if common <= start:
        return None
    levels = start + np.array(SHARES) * (common - start)
    difference = _paths(first, levels) - _paths(second, levels)
    return None if np.isnan(difference).any() else EqualLearning(levels, difference)


def _paths(method: MethodMeans, levels: np.ndarray) -> np.ndarray:
    """Forgetting along each seed's path, [1 + resamples, seeds, levels]."""
    n, rates, seeds = method.learning.shape
    pairs = np.stack([method.learning, method.forgetting], -1).transpose(0, 2, 1, 3)
    origin = np.repeat(method.origin[:, None], seeds, axis=1)
    flat = forgetting_at(origin.reshape(-1, 2), pairs.reshape(-1, rates, 2), levels)
    return flat.reshape(n, seeds, len(levels))
