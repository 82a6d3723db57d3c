"""Which methods are compared, and the cells of each: by learning rate and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peftodyssey.store.stored_run import Cell

FREE, LORA, QLORA = "full", "lora", "qlora"


@dataclass(frozen=True)
class MethodCells:
    """One method on one text and base."""

    label: str
    method: str
    done: Mapping[tuple[float, int], Cell]  # by learning rate and seed
    diverged: tuple[float, ...]  # learning rates at which training failed: they bound the best one
    grid: tuple[float, ...]  # all learning rates, also those that are pending or were stopped: these bound nothing

    @property
    def seeds(self) -> set[int]:
        """The seeds with a finished cell."""
        return {seed for _, seed in self.done}

    def rates(self, seeds: Sequence[int]) -> list[float]:
        """The learning rates that are finished with every one of these seeds, ascending."""
        rates = sorted({lr for lr, _ in self.done})
        return [lr for lr in rates if all((lr, seed) in self.done for seed in seeds)]


def pairs_of(methods: Sequence[MethodCells], asked: Sequence[Sequence[str]]) -> list[tuple[MethodCells, MethodCells]]:
    """The pairs that a recipe asks for, or else: constrained against free, and qlora against lora."""
    wanted = asked or _default_pairs(methods)
    found = [
        (first, second)
        for name, other in wanted
        for first in methods
        for second in methods
        if first is not second and name in (first.method, first.label) and other in (second.method, second.label)
        if asked or other == FREE or _options(first) == _options(second)
    ]
    return list({(id(first), id(second)): (first, second) for first, second in found}.values())


def _default_pairs(methods: Sequence[MethodCells]) -> list[tuple[str, str]]:
    names = list(dict.fromkeys(method.method for method in methods))
    against_full = [(name, FREE) for name in names if name != FREE]
    return [*against_full, (QLORA, LORA)]


def _options(method: MethodCells) -> str:
    """The label without the method's name."""
    return method.label.removeprefix(method.method)
