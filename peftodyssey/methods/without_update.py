"""A trained model as it was before training, for as long as it is needed: the adapter off, or the weights put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from peftodyssey.methods.attached import AttachedMethod


@contextlib.contextmanager
def without_update(attached: AttachedMethod) -> Iterator[None]:
    """The model computes what the base does; afterwards it is bit for bit what it was.

    A quantised base stays quantised. Weights that the initialisation of an adapter changed are put back too.
    """
    with contextlib.ExitStack() as stack:
        if attached.is_adapter:
            stack.enter_context(attached.model.disable_adapter())
        trained = {}
        for name, stored in attached.base_weights.items():
            parameter = _parameter(attached, name)
            trained[name] = parameter.data
            parameter.data = stored.to(parameter.device, parameter.dtype)
        try:
            yield
        finally:
            for name, data in trained.items():
                _parameter(attached, name).data = data


def _parameter(attached: AttachedMethod, name: str) -> Any:
    """A weight by its name in the base, which an adapter may have wrapped."""
    module, _, key = name.rpartition(".")
    owner: Any = attached.base.get_submodule(module)
    return getattr(owner.get_base_layer() if hasattr(owner, "get_base_layer") else owner, key)
