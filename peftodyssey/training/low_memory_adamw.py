"""AdamW with less memory: updates in chunks, bf16 weights without float32 copies, 8-bit moments, offload to the host.

The arithmetic is torch.optim.AdamW's in float32; bf16 weights are rounded stochastically. With offload, each gradient
leaves the device as soon as the backward pass has made it, and moments come to the device for their update only; the
result has the same bits.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from peftodyssey.training.settings import TrainSettings

MAX_GRADIENTS_IN_TRANSIT = 2  # gradients on their way to the host, which the GPU still holds
CHUNK_ELEMENTS = 8 << 20  # of one update: 32 MiB in float32, a multiple of QUANT_BLOCK
MOMENTS = ("exp_avg", "exp_avg_sq")
QUANT_BLOCK = 256  # elements of a moment that share a scale
MIN_8BIT_ELEMENTS = 4096  # smaller tensors keep their moments in float32, as in bitsandbytes
DROPPED_BITS = 16  # of a float32 that is cut to a bfloat16


class LowMemoryAdamW(torch.optim.Optimizer):
    """AdamW with its moments on the parameters' device, or in host memory with `settings.offload_optimizer`."""

    def __init__(
        self, groups: Iterable[dict[str, Any]], names: Mapping[nn.Parameter, str], settings: TrainSettings
    ) -> None:
        super().__init__(groups, {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps})
        self.names, self.offload, self.seed = dict(names), settings.offload_optimizer, settings.seed
        self.grad_scale: Tensor | float = 1.0  # applied to all gradients at the next step, by clipping
        self._host_grads: dict[nn.Parameter, Tensor] = {}
        self._grad_norms: dict[nn.Parameter, Tensor] = {}  # of the offloaded gradients of this step
        self._offload_stream: torch.cuda.Stream | None = None  # copies gradients during the backward pass
        self._in_transit: deque[tuple[torch.cuda.Event, Tensor, Tensor | None]] = deque()
        for parameter in self.names:
            pinned = self.offload and parameter.device.type == "cuda"
            where = {"pin_memory": True} if pinned else {"device": "cpu" if self.offload else parameter.device}
            moments = zero_moments(parameter.numel(), settings.optimizer == "adamw8bit", parameter.dtype, where)
            self.state[parameter] = {"step": torch.zeros((), dtype=torch.float32), **moments}

    def register_offload_hooks(self) -> list[RemovableHandle]:
        """With offload, copies each gradient to the host as soon as it is made, until the handles are removed."""
        return [p.register_post_accumulate_grad_hook(self._offload_grad) for p in self.names] if self.offload else []

    def _offload_grad(self, parameter: nn.Parameter) -> None:
        """Moves a gradient to the host, added to those of earlier micro-batches; on a GPU on a stream of its own."""
        grad = parameter.grad
        assert grad is not None
        parameter.grad = None
        if grad.device.type != "cuda":
            self._accumulate_on_host(parameter, grad, torch.empty_like(grad) if parameter in self._grad_norms else None)
            return
        current = torch.cuda.current_stream(grad.device)
        self._offload_stream = self._offload_stream or torch.cuda.Stream(grad.device)
        while len(self._in_transit) >= MAX_GRADIENTS_IN_TRANSIT:  # their memory is free for the backward pass from here
            current.wait_event(self._in_transit.popleft()[0])
        buffer = torch.empty_like(grad) if parameter in self._grad_norms else None
        self._offload_stream.wait_stream(current)
        with torch.cuda.stream(self._offload_stream):
            self._accumulate_on_host(parameter, grad, buffer)
            self._in_transit.append((self._offload_stream.record_event(), grad, buffer))

    def _accumulate_on_host(self, parameter: nn.Parameter, grad: Tensor, buffer: Tensor | None) -> None:
        """Adds `grad` to the host's sum; `buffer`: on the device, takes the sum of earlier micro-batches."""
        if buffer is not None:
            grad.add_(buffer.copy_(self._host_grads[parameter], non_blocking=True))
        elif parameter not in self._host_grads:
            pinned = grad.device.type == "cuda"
            self._host_grads[parameter] = torch.empty(grad.shape, dtype=grad.dtype, pin_memory=pinned)
        self._host_grads[parameter].copy_(grad, non_blocking=True)
        self._grad_norms[parameter] = _norm(grad)

    def _sync_offload(self) -> None:
        """Orders what follows on the device after the last copied gradient."""
        if self._offload_stream is not None:
            torch.cuda.current_stream(self._offload_stream.device).wait_stream(self._offload_stream)
        self._in_transit.clear()

    def grad_norm(self) -> Tensor:
        """The global norm of this step's gradients, a float32 scalar on the device."""
        self._sync_offload()
        norms = self._grad_norms or {p: _norm(p.grad) for p in self.names if p.grad is not None}
        return torch.linalg.vector_norm(torch.stack([norms[p] for p in self.names if p in norms]))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Updates every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                grad = self._host_grads.get(parameter) if parameter in self._grad_norms else parameter.grad
                if grad is not None:
                    self._update(parameter, grad.reshape(-1), group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drops the gradients, offloaded ones too."""
        self._sync_offload()
        super().zero_grad(set_to_none)
        self._grad_norms.clear()
        self.grad_scale = 1.0

    def _update(self, parameter: nn.Parameter, grad: Tensor, group: Mapping[str, Any]) -> None:
        state, (beta1, beta2), lr = self.state[parameter], group["betas"], group["lr"]
        state["step"] += 1
        step = float(state["step"])
        weights, device = parameter.data.view(-1), parameter.device
        for begin in range(0, weights.numel(), CHUNK_ELEMENTS):
            end = min(begin + CHUNK_ELEMENTS, weights.numel())
            grads = grad[begin:end].to(device, torch.float32, non_blocking=True) * self.grad_scale
            exp_avg, exp_avg_sq = (read_moment(state, name, begin, end, device) for name in MOMENTS)
            exp_avg.lerp_(grads, 1 - beta1)
            exp_avg_sq.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
            updated = weights[begin:end].to(torch.float32, copy=True).mul_(1 - lr * group["weight_decay"])
            denominator = exp_avg_sq.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
            updated.addcdiv_(exp_avg, denominator, value=-lr / (1 - beta1**step))
            if weights.dtype == torch.bfloat16:
                updated = stochastic_round_bf16(updated, self._generator(parameter, int(step), begin))
            weights[begin:end] = updated
            for name, moment in zip(MOMENTS, (exp_avg, exp_avg_sq), strict=True):
                write_moment(state, name, begin, moment)

    def _generator(self, parameter: nn.Parameter, step: int, begin: int) -> torch.Generator:
        """Random numbers that depend on the seed, the step and the place of the chunk alone."""
        key = f"{self.seed} {step} {self.names[parameter]} {begin}".encode()
        generator = torch.Generator(parameter.device)
        generator.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)
        return generator


def clip(optimizer: LowMemoryAdamW, grad_clip: float) -> Tensor:
    """Scales the gradients of the next step to at most this global norm (0: no limit); returns the norm before."""
    norm = optimizer.grad_norm()
    if grad_clip > 0:
        optimizer.grad_scale = torch.clamp(grad_clip / (norm + 1e-6), max=1.0)
    return norm


def _norm(grad: Tensor) -> Tensor:
    return torch.linalg.vector_norm(grad, dtype=torch.float32)


def zero_moments(elements: int, eight_bit: bool, dtype: torch.dtype, where: Mapping[str, object]) -> dict[str, Tensor]:
    """Both moments of `elements` numbers at zero, as named tensors; `where`: keyword arguments of torch.zeros.

    In 8 bits: block-wise quantization by bitsandbytes' dynamic map, signed for the first moment and unsigned for the
    second (Dettmers et al., arXiv 2110.02861).
    """
    if not eight_bit or elements < MIN_8BIT_ELEMENTS:
        dtype = torch.float32 if elements < MIN_8BIT_ELEMENTS else dtype
        return {name: torch.zeros(elements, dtype=dtype, **where) for name in MOMENTS}  # type: ignore[call-overload]
    moments = {}
    for name in MOMENTS:
        zero = int(torch.argmin(_quant_map(name, torch.device("cpu")).abs()))
        scales = -(-elements // QUANT_BLOCK)
        moments[name] = torch.zeros(elements, dtype=torch.uint8, **where).fill_(zero)  # type: ignore[call-overload]
        moments[f"{name}.scale"] = torch.zeros(scales, dtype=torch.float32, **where)  # type: ignore[call-overload]
    return moments


def read_moment(state: Mapping[str, Tensor], name: str, begin: int, end: int, device: torch.device) -> Tensor:
    """Elements `begin` (a multiple of QUANT_BLOCK) to `end` of a moment in float32 on `device`."""
    stored = state[name][begin:end].to(device, non_blocking=True)
    if stored.dtype != torch.uint8:
        return stored.to(torch.float32) if stored.dtype in (torch.bfloat16, torch.float16) else stored.clone()
    from bitsandbytes.functional import dequantize_blockwise

    scale = state[f"{name}.scale"][begin // QUANT_BLOCK : -(-end // QUANT_BLOCK)].to(device, non_blocking=True)
    return dequantize_blockwise(stored, absmax=scale, code=_quant_map(name, device), blocksize=QUANT_BLOCK)


def write_moment(state: Mapping[str, Tensor], name: str, begin: int, moment: Tensor) -> None:
    """Stores float32 elements of a moment from `begin` on."""
    end = begin + moment.numel()
    if state[name].dtype != torch.uint8:
        state[name][begin:end].copy_(moment, non_blocking=True)
        return
    from bitsandbytes.functional import quantize_blockwise

    stored, quant_state = quantize_blockwise(moment, code=_quant_map(name, moment.device), blocksize=QUANT_BLOCK)
    state[name][begin:end].copy_(stored, non_blocking=True)
    scales = state[f"{name}.scale"][begin // QUANT_BLOCK : -(-end // QUANT_BLOCK)]
    scales.copy_(quant_state.absmax, non_blocking=True)


@cache
def _quant_map(name: str, device: torch.device) -> Tensor:
    from bitsandbytes.functional import create_dynamic_map

    return create_dynamic_map(signed=name == MOMENTS[0]).to(device)


def stochastic_round_bf16(values: Tensor, generator: torch.Generator) -> Tensor:
    """float32 `values` as bfloat16: each rounded up or down at random, such that the mean is kept.

    Rounding to nearest loses an update below a bf16 weight's resolution; stochastic rounding applies it now and then
    (Gupta et al., arXiv 1502.02551; for bf16 training Zamirai et al., arXiv 2010.06192).
    """
    noise = torch.randint(
        0, 1 << DROPPED_BITS, values.shape, dtype=torch.int32, device=values.device, generator=generator
    )
    bits = (values.contiguous().view(torch.int32) + noise) & -(1 << DROPPED_BITS)
    return bits.view(torch.float32).to(torch.bfloat16)
