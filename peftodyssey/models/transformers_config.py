"""transformers' config of a base model, and sentences for what config.json states that transformers cannot use."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import ModelError
from peftodyssey.models.source import ModelSource

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FIELD = re.compile(r"[Ff]ield '(\w+)'")  # how transformers' validation names the key
ACTIVATION_KEYS = ("hidden_act", "hidden_activation", "activation_function")
ROPE_KEYS = ("rope_parameters", "rope_scaling")


def transformers_config(source: ModelSource, attn: str) -> PreTrainedConfig:
    """transformers' config of the source, as its config.json states it.

    Raises ModelError for an unknown family and for a key of config.json that cannot be used.
    """
    from transformers import AutoConfig

    try:
        if source.folder is None:
            config = AutoConfig.for_model(**source.config)
        else:
            config = AutoConfig.from_pretrained(source.folder, trust_remote_code=False)
    except Exception as error:  # its validation raises many kinds, which differ between versions
        raise config_error(source.name, source.config, error) from error
    text_config = config.get_text_config()
    softcapped = getattr(text_config, "attn_logit_softcapping", None) is not None  # Gemma 2; sdpa ignores it
    if attn != "sdpa" or softcapped:  # otherwise transformers takes sdpa where the family has it
        config._attn_implementation = "eager" if softcapped else attn
    for part in (config, text_config):
        if getattr(part, "quantization_config", True) is None:  # null means that it is not quantised
            del part.quantization_config
    return config


def config_error(name: str, config: Mapping[str, Any], error: Exception) -> ModelError:
    """The sentence for an `error` that transformers raised while it read `config` or built the model of it."""
    from transformers.activations import ACT2FN
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    value = error.args[0] if isinstance(error, KeyError) and error.args else None
    if value is not None and value in list(_rope_types(config)):
        allowed = ", ".join(sorted({"default", *ROPE_INIT_FUNCTIONS}))
        return ModelError(
            f"config.json of {name} names the rope type {value!r}, which transformers does not know",
            f"rope types: {allowed}; or upgrade transformers",
        )
    for activation in ACTIVATION_KEYS:
        if value is not None and config.get(activation) == value:
            return ModelError(
                f"config.json of {name} has {activation}: {value!r}, which is no activation",
                f"activations: {', '.join(sorted(map(str, ACT2FN)))}",
            )
    reason = first_line(error)
    match = FIELD.search(str(error))
    if key := match[1] if match and match[1] in config else _refused_key(config):
        detail = " ".join(str(error).split())
        return ModelError(
            f"config.json of {name} has {key}: {config[key]!r}, which transformers refuses: {detail}",
            f"correct or remove {key} in config.json, or download it again",
        )
    if config.get("model_type") in _families():
        return ModelError(
            f"config.json of {name} cannot be used: {type(error).__name__}: {reason}",
            "correct config.json, or download it again; `peftodyssey doctor` shows versions",
        )
    return ModelError(
        f"transformers does not know the model family {config.get('model_type')!r} of {name}: {reason}",
        "upgrade transformers; families that need code from the repository are not supported",
    )


def _refused_key(config: Mapping[str, Any]) -> str | None:
    """The one key without which transformers takes `config`; None where there is no such key."""
    if not _is_accepted(config):
        rest = ({k: v for k, v in config.items() if k != key} for key in config)
        return next((key for key, others in zip(config, rest, strict=True) if _is_accepted(others)), None)
    return None


def _is_accepted(config: Mapping[str, Any]) -> bool:
    from transformers import AutoConfig

    try:
        AutoConfig.for_model(**config).to_dict()
    except Exception:  # as above: the keys are a stranger's, and a config that cannot be built is what is asked
        return False
    return True


def _families() -> list[str]:
    """The model types of which transformers has a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def first_line(error: Exception) -> str:
    """The first line of an error's text that is not empty; the kind of the error where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _rope_types(config: Mapping[str, Any]) -> Iterator[Any]:
    """Every rope type that `config` names, one for all layers or by kind of layer."""
    for part in (config, config.get("text_config")):
        for key in ROPE_KEYS:
            entry = part.get(key) if isinstance(part, dict) else None
            for one in (entry, *(entry.values() if isinstance(entry, dict) else ())):
                if isinstance(one, dict):
                    yield one.get("rope_type", one.get("type"))
