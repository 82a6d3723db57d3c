"""bitsandbytes quantisation of a frozen base: NF4, FP4, int8."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from peftodyssey.errors import ModelError
from peftodyssey.models.scoring_mode import is_4bit
from peftodyssey.models.shape_from_meta_model import is_linear, layer_index

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

    from peftodyssey.recipe.cell import QuantSpec


def bnb_config(quant: QuantSpec, dtype: torch.dtype) -> BitsAndBytesConfig:
    """transformers' config of `quant`, with arithmetic in `dtype`. Raises ModelError without bitsandbytes."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"quant: {quant.kind} needs bitsandbytes, which is not installed", "pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    if quant.kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant.kind,
        bnb_4bit_use_double_quant=quant.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def init_quantised(
    config: PreTrainedConfig, dtype: torch.dtype, quant: QuantSpec, device: torch.device
) -> PreTrainedModel:
    """A model with random weights, quantised one matrix at a time: the unquantised model never exists in memory."""
    from transformers import AutoModelForCausalLM
    from transformers.quantizers import AutoHfQuantizer

    settings = bnb_config(quant, dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    init_weights: Any = model._init_weights  # transformers' own initialisation of one module
    for name, module in list(model.named_modules()):
        if any(True for _ in module.parameters(recurse=False)) or any(True for _ in module.buffers(recurse=False)):
            module.to_empty(device=device, recurse=False)
            init_weights(module)
        if is_linear(module) and layer_index(name) is not None:
            model.set_submodule(name, _quantise_linear(module, quant, dtype, device))
    model.tie_weights()
    model.hf_quantizer = AutoHfQuantizer.from_config(settings)
    model.config.quantization_config = settings
    model.quantization_method = settings.quant_method
    setattr(model, "is_loaded_in_8bit" if quant.kind == "int8" else "is_loaded_in_4bit", True)
    return model


def dequantized_weight_fn(base_layer: Any) -> Callable[[], Tensor] | None:
    """A function that returns the (out, in) weight of a linear map, dequantised at each call; None if not known."""
    if is_4bit(base_layer):
        from bitsandbytes.functional import dequantize_4bit

        def dequantized() -> Tensor:
            weight: Tensor = dequantize_4bit(base_layer.weight.data, base_layer.weight.quant_state)
            return weight if weight.dtype == base_layer.compute_dtype else weight.to(base_layer.compute_dtype)

        return dequantized
    if type(base_layer) is nn.Linear:
        return lambda: base_layer.weight
    if hasattr(base_layer, "nf"):  # GPT-2's Conv1D is stored (in, out)
        return lambda: base_layer.weight.T
    return None


def _quantise_linear(module: Any, quant: QuantSpec, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The bitsandbytes form of a linear map, its weight quantised on `device`; the bias stays as it is."""
    import bitsandbytes as bnb

    weight = module.weight.detach()
    weight = weight.T.contiguous() if hasattr(module, "nf") else weight  # GPT-2's Conv1D is stored (in, out)
    rows, columns = weight.shape
    has_bias = module.bias is not None
    quantised: Any  # bitsandbytes' types leave out its subclasses of Parameter
    if quant.kind == "int8":
        with torch.device("meta"):
            quantised = bnb.nn.Linear8bitLt(columns, rows, has_bias, has_fp16_weights=False, threshold=6.0)
        int8_params: Any = bnb.nn.Int8Params(weight.cpu(), requires_grad=False, has_fp16_weights=False)
        quantised.weight = int8_params.to(device)
    else:
        storage: dict[str, Any] = {"compress_statistics": quant.double_quant, "quant_type": quant.kind}
        with torch.device("meta"):
            quantised = bnb.nn.Linear4bit(columns, rows, has_bias, dtype, **storage)
        storage["blocksize"] = quantised.weight.blocksize
        params_4bit: Any = bnb.nn.Params4bit(weight, requires_grad=False, module=quantised, **storage)
        quantised.weight = params_4bit.to(device)
    quantised.source_cls = type(module)
    quantised.bias = module.bias
    result: nn.Module = quantised
    return result
