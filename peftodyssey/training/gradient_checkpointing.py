"""Gradient checkpointing: which activations the forward pass keeps for the backward pass, and where.

What is not kept is recomputed by torch's non-reentrant checkpointing with the same random numbers, so that memory and
time change but no result does.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

FEED_FORWARD = "mlp"  # the name of the feed-forward in a decoder layer, in every family that has one module for it


@contextlib.contextmanager
def checkpointed_model(model: nn.Module, gradient_checkpointing: str, *, offload: bool = False) -> Iterator[None]:
    """The model in training mode; `gradient_checkpointing` is none, selective (feed-forwards) or full (decoder layers).

    With `offload` the inputs of recomputed modules wait in pinned host memory where the model is on a CUDA device. A
    model without feed-forward modules takes `full` for `selective`.
    """
    model.train()
    run = _checkpoint_offloaded if offload else _checkpoint
    originals = [(module, module.forward) for module in recomputed_modules(model, gradient_checkpointing)]
    for module, forward in originals:
        module.forward = functools.partial(run, forward)
    try:
        yield
    finally:
        for module, forward in originals:
            module.forward = forward
            if getattr(forward, "__func__", None) is type(module).forward:
                del module.forward  # the class's own shows again


@contextlib.contextmanager
def switchable_policy(model: nn.Module) -> Iterator[Callable[[str, bool], None]]:
    """A function of (gradient checkpointing, offload) that replaces the policy under which the model trains."""
    with contextlib.ExitStack() as active:
        current: list[tuple[str, bool]] = []

        def set_policy(gradient_checkpointing: str, offload: bool) -> None:
            if current != [(gradient_checkpointing, offload)]:
                active.close()
                active.enter_context(checkpointed_model(model, gradient_checkpointing, offload=offload))
                current[:] = [(gradient_checkpointing, offload)]

        yield set_policy


def recomputed_modules(model: nn.Module, gradient_checkpointing: str) -> list[nn.Module]:
    """The modules whose activations are recomputed in the backward pass."""
    if gradient_checkpointing == "none":
        return []
    feed_forwards = [module for name, module in model.named_modules() if name.rpartition(".")[2] == FEED_FORWARD]
    layers: list[nn.Module] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    return feed_forwards if feed_forwards and gradient_checkpointing == "selective" else layers


def _checkpoint(forward: Callable[..., Any], *inputs: Any, **kwargs: Any) -> Any:
    # a pass that is captured as a CUDA graph draws no random numbers, and must not ask for their state
    capturing = torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=not capturing, **kwargs)


def _checkpoint_offloaded(forward: Callable[..., Any], *inputs: Any, **kwargs: Any) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(_to_host, _from_host):
        return _checkpoint(forward, *inputs, **kwargs)


def _to_host(tensor: Tensor) -> tuple[torch.device, Tensor]:
    """The copy is ordered after what fills the tensor and before what reuses its memory: all on one stream."""
    if tensor.device.type != "cuda":
        return tensor.device, tensor
    host = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=True)
    return tensor.device, host.copy_(tensor, non_blocking=True)


def _from_host(offloaded: tuple[torch.device, Tensor]) -> Tensor:
    device, tensor = offloaded
    return tensor.to(device, non_blocking=True)
