"""bitsandbytes quantisation of a frozen base: NF4, FP4, int8."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
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


def stored_bnb_config(config: Mapping[str, Any], quant: QuantSpec, dtype: torch.dtype) -> dict[str, Any]:
    """The `quantization_config` that a checkpoint states, with arithmetic in `dtype`. Raises ModelError without
    bitsandbytes.
    """
    arithmetic = bnb_config(quant, dtype).to_dict()["bnb_4bit_compute_dtype"]
    return {**config["quantization_config"], "bnb_4bit_compute_dtype": arithmetic}


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


def dequantise(model: PreTrainedModel) -> PreTrainedModel:
    """`model` with plain linear maps of the dequantised weights in place of bitsandbytes' ones, in place.

    The weights have the type that they had before they were quantised to 4 bits; 8-bit ones that of the other weights.
    """
    others = next(p.dtype for p in model.parameters() if p.is_floating_point())
    for name, module in list(model.named_modules()):
        if type(module._parameters.get("weight")).__name__ in ("Params4bit", "Int8Params"):
            model.set_submodule(name, _dequantise_linear(module, others))
    for owner, names in (
        (model, ("hf_quantizer", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized")),
        (model.config, ("quantization_config", "_pre_quantization_dtype", "_is_quantized")),
    ):
        for name in names:
            vars(owner).pop(name, None)
    return model


def _dequantise_linear(module: Any, dtype: torch.dtype) -> nn.Module:
    """The plain form of a bitsandbytes linear map: GPT-2's Conv1D where it was one, which is stored (in, out)."""
    from bitsandbytes import functional
    from transformers.pytorch_utils import Conv1D

    stored = module.weight
    if type(stored).__name__ == "Params4bit":
        weight = functional.dequantize_4bit(stored.data, stored.quant_state)
    else:  # the first forward pass moves the scales to `state`
        scales = stored.SCB if module.state.SCB is None else module.state.SCB
        weight = (stored.data.float() * (scales.to(stored.device) / 127)[:, None]).to(dtype)
    rows, columns = weight.shape
    with torch.device("meta"):
        is_transposed = getattr(module, "source_cls", None) is Conv1D
        plain: Any = Conv1D(rows, columns) if is_transposed else nn.Linear(columns, rows, module.bias is not None)
    plain.weight = nn.Parameter(weight.T.contiguous() if is_transposed else weight, requires_grad=False)
    plain.bias = module.bias
    plain.train(module.training)
    result: nn.Module = plain
    return result
