"""What the forward pass keeps for the backward pass: everything, all but the feed-forwards, or the layers' inputs
alone.

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
from transformers.modeling_layers import GradientCheckpointingLayer

FEED_FORWARD = "mlp"  # the name of the feed-forward in a decoder layer, in every family that has one module for it


@contextlib.contextmanager
def checkpointed_model(model: nn.Module, gradient_checkpointing: str, *, offload: bool = False) -> Iterator[None]:
    """The model in training mode; `gradient_checkpointing` is none, selective (feed-forwards) or full (decoder layers).

    With `offload` what stands between the layers waits in pinned host memory where the model lies on a CUDA device. A
    model without feed-forward modules takes `full` for `selective`.
    """
    model.train()
    run = _checkpoint_offloaded if offload else _checkpoint
    before = [(module, module.forward) for module in checkpointed(model, gradient_checkpointing)]
    for module, forward in before:
        module.forward = functools.partial(run, forward)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module, forward in before:
            module.forward = forward  # type: ignore[method-assign]
            if getattr(forward, "__func__", None) is type(module).forward:
                del module.forward  # the class's own shows again


@contextlib.contextmanager
def switchable_policy(model: nn.Module) -> Iterator[Callable[[str, bool], None]]:
    """A function of (gradient checkpointing, offload) that trains the model under that policy from now on, in place of
    the one before.
    """
    with contextlib.ExitStack() as now:
        held: list[tuple[str, bool]] = []

        def keep(gradient_checkpointing: str, offload: bool) -> None:
            if held != [(gradient_checkpointing, offload)]:
                now.close()
                now.enter_context(checkpointed_model(model, gradient_checkpointing, offload=offload))
                held[:] = [(gradient_checkpointing, offload)]

        yield keep


def checkpointed(model: nn.Module, gradient_checkpointing: str) -> list[nn.Module]:
    """The modules whose inside is computed again."""
    if gradient_checkpointing == "none":
        return []
    feeds = [module for name, module in model.named_modules() if name.rpartition(".")[2] == FEED_FORWARD]
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    return feeds if feeds and gradient_checkpointing == "selective" else layers


def _checkpoint(forward: Callable[..., Any], *inputs: Any, **more: Any) -> Any:
    random = not (
        torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing()
    )  # what is captured draws nothing, and must not ask for the state
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=random, **more)


def _checkpoint_offloaded(forward: Callable[..., Any], *inputs: Any, **more: Any) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(_to_host, _from_host):
        return _checkpoint(forward, *inputs, **more)


def _to_host(tensor: Tensor) -> tuple[torch.device, Tensor]:
    """The copy is ordered behind what fills the tensor and before what reuses its memory: all on one stream."""
    if tensor.device.type != "cuda":
        return tensor.device, tensor
    host = torch.empty(tensor.size(), dtype=tensor.dtype, pin_memory=True)
    return tensor.device, host.copy_(tensor, non_blocking=True)


def _from_host(kept: tuple[torch.device, Tensor]) -> Tensor:
    device, tensor = kept
    return tensor.to(device, non_blocking=True)
