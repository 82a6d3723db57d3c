"""What TRL and the Trainer do to a model that they are given, undone. `train.trl_bridge` calls it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn


@contextlib.contextmanager
def restore_dtypes(trainable: Mapping[str, nn.Parameter]) -> Iterator[Callable[[], None]]:
    """SFTTrainer casts the adapters of a quantised base to bf16 when it is built: the function given
    undoes that.
    """
    kept = {name: parameter.data for name, parameter in trainable.items()}

    def restore() -> None:
        for name, parameter in trainable.items():
            parameter.data = kept[name]

    yield restore


@contextlib.contextmanager
def restore_forwards(model: nn.Module) -> Iterator[None]:
    """Takes off what the Trainer leaves on a model: replaced forwards, recomputation. It stays in training
    mode.
    """
    forwards = {module: module.__dict__.get("forward") for module in model.modules()}
    try:
        yield
    finally:
        for module, forward in forwards.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
        pretrained: Any = model
        pretrained.gradient_checkpointing_disable()
