"""Loading a base model: unquantised or in bitsandbytes 4 or 8 bits, frozen, without dropout and without messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peftodyssey.errors import ModelError
from peftodyssey.models import varlen_attention
from peftodyssey.models.log_filters import quiet
from peftodyssey.models.quantised import bnb_config, init_quantised
from peftodyssey.models.shape_from_meta_model import is_linear, layer_index
from peftodyssey.models.source import RANDOM_SEED, ModelSource, weights_folder

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from peftodyssey.recipe.cell import QuantSpec

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

    `precision` (fp32 | bf16 | fp16) is the dtype of all weights that are not quantised, and of 4-bit arithmetic. Raises
    ModelError for weights that are missing, pickled or truncated, and where bitsandbytes cannot do `quant`.
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
    """Names of the decoder layers' linear maps in module order: Linear, Conv1D and bitsandbytes'; without the head."""
    return [name for name, module in model.named_modules() if is_linear(module) and layer_index(name) is not None]


def _config(source: ModelSource, attn: str) -> PreTrainedConfig:
    """transformers' config of the source, every dropout 0: a base is scored in training mode and must not vary."""
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
    text_config = config.get_text_config()
    softcapped = getattr(text_config, "attn_logit_softcapping", None) is not None  # Gemma 2; sdpa ignores it
    if attn != "sdpa" or softcapped:  # otherwise transformers takes sdpa where the family has it
        config._attn_implementation = "eager" if softcapped else attn
    for part in (config, text_config):
        for key, value in part.to_dict().items():
            if isinstance(value, float | int) and not isinstance(value, bool) and ("dropout" in key or "pdrop" in key):
                setattr(part, key, 0.0)
    return config


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
    """Initial weights from a fixed seed, made on the device in their final dtype."""
    from transformers import AutoModelForCausalLM

    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(RANDOM_SEED)
        if quant:
            return init_quantised(config, dtype, quant, device)
        with device:
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
