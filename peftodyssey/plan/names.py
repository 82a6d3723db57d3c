"""Readable parts of folder names. Called by `plan.build` and `plan.tasks`."""

from __future__ import annotations

from peftodyssey.recipe.cell import Cell, ModelSpec
from peftodyssey.store import layout


def model(point: ModelSpec) -> str:
    """The base in short: the last part of its name, and its revision."""
    return layout.slug(point.name.rsplit("/", 1)[-1], point.revision)


def cell(point: Cell) -> str:
    """Text, policy, base, method, learning rate and seed of a cell."""
    lr = None if point.method.lr is None else f"lr{point.method.lr:g}"
    policy = None if point.domain.newline == "keep" else point.domain.newline
    return layout.slug(point.domain.name, policy, model(point.model), point.method.label, lr, f"s{point.seed}")
