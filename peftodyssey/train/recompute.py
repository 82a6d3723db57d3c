"""What the forward pass keeps for the backward pass: everything, all but the feed-forwards, or the layers' inputs alone.

`train.loop` trains inside `policy`. What is not kept is computed again by torch's non-reentrant checkpointing, with the
same random numbers, so that the policy changes memory and time but no result.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

FEED_FORWARD = "mlp"  # the name of the feed-forward in a decoder layer, in every family that has one module for it
LEANER = {"none": "selective", "selective": "full"}  # the next policy where one block does not fit


@contextlib.contextmanager
def policy(model: nn.Module, recompute: str, *, offload: bool = False) -> Iterator[None]:
    """The model in training mode; `recompute` is none, selective (feed-forwards) or full (decoder layers).

    With `offload` what stands between the layers waits in pinned host memory where the model lies on a CUDA device.
    A model without feed-forward modules takes `full` for `selective`.
    """
    pretrained: Any = model
    model.train()
    feeds = feed_forwards(model) if recompute == "selective" else []
    if recompute == "full" or (recompute == "selective" and not feeds):
        pretrained.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if offload:
            _offload_inputs(model)
        try:
            yield
        finally:
            pretrained.gradient_checkpointing_disable()
        return
    for module in feeds:
        module.forward = functools.partial(checkpoint, module.forward, use_reentrant=False)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in feeds:
            del module.forward  # the class's own shows again


def feed_forwards(model: nn.Module) -> list[nn.Module]:
    """The feed-forward module of every decoder layer, where the family has one."""
    return [module for name, module in model.named_modules() if name.rpartition(".")[2] == FEED_FORWARD]


def _offload_inputs(model: nn.Module) -> None:
    """Every checkpointed module saves its input on the host."""
    for module in model.modules():
        if run := getattr(module, "_gradient_checkpointing_func", None):
            module._gradient_checkpointing_func = functools.partial(_with_inputs_on_host, run)


def _with_inputs_on_host(run: Callable[..., Any], *args: Any) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(_to_host, _from_host):
        return run(*args)


def _to_host(tensor: Tensor) -> tuple[torch.device, Tensor]:
    """The copy is ordered behind what fills the tensor and before what reuses its memory: all on one stream."""
    if tensor.device.type != "cuda":
        return tensor.device, tensor
    host = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=True)
    return tensor.device, host.copy_(tensor, non_blocking=True)


def _from_host(kept: tuple[torch.device, Tensor]) -> Tensor:
    device, tensor = kept
    return tensor.to(device, non_blocking=True)
