"""The shape of any model that transformers knows, from the model built on torch's meta device in about a second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import ModelError
from peftodyssey.model_shape import LinearShape, ModelShape
from peftodyssey.models.transformers_config import config_error, first_line

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


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


def shape_from_meta_model(config: Mapping[str, Any]) -> ModelShape:
    """The shape of the model of `config`. All that is neither linear map, embedding nor head counts as norm.

    Raises ModelError if transformers has no such causal model, or if its layers have a form that cannot be described.
    """
    model = meta_model(config)
    try:
        return _shape_of(model)
    except Exception as error:  # sizes that differ by layer, families without heads: kinds differ between versions
        raise ModelError(
            f"models of the family {config.get('model_type')!r} cannot be planned: {first_line(error)}",
            "`peftodyssey score` scores them; training needs decoder layers of equal shape with attention heads",
        ) from error


def _shape_of(model: PreTrainedModel) -> ModelShape:
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
    heads = text.num_attention_heads
    intermediate = getattr(text, "intermediate_size", None) or getattr(text, "n_inner", None) or 4 * text.hidden_size
    return ModelShape(
        family=text.model_type,
        vocabulary=text.vocab_size,
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        intermediate=intermediate,
        positions=getattr(text, "max_position_embeddings", 0),
        tied=tied,
        gated=any("gate" in m.leaf for m in linears),
        linears=linears,
        embedding_parameters=embedding,
        head_parameters=head_parameters,
        norm_parameters=norm_total,
        norm_parameters_by_layer=sum(p.numel() for name, p in norms.items() if layer_index(name) == 0),
    )
