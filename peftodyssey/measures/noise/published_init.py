"""Standard deviations of published initialisations, tensor by tensor, which a configuration does not state.

OLMo (first generation): `mitchell` of OLMo's olmo/initialization.py, 1/sqrt(inputs), for the two maps that write to
the residual stream divided by sqrt(2 (layer + 1)), truncated at three standard deviations; embeddings 1/sqrt(width).
GPT-NeoX, Pythia: `small_init` sqrt(2 / (5 width)) (Nguyen and Salazar 2019) and, for those two maps, `wang_init`
2 / (layers sqrt(width)), as in Pythia's configurations. GPT-2: initializer_range, for those two maps divided by
sqrt(2 layers) (Radford et al. 2019). Where a ladder has its step 0, `earliest_rung` needs none of this.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch

from peftodyssey.errors import ModelError

STD_WITHIN_3 = 0.98658  # of a standard normal that is truncated at three standard deviations
RESIDUAL = re.compile(r"\.(o_proj|down_proj|attention\.dense|dense_4h_to_h|c_proj)\.weight$")  # write to the stream
LAYER = re.compile(r"\.(\d+)\.")
FAMILIES = ("olmo", "gpt_neox", "gpt2")


def published_sigmas(config: Any, inputs: Mapping[str, int], tensors: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """The standard deviation of each tensor by name; `inputs` of its map (of an embedding its width).

    Raises ModelError for a family of which no initialisation is known here.
    """
    family = str(config.model_type)
    if family not in FAMILIES:
        raise ModelError(
            f"no published initialisation of {family} models is known",
            f"set scale of noise to initializer, fan_in or earliest_rung; known: {', '.join(FAMILIES)}",
        )
    width, layers = int(config.hidden_size), int(config.num_hidden_layers)
    return {name: _sigma(family, name, inputs[name], width, layers, config) for name in tensors}


def _sigma(family: str, name: str, inputs: int, width: int, layers: int, config: Any) -> float:
    residual = bool(RESIDUAL.search(name))
    if family == "olmo":
        layer = LAYER.search(name)
        depth = 2 * (int(layer[1]) + 1) if residual and layer else 1
        return STD_WITHIN_3 / math.sqrt(inputs * depth)
    if family == "gpt_neox":
        return 2 / (layers * math.sqrt(width)) if residual else math.sqrt(2 / (5 * width))
    return float(config.initializer_range) / (math.sqrt(2 * layers) if residual else 1.0)
