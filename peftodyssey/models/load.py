"""Base models loaded: unquantised or in bitsandbytes 4 or 8 bits, frozen, without dropout, quiet. Called by every job.

Also which of a loaded model's modules are its linear maps, and the mode it is scored in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peftodyssey.errors import ModelError
from peftodyssey.models import varlen_attention
from peftodyssey.models.log_filters import quiet
from peftodyssey.models.quantised import bnb_config, init_quantised
from peftodyssey.models.scoring_mode import set_scoring_mode
from peftodyssey.models.shape_from_meta_model import is_linear, layer_index
from peftodyssey.models.source import RANDOM_SEED, ModelSource, weights_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from peftodyssey.recipe.cell import QuantSpec

__all__ = ["DTYPES", "linear_names", "load", "set_scoring_mode", "zero_dropout"]

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def load(
    source: ModelSource,
    *,
    precision: str,
    quant: QuantSpec | None = None,
    device: str | torch.device = "cpu",
    attn: str = "sdpa",
) -> PreTrainedModel:
    """The base of `source`, frozen, dropout 0, no cache, in training mode (4-bit modules on a CPU must stay in it).

    `precision` (fp32 | bf16 | fp16) is the type of all weights that `quant` does not store, and of 4-bit arithmetic.
    Raises ModelError for weights that are missing, pickled or truncated, and where bitsandbytes cannot do `quant`.
    """
    dtype, device = DTYPES[precision], torch.device(device)
    with quiet():
        config = _config(source, attn)
        if source.kind == "random":
            model = _random(config, dtype, quant, device)
        else:
            model = _pretrained(source, config, dtype, quant, device)
    varlen_attention.install(model)
    model.requires_grad_(False)
    model.config.use_cache = False
    return model.train()


def linear_names(model: nn.Module) -> list[str]:
    """Names of the linear maps of the decoder layers in module order: Linear, Conv1D and bitsandbytes' own; no head."""
    return [name for name, module in model.named_modules() if is_linear(module) and layer_index(name) is not None]


def _config(source: ModelSource, attn: str) -> PreTrainedConfig:
    """transformers' config of the source with every dropout at 0."""
    from transformers import AutoConfig

    try:
        if source.folder is None:
            config = AutoConfig.for_model(**source.config)
        else:
            config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(
            f"transformers does not know the model family {source.config.get('model_type')!r} of {source.name}: "
            f"{str(error).splitlines()[0]}",
            "upgrade transformers; families that need code from the repository are not supported",
        ) from error
    capped = (
        getattr(config.get_text_config(), "attn_logit_softcapping", None) is not None
    )  # sdpa leaves the cap of Gemma 2 out
    if attn != "sdpa" or capped:  # left alone, transformers takes sdpa where the family has it
        config._attn_implementation = "eager" if capped else attn
    for part in {id(c): c for c in (config, config.get_text_config())}.values():
        zero_dropout(part)
    return config


def zero_dropout(config: PreTrainedConfig) -> None:
    """Sets every dropout probability in `config` to 0: a base is scored in training mode and must not vary."""
    for key, value in config.to_dict().items():
        if isinstance(value, float | int) and not isinstance(value, bool) and ("dropout" in key or "pdrop" in key):
            setattr(config, key, 0.0)


def _pretrained(
    source: ModelSource, config: PreTrainedConfig, dtype: torch.dtype, quant: QuantSpec | None, device: torch.device
) -> PreTrainedModel:
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    options: dict[str, Any] = {"quantization_config": bnb_config(quant, dtype)} if quant else {}
    try:
        return AutoModelForCausalLM.from_pretrained(
            weights_folder(source),
            config=config,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            **options,
        )
    except SafetensorError as error:
        raise ModelError(f"the weights of {source.name} are damaged: {error}", "download or copy them again") from error
    except (ValueError, OSError, ImportError) as error:
        raise ModelError(
            f"{source.name} cannot be loaded as a causal language model: {str(error).splitlines()[0]}",
            "check that config.json and the weights belong together (`peftodyssey doctor` shows versions)",
        ) from error


def _random(
    config: PreTrainedConfig, dtype: torch.dtype, quant: QuantSpec | None, device: torch.device
) -> PreTrainedModel:
    """Initial weights at a fixed seed, made on the device in their final type."""
    from transformers import AutoModelForCausalLM

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(RANDOM_SEED)
        if quant:
            return init_quantised(config, dtype, quant, device)
        with device:
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
