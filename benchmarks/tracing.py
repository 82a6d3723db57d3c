"""Memory of a training step without a GPU: the real step under torch's fake tensors, every allocation counted.

Fake tensors have shapes, types and lifetimes but no storage, so a 7B model's step runs on any machine in seconds. What
is alive is counted as CUDA's caching allocator counts it, in multiples of 512 bytes. What kernels allocate inside
themselves (attention's workspace, cuBLAS) is not seen. Used by `benchmarks/memory.py` and by the tests of the plan.
"""

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any
from unittest import mock

import torch
from steps import multi_lora_step, own_step, stock_step
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peftodyssey.memory.allocator import Allocator
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.models import base_dropout

ROUNDED_TO_BYTES = 512  # CUDACachingAllocator's smallest block
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        self.plain.alloc(key, size_bytes)
        self.expandable.alloc(key, size_bytes)
        self.largest[key] = (size_bytes, maker)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
            if self.keep_peak:
                self.at_peak = list(self.largest.values())

    def drop(self, key: int) -> None:
        """A storage died."""
        size_bytes, _ = self.largest.pop(key)
        self.live_bytes -= size_bytes
        self.plain.free(key)
        self.expandable.free(key)


class _Counting(TorchDispatchMode):
    """Sees every operator below autograd and enters the storages of what it returns."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger, self.known, self.count = ledger, set(), 0
        self.entries: dict[int, int] = {}  # storage -> its line in the ledger

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.add.Tensor and _by_the_engine(sys._getframe(1)):
            return self.added_in_place(args[0], out)
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
        self.count += 1
        self.entries[key] = self.count
        self.ledger.add(self.count, size_bytes, f"{maker} {tuple(tensor.shape)} {tensor.dtype}")
        weakref.finalize(storage, self._gone, key)

    def added_in_place(self, left: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        """The engine adds gradients of real tensors in place, those of fake ones not: the sum takes over the bytes."""
        old, new = left.untyped_storage()._cdata, out.untyped_storage()
        if old not in self.known:
            self.enter(out, "gradients added")
            return out
        self.known.discard(old)
        self.known.add(new._cdata)
        self.entries[new._cdata] = self.entries.pop(old)
        weakref.finalize(new, self._gone, new._cdata)
        return out

    def _gone(self, key: int) -> None:
        if key in self.known:
            self.known.discard(key)
            self.ledger.drop(self.entries.pop(key))


def _by_the_engine(frame: FrameType | None) -> bool:
    """Whether an operator comes from the autograd engine itself, not from a backward or recomputation in Python."""
    while frame is not None and any(
        part in frame.f_code.co_filename for part in ("_dynamo", "_python_dispatch", "_compile")
    ):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "_engine_run_backward"


@contextlib.contextmanager
def tracing(keep_peak: bool = False) -> Iterator[Ledger]:
    """Everything made inside is fake; the ledger counts it."""
    ledger = Ledger(keep_peak=keep_peak)
    with _real_ways(), FakeTensorMode(allow_non_fake_inputs=True), _Counting(ledger):
        yield ledger


@contextlib.contextmanager
def _real_ways() -> Iterator[None]:
    """transformers takes fake tensors for an export and then masks what it would not mask in a real step of whole
    blocks.
    """
    from transformers import masking_utils

    with (
        mock.patch.object(torch.nn.Module, "_apply", _apply),
        mock.patch.object(masking_utils, "is_tracing", return_value=False),
        mock.patch.object(masking_utils, "find_packed_sequence_indices", return_value=None),
    ):
        yield


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

    from peftodyssey.models import varlen_attention
    from peftodyssey.models.load import linear_names

    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    for name in linear_names(model) if quant else ():
        model.set_submodule(name, _four_bit(model.get_submodule(name), dtype, quant))
    if quant:
        model.is_loaded_in_4bit = True
    model.config.use_cache = False
    varlen_attention.install(model)
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
        state2 = QuantState(
            absmax=torch.empty(-(-blocks // 256)), code=torch.empty(256), blocksize=256, dtype=torch.float32
        )
    else:
        absmax, offset = torch.empty(blocks), None
    stored = bnb.nn.Linear4bit.__new__(bnb.nn.Linear4bit)
    torch.nn.Module.__init__(stored)
    stored.in_features, stored.out_features = columns, rows
    stored.weight = torch.nn.Parameter(
        torch.empty((rows * columns + 1) // 2, 1, dtype=torch.uint8), requires_grad=False
    )
    stored.weight.compress_statistics, stored.weight.quant_type, stored.weight.blocksize = (
        quant.double_quant,
        quant.kind,
        64,
    )
    stored.weight.quant_state = QuantState(
        absmax=absmax,
        shape=torch.Size((rows, columns)),
        code=torch.empty(16),
        blocksize=64,
        quant_type=quant.kind,
        dtype=dtype,
        offset=offset,
        state2=state2,
    )
    stored.bias, stored.compute_dtype, stored.compute_type_is_set = module.bias, dtype, True
    stored.quant_state, stored.quant_storage, stored.support_avx512bf16_for_cpu = (
        stored.weight.quant_state,
        torch.uint8,
        False,
    )
    return stored


@dataclass(frozen=True)
class Traced:
    """What a step took: the peak of what was alive and what the caching allocator would have reserved, in bytes."""

    peak_allocated_bytes: int
    peak_reserved_bytes: int
    at_peak: tuple[tuple[int, str], ...]  # bytes and maker of everything alive at the peak, where asked for


def traced_step(
    config: Any, step: StepSpec, keep_peak: bool = False, dropout: dict[str, float] | None = None
) -> Traced:
    """Two training steps of `step` on the model of `config`, as they would be on a GPU.

    `dropout`: what the config stated before it was taken out, for a step with dropout.
    """
    with tracing(keep_peak) as ledger:
        model = fake_model(
            config, DTYPES["fp32" if step.full and step.master == "fp32" else step.precision], step.quant
        )
        base_dropout.remember(model, dropout or {})
        ledger.plain, ledger.expandable = _laid_out(ledger, False), _laid_out(ledger, True)
        ledger.reset_peak()
        with _answers() if step.engine == "native" else contextlib.nullcontext():
            (stock_step if step.engine == "stock" else multi_lora_step if step.multi_lora_size > 1 else own_step)(
                model, step
            )
    allocator = ledger.expandable if step.engine == "native" else ledger.plain
    return Traced(ledger.peak_bytes, allocator.peak_reserved_bytes, tuple(ledger.at_peak))


@contextlib.contextmanager
def _answers() -> Iterator[None]:
    """Where the loop reads numbers off the device, fake tensors have none to give: it gets ones."""
    import bitsandbytes as bnb

    from peftodyssey.models import lm_head, patching, quantised, varlen_attention
    from peftodyssey.multi_lora import trainer
    from peftodyssey.training import checkpoint

    with (
        mock.patch.object(trainer, "on_host", _not_kept),
        mock.patch.object(checkpoint, "save", _not_written),
        mock.patch.object(patching, "_is_close", return_value=True),
        mock.patch.object(quantised, "is_4bit", lambda module: isinstance(module, bnb.nn.Linear4bit)),
        mock.patch.object(torch.Tensor, "tolist", lambda tensor: [1.0] * tensor.numel()),
        mock.patch.object(torch.Tensor, "item", return_value=1.0),
        mock.patch.object(lm_head, "_gives_logits", return_value=True),
        mock.patch.object(
            varlen_attention, "_bucketed_sdpa", varlen_attention._flash_varlen
        ),  # what a GPU would do; fake weights lie on no GPU
    ):
        yield


def _not_written(*_: object) -> None:
    """Stands for the writing of a state: there is nothing to write, and a Mock would hold the tensors."""


def _not_kept(_: object) -> None:
    """Stands for a copy in host memory, which is not counted; a Mock would hold the tensors."""


def _laid_out(ledger: Ledger, expandable: bool) -> Allocator:
    """An allocator that holds what is alive now, in the order in which it was made."""
    allocator = Allocator(expandable)
    for key, (size_bytes, _) in ledger.largest.items():
        allocator.alloc(key, size_bytes)
    return allocator
