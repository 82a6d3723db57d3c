"""What PEFT raises where it cannot do what a recipe asks, as errors of the method."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from peftodyssey.errors import MethodError

# PEFT checks few of the fields that a user may set, and supports some layers only. Its own checks raise ValueError and
# NotImplementedError (a RuntimeError), its tables of model types KeyError. What it does not check fails in the layers:
# TypeError for a value of another kind, AttributeError for a layer without what the type needs, RuntimeError of torch
# for shapes that do not match.
PEFT_ERRORS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)


@contextlib.contextmanager
def as_method_error(what: str, next_step: str) -> Iterator[None]:
    """MethodError, `what` and PEFT's reason, where the body raises PEFT_ERRORS; running out of memory is none."""
    try:
        yield
    except PEFT_ERRORS as error:
        if isinstance(error, MethodError) or is_out_of_memory(error):
            raise
        raise MethodError(f"{what}: {error}", next_step) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether the GPU's memory ran out, which torch reports as a RuntimeError."""
    import torch

    return isinstance(error, torch.OutOfMemoryError)
