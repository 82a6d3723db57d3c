"""Memory of a training step without a card: the real step under torch's fake tensors, every allocation counted.

Fake tensors have shapes, types and lifetimes but no storage, so a 7B model's step runs on any machine in seconds. What
is alive is counted as CUDA's caching allocator counts it, in multiples of 512 bytes. What kernels allocate inside
themselves (attention's workspace, cuBLAS) is not seen. Used by `benchmarks/memory.py` and by the tests of the plan.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peftodyssey.plan.allocator import Allocator

ROUNDED_TO_BYTES = 512  # CUDACachingAllocator's smallest block


@dataclass
class Ledger:
    """Live bytes now, their highest value, and (where wanted) what was alive at that moment."""

    live_bytes: int = 0
    peak_bytes: int = 0
    largest: dict[int, tuple[int, str]] = field(default_factory=dict)  # storage -> bytes, maker
    at_peak: list[tuple[int, str]] = field(default_factory=list)
    keep_peak: bool = False
    plain: Allocator = field(default_factory=Allocator)
    expandable: Allocator = field(default_factory=lambda: Allocator(expandable=True))

    def reset_peak(self) -> None:
        """Start again from what is alive."""
        self.peak_bytes = self.live_bytes
        self.at_peak = []
        for allocator in (self.plain, self.expandable):
            allocator.peak_reserved_bytes = allocator.reserved_bytes

    def add(self, key: int, size_bytes: int, maker: str) -> None:
        """A storage came into being."""
        self.live_bytes += size_bytes
        self.plain.allocate(key, size_bytes)
        self.expandable.allocate(key, size_bytes)
        self.largest[key] = (size_bytes, maker)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
            if self.keep_peak:
                self.at_peak = list(self.largest.values())

    def drop(self, key: int) -> None:
        """A storage died."""
        size_bytes, _ = self.largest.pop(key)
        self.live_bytes -= size_bytes
        self.plain.release(key)
        self.expandable.release(key)


class _Counting(TorchDispatchMode):
    """Sees every operator below autograd and enters the storages of what it returns."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger, self.known = ledger, set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                self.enter(leaf, str(func))
        return out

    def enter(self, tensor: torch.Tensor, maker: str) -> None:
        """Count the tensor's storage once, until it dies."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known:
            return
        size_bytes = -(-storage.nbytes() // ROUNDED_TO_BYTES) * ROUNDED_TO_BYTES
        if not size_bytes:
            return
        self.known.add(key)
        self.ledger.add(key, size_bytes, f"{maker} {tuple(tensor.shape)} {tensor.dtype}")
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.known.discard(key)
        self.ledger.drop(key)


@contextlib.contextmanager
def tracing(keep_peak: bool = False) -> Iterator[Ledger]:
    """Everything made inside is fake; the ledger counts it."""
    ledger = Ledger(keep_peak=keep_peak)
    with mock.patch.object(torch.nn.Module, "_apply", _apply), FakeTensorMode(allow_non_fake_inputs=True), _Counting(ledger):
        yield ledger


def _apply(module: torch.nn.Module, change: Any, recurse: bool = True) -> torch.nn.Module:
    """`Module.to` and its kin for fake weights, which torch's own cannot swap in place."""
    for child in module.children() if recurse else ():
        _apply(child, change)
    for name, parameter in list(module._parameters.items()):
        if parameter is not None and (changed := change(parameter.detach())).dtype != parameter.dtype:
            module._parameters[name] = torch.nn.Parameter(changed, parameter.requires_grad)
    for name, buffer in list(module._buffers.items()):
        if buffer is not None:
            module._buffers[name] = change(buffer)
    return module


def fake_model(config: Any, dtype: torch.dtype, quant: Any = None) -> Any:
    """A causal language model of fake weights, its linear maps in bitsandbytes' 4-bit form where `quant` says so."""
    from transformers import AutoModelForCausalLM

    from peftodyssey.models.load import linear_names

    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name in linear_names(model) if quant else ():
        model.set_submodule(name, _four_bit(model.get_submodule(name), dtype, quant))
    if quant:
        model.is_loaded_in_4bit = True
    model.config.use_cache = False
    model.requires_grad_(False)
    return model.train()


def _four_bit(module: torch.nn.Module, dtype: torch.dtype, quant: Any) -> torch.nn.Module:
    """bitsandbytes' Linear4bit around a weight that is fake: its own Params4bit cannot be."""
    import bitsandbytes as bnb
    from bitsandbytes.functional import QuantState

    weight = module.weight.T if hasattr(module, "nf") else module.weight
    rows, columns = weight.shape
    blocks = -(-rows * columns // 64)
    state2 = None
    if quant.double_quant:
        absmax, offset = torch.empty(blocks, dtype=torch.uint8), torch.empty(())
        state2 = QuantState(absmax=torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32)
    else:
        absmax, offset = torch.empty(blocks), None
    stored = bnb.nn.Linear4bit.__new__(bnb.nn.Linear4bit)
    torch.nn.Module.__init__(stored)
    stored.in_features, stored.out_features = columns, rows
    stored.weight = torch.nn.Parameter(torch.empty((rows * columns + 1) // 2, 1, dtype=torch.uint8), requires_grad=False)
    stored.weight.compress_statistics, stored.weight.quant_type, stored.weight.blocksize = quant.double_quant, quant.kind, 64
    stored.weight.quant_state = QuantState(
        absmax=absmax, shape=torch.Size((rows, columns)), code=torch.empty(16), blocksize=64,
        quant_type=quant.kind, dtype=dtype, offset=offset, state2=state2,
    )  # fmt: skip
    stored.bias, stored.compute_dtype, stored.compute_type_is_set = module.bias, dtype, True
    stored.quant_state, stored.quant_storage, stored.support_avx512bf16_for_cpu = stored.weight.quant_state, torch.uint8, False
    return stored
