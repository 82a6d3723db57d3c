"""Which methods are compared, and the cells of each: by budget, learning rate and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from peftodyssey.store.stored_run import Cell

FREE, LORA, QLORA, TRUNCATE = "full", "lora", "qlora", "truncate"


@dataclass(frozen=True)
class BudgetCells:
    """The cells of one method and budget; those that are pending or were stopped are left out: they bound nothing."""

    done: Mapping[tuple[float, int], Cell]  # by learning rate and seed
    diverged: tuple[float, ...]  # learning rates at which training failed: they bound the best one
    grid: tuple[float, ...]  # all learning rates, also those that are pending or were stopped: these bound nothing

    def rates(self, seeds: Sequence[int]) -> list[float]:
        """The learning rates that are finished with every one of these seeds, ascending."""
        rates = sorted({lr for lr, _ in self.done})
        return [lr for lr in rates if all((lr, seed) in self.done for seed in seeds)]


@dataclass(frozen=True)
class MethodCells:
    """One method on one text and base."""

    label: str
    method: str
    budgets: Mapping[str, BudgetCells]  # ascending, those with a finished cell; "" where it is not known

    @property
    def seeds(self) -> set[int]:
        """The seeds with a finished cell at every budget."""
        of_budgets = [{seed for _, seed in cells.done} for cells in self.budgets.values()]
        return set.intersection(*of_budgets) if of_budgets else set()


@dataclass(frozen=True)
class Pair:
    """Two methods that are compared; named: by the recipe or by default, and not only among all pairs."""

    first: MethodCells
    second: MethodCells
    named: bool


def pairs_of(methods: Sequence[MethodCells], asked: Sequence[Sequence[str]]) -> list[Pair]:
    """The pairs that a recipe names, or else constrained against free, qlora against lora and lora
    against the full update cut to its rank; then all others."""
    wanted = asked or _default_pairs(methods)
    named = {
        (first.label, second.label): Pair(first, second, True)
        for name, other in wanted
        for first in methods
        for second in methods
        if first is not second and name in (first.method, first.label) and other in (second.method, second.label)
        if asked or other == FREE or _options(first) == _options(second)
    }
    others = [
        Pair(first, second, False)
        for first, second in combinations(methods, 2)
        if (first.label, second.label) not in named and (second.label, first.label) not in named
    ]
    return [*named.values(), *others] if named else []


def _default_pairs(methods: Sequence[MethodCells]) -> list[tuple[str, str]]:
    names = list(dict.fromkeys(method.method for method in methods))
    against_full = [(name, FREE) for name in names if name != FREE]
    return [*against_full, (QLORA, LORA), (LORA, TRUNCATE)]


def _options(method: MethodCells) -> str:
    """The label without the method's name."""
    return method.label.removeprefix(method.method)
