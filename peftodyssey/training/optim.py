"""The optimiser over the trainable parameters, its state as tensors, and gradient clipping. `train.loop` calls it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peftodyssey.training import low_memory_adamw
from peftodyssey.training.settings import TrainSettings

MOMENTS = ("exp_avg", "exp_avg_sq")
HALF_DTYPES = (torch.bfloat16, torch.float16)


def build_optimizer(trainable: Mapping[str, nn.Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    """AdamW, weight decay on matrices only; torch's own with its fused kernel where nothing speaks against it.

    All moments exist from the start, which makes running out of memory a matter of forward and backward alone, so that
    a step can be tried again without anything being applied twice.
    """
    matrices = [p for p in trainable.values() if p.ndim >= 2]
    others = [p for p in trainable.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    narrow = any(p.dtype in HALF_DTYPES for p in trainable.values())
    if settings.optimizer == "adamw" and not narrow and not settings.offload_optimizer:
        return _fused_adamw(groups, trainable, settings)
    return low_memory_adamw.LowMemoryAdamW(
        groups,
        {p: name for name, p in trainable.items()},
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        eight_bit=settings.optimizer == "adamw8bit",
        hosted=settings.offload_optimizer,
        seed=settings.seed,
    )


@contextlib.contextmanager
def offload_hooks(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """In the body a hosted optimiser takes each gradient as soon as it is made."""
    hooks = optimizer.hooks() if isinstance(optimizer, low_memory_adamw.LowMemoryAdamW) else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


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


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The learning rate of the next update, for all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def clip(optimizer: torch.optim.Optimizer, grad_clip: float) -> Tensor:
    """Scales all gradients so that their global norm is at most `grad_clip` (0: never); returns the norm
    before.
    """
    if isinstance(optimizer, low_memory_adamw.LowMemoryAdamW):
        return low_memory_adamw.clip(optimizer, grad_clip)
    held = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in held])
    if grad_clip > 0:
        torch.nn.utils.clip_grads_with_norm_(held, grad_clip, norm)
    return norm


def state_tensors(optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimiser's whole state as named tensors, that `load_state_tensors` takes back bit for bit."""
    if isinstance(optimizer, low_memory_adamw.LowMemoryAdamW) and optimizer.offload and torch.cuda.is_available():
        torch.cuda.synchronize()  # its tensors in host memory are written by copies still under way
    return {
        f"adam.{kind}/{name}": tensor for name, p in trainable.items() for kind, tensor in optimizer.state[p].items()
    }


def load_state_tensors(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Copies what `state_tensors` gave into the optimiser, in place."""
    for name, own in state_tensors(optimizer, trainable).items():
        own.copy_(tensors[name])
