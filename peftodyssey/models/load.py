"""Loading a base model: unquantised or in bitsandbytes 4 or 8 bits, frozen, without dropout and without messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peftodyssey.errors import ModelError
from peftodyssey.models import base_dropout, varlen_attention
from peftodyssey.models.loading_report import check_loading, forget_key_mapping
from peftodyssey.models.local_model import ADAPTER_FILE, link_without_adapter
from peftodyssey.models.log_filters import quiet
from peftodyssey.models.quantised import bnb_config, init_quantised, stored_bnb_config
from peftodyssey.models.shape_from_meta_model import is_linear, layer_index
from peftodyssey.models.source import RANDOM_SEED, ModelSource, adapter_notes, weights_folder
from peftodyssey.models.stored_quant import check_parts
from peftodyssey.models.stored_tensors import check_stored_numbers, is_text, key_mapping, rename, tensors
from peftodyssey.models.transformers_config import config_error, first_line, transformers_config
from peftodyssey.models.weight_files import check_weights

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
    on_note: Callable[[str], None] = lambda note: None,
) -> PreTrainedModel:
    """The base of `source`, frozen, dropout 0, no cache, in training mode (4-bit modules on a CPU must stay in it).

    `precision` (fp32 | bf16 | fp16) is the dtype of all weights that are not quantised, and of 4-bit arithmetic;
    `on_note` is told in a sentence what was renamed or not read. Raises ModelError for tensors that are missing, left
    over or of another shape, for pickled or truncated files, and where bitsandbytes cannot do `quant`.
    """
    dtype, device = DTYPES[precision], torch.device(device)
    if quant and source.stored_quant:
        raise ModelError(
            f"{source.name} is stored as {source.stored_quant.kind} already and cannot be quantised to {quant.kind}",
            "leave the quantisation out: `method: lora` trains an adapter on it as it stands",
        )
    with quiet():
        config, dropout = base_config(source, attn)
        if source.kind == "random":
            model = _random(config, dtype, quant, device)
        else:
            model = _pretrained(source, config, dtype, quant, device, on_note)
    varlen_attention.install(model)
    base_dropout.remember(model, dropout)
    model.requires_grad_(False)
    model.config.use_cache = False
    return model.train()


def base_config(source: ModelSource, attn: str = "sdpa") -> tuple[PreTrainedConfig, dict[str, float]]:
    """(transformers' config of the base with every dropout 0, the dropout that config.json states by key).

    A base is scored in training mode and must not vary. Raises ModelError for a config that cannot be used.
    """
    config = transformers_config(source, attn)
    return config, base_dropout.take_out(config)


def linear_names(model: nn.Module) -> list[str]:
    """Names of the decoder layers' linear maps in module order: Linear, Conv1D and bitsandbytes'; without the head."""
    return [name for name, module in model.named_modules() if is_linear(module) and layer_index(name) is not None]


def _pretrained(
    source: ModelSource,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    quant: QuantSpec | None,
    device: torch.device,
    on_note: Callable[[str], None],
) -> PreTrainedModel:
    """The base with the weights of its files, each checked to be a tensor of the model."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    folder = weights_folder(source)
    headers = tensors(check_weights(folder))
    check_stored_numbers(source.name, source.config, headers)
    check_parts(source.name, headers)
    mapping, renamed = key_mapping(headers, is_text(source.config))
    notes = [*adapter_notes(folder), *renamed]
    if (folder / ADAPTER_FILE).is_file():  # transformers would put it on the base
        folder = link_without_adapter(folder, source.fingerprint)
    options: dict[str, Any] = {}
    if source.stored_quant:
        config.quantization_config = stored_bnb_config(source.config, source.stored_quant, dtype)
    elif quant:
        options["quantization_config"] = bnb_config(quant, dtype)
    loaded: Any  # with output_loading_info: (model, info), which transformers does not declare
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            key_mapping=mapping or None,
            ignore_mismatched_sizes=True,  # `check_loading` refuses them, with their names
            output_loading_info=True,
            **options,
        )
    except SafetensorError as error:
        raise ModelError(f"the weights of {source.name} are damaged: {error}", "download or copy them again") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise config_error(source.name, source.config, error) from error
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        raise ModelError(
            f"{source.name} cannot be loaded as a causal language model: {first_line(error)}",
            "check that config.json and the weights belong together (`peftodyssey doctor` shows versions)",
        ) from error
    model, info = loaded
    notes += check_loading(source.name, model, info, rename(headers, mapping), is_text(source.config))
    for note in notes:
        if note not in source.notes:  # those are said where the source is named
            on_note(f"{source.name}: {note}")
    forget_key_mapping(model, mapping)
    return model


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
