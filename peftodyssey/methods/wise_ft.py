"""WiSE-FT (Wortsman et al., arXiv 2109.01903): the base plus a share of a finished update, without further training.

Trained weights are interpolated linearly between base (share 0) and adapted model (share 1); for LoRA the scaling is
multiplied by the share, which interpolates the merged matrix in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from peftodyssey.methods.adapter import ADAPTER_NAME, BASE_MODIFYING_INITS
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.weights import snapshot
from peftodyssey.recipe.cell import MethodSpec

SetShare = Callable[[float], None]


def can_be_scaled(spec: MethodSpec) -> bool:
    """Whether a share of the update is the base plus that share: trained weights, and LoRA without DoRA that starts at
    the base's own weights.
    """
    if spec.method in ("lora", "qlora"):
        return not spec.options.get("dora") and not str(spec.options.get("init", "")).startswith(BASE_MODIFYING_INITS)
    return spec.method in ("full", "truncate", "last_layers", "bitfit")


@contextlib.contextmanager
def scaled_update(attached: AttachedMethod) -> Iterator[SetShare]:
    """A function that sets the share of the update in the model; afterwards the share is 1 again, bit for bit."""
    set_share = _scale_adapter(attached) if attached.is_adapter else _interpolate_weights(attached)
    try:
        yield set_share
    finally:
        set_share(1.0)


def _scale_adapter(attached: AttachedMethod) -> SetShare:
    layers: list[Any] = [m for m in attached.model.modules() if hasattr(m, "lora_A") and ADAPTER_NAME in m.lora_A]
    assert layers, "recipes allow wise_ft for LoRA and for methods that train the model's own weights"
    scalings = [layer.scaling[ADAPTER_NAME] for layer in layers]

    def set_share(share: float) -> None:
        for layer, scaling in zip(layers, scalings, strict=True):
            layer.scaling[ADAPTER_NAME] = share * scaling

    return set_share


def _interpolate_weights(attached: AttachedMethod) -> SetShare:
    import torch

    all_parameters = dict(attached.model.named_parameters())
    parameters = {name: all_parameters[name] for name in attached.initial_weights}
    adapted = snapshot(parameters)

    @torch.no_grad()
    def set_share(share: float) -> None:
        for name, parameter in parameters.items():
            initial, final = (w[name].to(parameter.device, torch.float32) for w in (attached.initial_weights, adapted))
            parameter.copy_(adapted[name] if share == 1 else torch.lerp(initial, final, share))

    return set_share
