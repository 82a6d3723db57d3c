"""The shape of any model that transformers knows, from the model built on torch's meta device in about a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import ModelError
from peftodyssey.model_shape import LinearShape, ModelShape
from peftodyssey.models.transformers_config import config_error, first_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


POSITION_KEYS = ("max_position_embeddings", "n_positions", "seq_length", "context_length", "max_seq_len")
UNLIMITED_POSITIONS = 1 << 20  # of models without positions, such as state-space models


def meta_model(config: Mapping[str, Any]) -> PreTrainedModel:
    """The model of a config.json without storage. Raises ModelError if transformers has no such causal model."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        settings = AutoConfig.for_model(**config)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(settings, trust_remote_code=False)
    except Exception as error:  # its validation raises many kinds, which differ between versions
        raise config_error("the model", config, error) from error


def is_linear(module: nn.Module) -> bool:
    """Whether `module` is a linear map: Linear (bitsandbytes' are subclasses) or GPT-2's Conv1D."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def layer_index(name: str) -> int | None:
    """Decoder layer of a module, which is the first number in its full name; None outside the layers."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def linear_shape(name: str, module: Any) -> LinearShape:
    """The shape of one linear map; Conv1D stores its weight as (in, out)."""
    rows, columns = module.weight.shape if not hasattr(module, "nf") else module.weight.shape[::-1]
    return LinearShape(name, rows, columns, module.bias is not None, layer_index(name))


def shape_from_meta_model(config: Mapping[str, Any], traced: bool = False) -> ModelShape:
    """The shape of the model of `config`. All that is neither linear map, embedding nor head counts as norm.

    `traced`: the planner does not know the family, and traces its steps.

    Raises ModelError if transformers has no such causal model, or if its layers have a form that cannot be described.
    """
    model = meta_model(config)
    try:
        return _shape_of(model, config, traced)
    except Exception as error:  # sizes that differ by layer, families without heads: kinds differ between versions
        raise ModelError(
            f"models of the family {config.get('model_type')!r} cannot be planned: {first_line(error)}",
            "`peftodyssey score` scores them; please report the family",
        ) from error


def _shape_of(model: PreTrainedModel, config: Mapping[str, Any], traced: bool) -> ModelShape:
    from torch import nn

    text = model.config.get_text_config()
    modules = dict(model.named_modules())
    linears = tuple(
        linear_shape(name, module)
        for name, module in modules.items()
        if is_linear(module) and layer_index(name) is not None
    )
    embedding = sum(m.weight.numel() for m in modules.values() if isinstance(m, nn.Embedding))
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head is not None and head.weight is inputs.weight
    head_parameters = 0 if head is None else sum(p.numel() for p in head.parameters()) - tied * head.weight.numel()
    counted = {f"{m.name}." for m in linears}
    norms = {name: p for name, p in model.named_parameters() if not name.startswith(tuple(counted))}
    norm_total = sum(p.numel() for p in norms.values()) - embedding - head_parameters
    heads = _stated(text, "num_attention_heads") or 1  # a state-space model has none
    numbers = [number for name in modules if (number := layer_index(name)) is not None]
    return ModelShape(
        family=text.model_type,
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        layers=max(numbers, default=text.num_hidden_layers - 1) + 1,
        heads=heads,
        kv_heads=_stated(text, "num_key_value_heads") or heads,
        head_dim=_stated(text, "head_dim") or text.hidden_size // heads,
        intermediate=_stated(text, "intermediate_size", "n_inner") or 4 * text.hidden_size,
        positions=_stated(text, *POSITION_KEYS) or UNLIMITED_POSITIONS,
        tied=tied,
        gated=any("gate" in m.leaf for m in linears),
        linears=linears,
        embedding_parameters=embedding,
        head_parameters=head_parameters,
        norm_parameters=norm_total,
        norm_parameters_by_layer=sum(p.numel() for name, p in norms.items() if layer_index(name) == 0),
        expert_parameters=sum(p.numel() for name, p in norms.items() if p.ndim == 3 and "expert" in name),
        traced_config=json.dumps(config, sort_keys=True) if traced else "",
    )


def _stated(config: Any, *keys: str) -> int | None:
    """The first of these sizes that the config states as one number; some differ by layer (Gemma 4's heads)."""
    for key in keys:
        try:
            value = getattr(config, key, None)
        except Exception:  # transformers' own, for a size that differs by layer
            continue
        if isinstance(value, int) and value > 0:
            return value
    return None
