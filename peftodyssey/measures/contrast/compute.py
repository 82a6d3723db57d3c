"""Values per seed and resample of a pair of methods: at their own best rates, at equal learning, and cell by cell.

Arrays begin with [1 + resamples]: the text itself, then its resamples, drawn alike for every cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.measures.contrast.table import BUDGETS, RATES
from peftodyssey.stats import lr_selection
from peftodyssey.stats.learning_path import forgetting_at

SHARES = (0.25, 0.5, 0.75)  # of the learning that every seed of both methods reaches
MIN_ENDS = 2  # of a path: through one it is a straight line


@dataclass(frozen=True)
class MethodMeans:
    """One method at one budget: means in nats per token, float64 [1 + resamples, rates, seeds]."""

    label: str
    rates: Sequence[float]  # ascending
    tried: Sequence[float]  # with those that diverged
    grid: Sequence[float]  # with those that are pending or were stopped
    valid: np.ndarray  # NLL of validation text after training
    learning: np.ndarray  # fall of test NLL from the unquantised base
    forgetting: np.ndarray  # rise of general NLL from the unquantised base
    origin: np.ndarray  # [1 + resamples, 2]: learning and forgetting before training, not 0 on a quantised base
    budget: str = ""

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

    def unresolved(self, where: str = "") -> str:
        """Why the best rate is not known, with what would make it known, or an empty string."""
        grid, best = sorted(set(self.grid)), self.best_rate
        if len(grid) < 2:
            rates = ", ".join(_rounded(best * factor) for factor in (1 / 3, 1, 3))
            return f"{self.label}{where} has one learning rate ({best:g}), which is untuned: tune it over {rates}"
        edge = lr_selection.edge(best, grid, self.tried)
        if edge is None:
            return ""
        start = f"the best learning rate of {self.label}{where}"
        if edge == lr_selection.UNMEASURED:
            return f"{start} ({best:g}) has a neighbour that was not trained to the end"
        neighbour = grid[1] if edge == lr_selection.LOW else grid[-2]
        return f"{start} is at the {edge} edge of its grid ({best:g}): add {_rounded(best * best / neighbour)}"


def _rounded(rate: float) -> str:
    """A learning rate to one digit."""
    return f"{float(f'{rate:.0e}'):g}"


@dataclass(frozen=True)
class EqualLearning:
    """Differences of forgetting at levels of learning."""

    levels: np.ndarray  # [levels], nats per token
    differences: np.ndarray  # [1 + resamples, seeds, levels]


def path_over(*methods: Sequence[MethodMeans]) -> str:
    """What the ends of the methods' paths differ in: budgets where a method has several, else learning rates."""
    return BUDGETS if any(len(method) > 1 for method in methods) else RATES


def ends(method: Sequence[MethodMeans], over: str) -> np.ndarray:
    """Learning and forgetting of each end of a method's path, float64 [1 + resamples, ends, seeds, 2].

    Over budgets, an end is that of a budget at its best rate, selected anew in each resample; over learning rates, that
    of a rate at the only budget.
    """
    if over == BUDGETS:
        pairs = [[one.at_best(values) for values in (one.learning, one.forgetting)] for one in method]
        return np.stack([np.stack(pair, -1) for pair in pairs], 1)
    return np.stack([method[0].learning, method[0].forgetting], -1)


def equal_learning(first: Sequence[MethodMeans], second: Sequence[MethodMeans], over: str) -> EqualLearning | None:
    """Forgetting of `first` minus `second` at SHARES of what every seed of both learned on the text itself.

    None where the methods have no learning in common.
    """
    levels = common_levels([first, second], over)
    if levels is None:
        return None
    difference = along_path(first, over, levels) - along_path(second, over, levels)
    return None if np.isnan(difference).any() else EqualLearning(levels, difference)


def common_levels(methods: Sequence[Sequence[MethodMeans]], over: str) -> np.ndarray | None:
    """Levels of learning [levels], nats per token: SHARES of what every seed of all methods learned; None: nothing."""
    common = min(float(ends(method, over)[0, :, :, 0].max(0).min()) for method in methods)
    start = max(0.0, *(float(method[0].origin[0, 0]) for method in methods))
    return start + np.array(SHARES) * (common - start) if common > start else None


def along_path(method: Sequence[MethodMeans], over: str, levels: np.ndarray) -> np.ndarray:
    """Forgetting along each seed's path, [1 + resamples, seeds, levels]."""
    path, origin = ends(method, over), method[0].origin
    n, n_ends, seeds, _ = path.shape
    flat = forgetting_at(
        np.repeat(origin[:, None], seeds, axis=1).reshape(-1, 2),
        path.transpose(0, 2, 1, 3).reshape(-1, n_ends, 2),
        levels,
    )
    return flat.reshape(n, seeds, len(levels))
