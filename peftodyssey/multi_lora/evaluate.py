"""A fleet at rest: finished LoRA adapters side by side on their base, to be scored in one pass. `jobs.fleet` calls
`moored`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from peftodyssey.models.patching import patch_model_on_cuda
from peftodyssey.multi_lora import state as banking
from peftodyssey.multi_lora.adapters import Adapter, InitialState
from peftodyssey.multi_lora.linear import patch_linears
from peftodyssey.training.dropout import SeededDropout


@contextlib.contextmanager
def attach_adapters_for_eval(
    model: nn.Module, adapters: Sequence[Adapter], device: torch.device, compute: torch.dtype | None
) -> Iterator[list[int]]:
    """`model` for batches that hold equal rows for each adapter; the value: which adapter each share of the rows meets.

    `compute`: type of the products, None for the adapters' own.
    """
    starts = {number: InitialState(replace(adapter, dropout=0.0), None) for number, adapter in enumerate(adapters)}
    banks = banking.stack_adapters(starts, device)
    for berth in banks.berths:
        berth.grads, berth.moments = berth.grads.new_empty(0), (berth.grads.new_empty(0), berth.grads.new_empty(0))
    banks.update_compute_copies(compute)
    with (
        patch_model_on_cuda(model, compute, device),
        patch_linears(model, lambda: banks, SeededDropout()),
    ):  # lean first: it tries the base's own modules
        yield banks.order
