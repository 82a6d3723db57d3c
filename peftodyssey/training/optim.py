"""The optimizer over the trainable parameters, its state as tensors, and gradient clipping."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftodyssey.training import low_memory_adamw
from peftodyssey.training.low_memory_adamw import MOMENTS, LowMemoryAdamW
from peftodyssey.training.settings import TrainSettings

HALF_DTYPES = (torch.bfloat16, torch.float16)


def build_optimizer(trainable: Mapping[str, nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW, weight decay on matrices only; torch's fused one unless weights, settings or offload rule it out.

    All moments exist from the start, so that only forward and backward passes can run out of memory, and a step can be
    retried without any update applied twice.
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable.values() if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trainable.values() if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    half = any(p.dtype in HALF_DTYPES for p in trainable.values())
    if settings.optimizer == "adamw" and not half and not settings.offload_optimizer:
        return _fused_adamw(groups, trainable, settings)
    return LowMemoryAdamW(groups, {p: name for name, p in trainable.items()}, settings)


def _fused_adamw(
    groups: list[dict[str, Any]], trainable: Mapping[str, nn.Parameter], settings: TrainSettings
) -> torch.optim.AdamW:
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trainable.values())
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=fused)
    for parameter in trainable.values():
        device = parameter.device if fused else "cpu"
        optimizer.state[parameter] = {
            "step": torch.zeros((), dtype=torch.float32, device=device),
            **{name: torch.zeros_like(parameter, memory_format=torch.preserve_format) for name in MOMENTS},
        }
    return optimizer


@contextlib.contextmanager
def offload_hooks(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """In the body an optimizer with offload takes each gradient to the host as soon as it is made."""
    handles = optimizer.register_offload_hooks() if isinstance(optimizer, LowMemoryAdamW) else []
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of the next update in all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip(optimizer: torch.optim.Optimizer, grad_clip: float) -> Tensor:
    """Scales all gradients to a global norm of at most `grad_clip` (0: no limit); returns the norm before."""
    if isinstance(optimizer, LowMemoryAdamW):
        return low_memory_adamw.clip(optimizer, grad_clip)
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
    if grad_clip > 0:
        torch.nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
    return norm


def state_tensors(optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's whole state as named tensors, for `load_state_tensors`."""
    if isinstance(optimizer, LowMemoryAdamW) and optimizer.offload and torch.cuda.is_available():
        torch.cuda.synchronize()  # copies to its tensors in host memory may be under way
    return {f"adam.{key}/{name}": tensor for name, p in trainable.items() for key, tensor in optimizer.state[p].items()}


def load_state_tensors(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Copies what `state_tensors` gave into the optimizer, in place, bit for bit."""
    for name, tensor in state_tensors(optimizer, trainable).items():
        tensor.copy_(tensors[name])
