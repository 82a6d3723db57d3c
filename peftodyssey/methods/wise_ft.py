"""WiSE-FT (Wortsman et al., arXiv 2109.01903): the base plus a share of a finished update, without training. Called by
`jobs.adapt`.

Weights that were trained themselves are interpolated linearly between what they were and what they became; LoRA's
product is scaled, which is the same interpolation of the merged matrix. Share 0 is the base, 1 the adapted model.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from peftodyssey.methods.protocol import AttachedMethod
from peftodyssey.methods.weights import snapshot

SetShare = Callable[[float], None]


@contextlib.contextmanager
def scaled_update(attached: AttachedMethod) -> Iterator[SetShare]:
    """A function that gives the model a share of its update; afterwards it has all of it, bit for bit."""
    to_share = _products(attached) if attached.is_adapter else _weights(attached)
    try:
        yield to_share
    finally:
        to_share(1.0)


def _products(attached: AttachedMethod) -> SetShare:
    layers: list[Any] = [m for m in attached.model.modules() if hasattr(m, "lora_A") and "default" in m.lora_A]
    assert layers, "the recipe allows this for LoRA and for the model's own weights"
    whole = [layer.scaling["default"] for layer in layers]

    def to_share(share: float) -> None:
        for layer, scaling in zip(layers, whole, strict=True):
            layer.scaling["default"] = share * scaling

    return to_share


def _weights(attached: AttachedMethod) -> SetShare:
    import torch

    places = dict(attached.model.named_parameters())
    parameters = {name: places[name] for name in attached.initial_weights}
    adapted = snapshot(parameters)

    @torch.no_grad()
    def to_share(share: float) -> None:
        for name, parameter in parameters.items():
            ends = (of[name].to(parameter.device, torch.float32) for of in (attached.initial_weights, adapted))
            parameter.copy_(adapted[name] if share == 1 else torch.lerp(*ends, share))

    return to_share
