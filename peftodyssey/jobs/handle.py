"""The models that a measure is given: the base alone, the base with a trained method on it, and the update."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.weight_updates import additive_deltas
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import BaseModelKey, CellTask

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Update = Mapping[str, "torch.Tensor"]  # by the base's parameter names, float32 on the CPU


class BaseHandle:
    """Base models without a method, loaded when they are asked for."""

    def __init__(self, key: BaseModelKey, models: LoadedModels) -> None:
        self.key, self.models = key, models

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer of the base."""
        return self.models.tokenizer(self.key)

    def base(self, key: BaseModelKey | None = None) -> PreTrainedModel:
        """The base of the task, or another one; only one is in memory at a time."""
        return self.models.get(key or self.key)

    def adapted(self) -> AttachedMethod:
        """There is none: the task belongs to a base model."""
        raise AssertionError("a task on a base model has no adapted model")

    def update(self, parts: Sequence[str]) -> Update:
        """There is none: the task belongs to a base model."""
        raise AssertionError("a task on a base model has no update")


class CellHandle:
    """One cell's model: with its method on it until `base` is asked for, which takes the method off for good."""

    def __init__(self, task: CellTask, base: PreTrainedModel, tokenizer: TextTokenizer, weights: Path | None) -> None:
        from peftodyssey.models.weight_matrices import PARTS, weight_matrices

        self.tokenizer, self._base = tokenizer, base
        self._method = METHODS[task.cell.method.method]
        self._names = {part: tuple(weight_matrices(base, (part,))) for part in PARTS}  # as they are without the method
        self._updates: dict[tuple[str, ...], Update] = {}
        spec = task.cell.method
        self._attached: AttachedMethod | None = (
            self._method.load(base, weights, spec) if weights else self._method.attach(base, spec, task.cell.seed)
        )

    def adapted(self) -> AttachedMethod:
        """The base with the method on it."""
        assert self._attached is not None, "the method has been taken off"
        return self._attached

    def update(self, parts: Sequence[str]) -> Update:
        """What training added to the matrices of `parts`; unchanged ones are absent. Kept once it was asked for."""
        key = tuple(parts)
        if key not in self._updates:
            names = {name for part in key for name in self._names[part]}
            self._updates[key] = additive_deltas(self.adapted(), names)
        return self._updates[key]

    def base(self, key: BaseModelKey | None = None) -> PreTrainedModel:
        """The base without the method, bit for bit as it was; only its own base can be asked for."""
        assert key is None, "a cell's measures see its own base only"
        if self._attached is not None:
            self._method.detach(self._attached)
            self._attached = None
        return self._base


Handle = BaseHandle | CellHandle


@contextmanager
def attached_method(task: CellTask, base: PreTrainedModel, weights: Path | None = None) -> Iterator[AttachedMethod]:
    """The method on the base, new or from the saved `weights`; removed again at the end."""
    method, spec = METHODS[task.cell.method.method], task.cell.method
    attached = method.load(base, weights, spec) if weights else method.attach(base, spec, task.cell.seed)
    try:
        yield attached
    finally:
        method.detach(attached)


@contextmanager
def cell_handle(
    task: CellTask, base: PreTrainedModel, tokenizer: TextTokenizer, weights: Path | None = None
) -> Iterator[CellHandle]:
    """The cell's method on `base`, new or from the saved `weights`; off again at the end."""
    handle = CellHandle(task, base, tokenizer, weights)
    try:
        yield handle
    finally:
        handle.base()
