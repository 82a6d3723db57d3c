"""AdamW over the trainable parameters, its state as tensors, and gradient clipping. `train.loop` calls it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from peftodyssey.train.settings import TrainSettings

MOMENTS = ("exp_avg", "exp_avg_sq")


def adamw(trainable: Mapping[str, nn.Parameter], settings: TrainSettings) -> torch.optim.AdamW:
    """torch's AdamW with its fused kernel; weight decay on matrices only; all moments allocated from the
    start.

    Moments that exist from the start make running out of memory a matter of forward and backward alone, so
    that a step can be tried again without anything being applied twice.
    """
    matrices = [p for p in trainable.values() if p.ndim >= 2]
    others = [p for p in trainable.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": settings.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in trainable.values())
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=fused,
    )
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


def clip(parameters: Iterable[nn.Parameter], grad_clip: float) -> Tensor:
    """Scales all gradients so that their global norm is at most `grad_clip` (0: never); returns the norm
    before.
    """
    held = [p for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in held if p.grad is not None])
    if grad_clip > 0:
        torch.nn.utils.clip_grads_with_norm_(held, grad_clip, norm)
    return norm


def state_tensors(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's whole state as named tensors, that `load_state_tensors` takes back bit for bit."""
    names = ("step", *MOMENTS)
    return {
        f"adam.{kind}/{name}": optimizer.state[p][kind] for name, p in trainable.items() for kind in names
    }


def load_state_tensors(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Copies what `state_tensors` gave into the optimiser, in place."""
    for kind in ("step", *MOMENTS):
        for name, parameter in trainable.items():
            optimizer.state[parameter][kind].copy_(tensors[f"adam.{kind}/{name}"])
