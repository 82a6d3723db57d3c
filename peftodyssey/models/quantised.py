"""bitsandbytes storage of a frozen base: NF4, FP4, int8. Called by `models.load`."""

from __future__ import annotations

import importlib.util
import logging
from typing import TYPE_CHECKING

import torch
from torch import nn

from peftodyssey.errors import ModelError
from peftodyssey.recipe.cell import QuantPoint

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel

_KERNELS_ADVICE = "Failed to load CPU gemm_4bit_forward from kernels-community"


def bnb_config(quant: QuantPoint, dtype: torch.dtype, device: torch.device) -> BitsAndBytesConfig:
    """transformers' settings of `quant`, arithmetic in `dtype`. Raises ModelError where it cannot work."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(f"quant: {quant.kind} needs bitsandbytes, which is not installed", "pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    _hide_kernels_advice()
    if quant.kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quant.kind,
        bnb_4bit_use_double_quant=quant.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def is_4bit(module: nn.Module) -> bool:
    """Whether `module` is a bitsandbytes 4-bit linear map (known by its parameter: bitsandbytes may be absent)."""
    return type(getattr(module, "weight", None)).__name__ == "Params4bit"


def _hide_kernels_advice() -> None:
    """bitsandbytes advises CPU users to install a package of compiled kernels; the sentence is dropped, others stay."""
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    if not any(getattr(f, "__name__", "") == "_keeps" for f in logger.filters):
        logger.addFilter(_keeps)


def _keeps(record: logging.LogRecord) -> bool:
    return _KERNELS_ADVICE not in record.getMessage()


def random_quantised(
    config: PreTrainedConfig, dtype: torch.dtype, quant: QuantPoint, device: torch.device
) -> PreTrainedModel:
    """Random weights quantised as they are made, one matrix at a time: the unquantised whole never exists."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear

    settings = bnb_config(quant, dtype, device)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model
