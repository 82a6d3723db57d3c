"""AdamW for weights whose float32 copies, gradients or moments find no room: piece by piece, in 8 bits, on the host.

Made by `train.optim` where the settings or the weights' type ask for it. The arithmetic is torch.optim.AdamW's in
float32; weights in bfloat16 are rounded stochastically, moments may be kept in 8 bits. Hosted, each gradient leaves the
device as soon as the backward pass has made it, and moments come to the device for their update only; the result is the
same.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from peftodyssey.training import moments
from peftodyssey.training.rounding import stochastic_round_bf16

MOST_LEAVING = 2  # gradients on their way to the host, which the card still holds
PIECE_NUMBERS = 8 << 20  # of one update: 32 MiB in float32, a multiple of moments.BLOCK


class LowMemoryAdamW(torch.optim.Optimizer):
    """AdamW whose `step` takes the gradients of `gather`; moments lie on the device, or on the host where `hosted`."""

    def __init__(
        self,
        groups: list[dict[str, Any]],
        names: Mapping[nn.Parameter, str],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        eight_bit: bool,
        hosted: bool,
        seed: int,
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})
        self.names, self.offload, self.seed = dict(names), hosted, seed
        self.scale: Tensor | float = 1.0  # of all gradients at the next step: what clipping leaves of them
        self._waiting: dict[nn.Parameter, Tensor] = {}  # hosted gradients
        self._norms: dict[nn.Parameter, Tensor] = {}
        self._side: torch.cuda.Stream | None = None  # on which gradients leave while the backward pass goes on
        self._leaving: deque[tuple[torch.cuda.Event, Tensor, Tensor | None]] = deque()
        for parameter in self.names:
            pinned = hosted and parameter.device.type == "cuda"
            place = {"pin_memory": True} if pinned else {"device": "cpu" if hosted else parameter.device}
            state = moments.empty(parameter.numel(), eight_bit, parameter.dtype, place)
            self.state[parameter] = {"step": torch.zeros((), dtype=torch.float32), **state}

    def hooks(self) -> list[RemovableHandle]:
        """Has each gradient leave as soon as it is made, where hosted; until the handles are removed."""
        return [p.register_post_accumulate_grad_hook(self._offload_grad) for p in self.names] if self.offload else []

    def _offload_grad(self, parameter: nn.Parameter) -> None:
        """A gradient goes to the host, added to what waits there; on a card beside the backward pass, on a stream of
        its own.
        """
        gradient = parameter.grad
        assert gradient is not None
        parameter.grad = None
        if gradient.device.type != "cuda":
            self._accumulate_on_host(
                parameter, gradient, torch.empty_like(gradient) if parameter in self._norms else None
            )
            return
        current = torch.cuda.current_stream(gradient.device)
        self._side = self._side or torch.cuda.Stream(gradient.device)
        while len(self._leaving) >= MOST_LEAVING:  # what has left is free for the backward pass from here on
            current.wait_event(self._leaving.popleft()[0])
        room = torch.empty_like(gradient) if parameter in self._norms else None
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            self._accumulate_on_host(parameter, gradient, room)
            self._leaving.append((self._side.record_event(), gradient, room))

    def _accumulate_on_host(self, parameter: nn.Parameter, gradient: Tensor, room: Tensor | None) -> None:
        """`gradient` into its place on the host; `room`: where what waits there is brought back to be added to."""
        if room is not None:
            gradient.add_(room.copy_(self._waiting[parameter], non_blocking=True))
        elif parameter not in self._waiting:
            pinned = gradient.device.type == "cuda"
            self._waiting[parameter] = torch.empty(gradient.shape, dtype=gradient.dtype, pin_memory=pinned)
        self._waiting[parameter].copy_(gradient, non_blocking=True)
        self._norms[parameter] = _norm(gradient)

    def _sync_offload(self) -> None:
        """What follows on the device comes after the last gradient has left."""
        if self._side is not None:
            torch.cuda.current_stream(self._side.device).wait_stream(self._side)
        self._leaving.clear()

    def grad_norm(self) -> Tensor:
        """The global norm of this step's gradients, a float32 scalar on the device."""
        self._sync_offload()
        norms = self._norms or {p: _norm(p.grad) for p in self.names if p.grad is not None}
        return torch.linalg.vector_norm(torch.stack([norms[p] for p in self.names if p in norms]))

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """Updates every parameter that has a gradient."""
        assert closure is None
        for group in self.param_groups:
            for parameter in group["params"]:
                gradient = self._waiting.get(parameter) if parameter in self._norms else parameter.grad
                if gradient is not None:
                    self._update(parameter, gradient.reshape(-1), group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forgets the gradients, hosted ones too."""
        self._sync_offload()
        super().zero_grad(set_to_none)
        self._norms.clear()
        self.scale = 1.0

    def _update(self, parameter: nn.Parameter, gradient: Tensor, group: Mapping[str, Any]) -> None:
        state, (beta1, beta2), lr = self.state[parameter], group["betas"], group["lr"]
        state["step"] += 1
        step = float(state["step"])
        weights, device = parameter.data.view(-1), parameter.device
        for begin in range(0, weights.numel(), PIECE_NUMBERS):
            end = min(begin + PIECE_NUMBERS, weights.numel())
            grads = gradient[begin:end].to(device, torch.float32, non_blocking=True) * self.scale
            first, second = (moments.read(state, kind, begin, end, device) for kind in moments.KINDS)
            first.lerp_(grads, 1 - beta1)
            second.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
            wide = weights[begin:end].to(torch.float32, copy=True).mul_(1 - lr * group["weight_decay"])
            denominator = second.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
            wide.addcdiv_(first, denominator, value=-lr / (1 - beta1**step))
            self._put(parameter, weights, begin, wide, int(step))
            for kind, moment in zip(moments.KINDS, (first, second), strict=True):
                moments.write(state, kind, begin, moment)

    def _put(self, parameter: nn.Parameter, weights: Tensor, begin: int, wide: Tensor, step: int) -> None:
        if weights.dtype != torch.bfloat16:
            weights[begin : begin + wide.numel()] = wide
            return
        key = f"{self.seed} {step} {self.names[parameter]} {begin}".encode()
        generator = torch.Generator(weights.device)
        generator.manual_seed(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1)
        weights[begin : begin + wide.numel()] = stochastic_round_bf16(wide, generator)


def _norm(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient, dtype=torch.float32)


def clip(optimizer: LowMemoryAdamW, grad_clip: float) -> Tensor:
    """Has the next step use gradients of at most this global norm (0: any); returns the norm before."""
    norm = optimizer.grad_norm()
    if grad_clip > 0:
        optimizer.scale = torch.clamp(grad_clip / (norm + 1e-6), max=1.0)
    return norm
