"""What the tensors of a checkpoint are called and how they are stored, from the headers of its files; no torch.

Wrappers of training frameworks leave prefixes in the names (`_orig_mod.` of torch.compile, `module.` of data parallel
training), and the text model in a vision-language checkpoint has one too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftodyssey.errors import ModelError
from peftodyssey.models.weight_files import read_header

WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # torch.compile, FSDP, checkpointing
DATA_PARALLEL = "module."
LANGUAGE_MODEL = re.compile(r"^(model\.)?language_model\.")
FLOATS = ("F64", "F32", "F16", "BF16")
# What other programs store and no text model reads: constants, and the parts of a model that read images or sound.
CONSTANTS = re.compile(
    r"rotary_emb\.(inv_freq|cos_cached|sin_cached)$|(^|\.)(attn|attention|self_attn)\.(bias|masked_bias|causal_mask)$"
    r"|(^|\.)position_ids$"
)
OTHER_TOWERS = re.compile(
    r"^(model\.)?(vision_tower|vision_model|vision_embed_tokens|visual|multi_modal_projector|mm_projector|embed_vision"
    r"|image_newline|audio_tower|audio_model|embed_audio)(\.|$)"
)


def tensors(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """{tensor: {dtype, shape, ...}} of safetensors files, as their headers say.

    Raises ModelError where two files hold a tensor of one name: which one is read would be chance.
    """
    found: dict[str, dict[str, Any]] = {}
    holder: dict[str, Path] = {}
    for file in files:
        for name, entry in read_header(file).items():
            if name == "__metadata__":
                continue
            if name in holder:
                raise ModelError(
                    f"{holder[name]} and {file.name} both hold {name}",
                    "remove the file that belongs to another model, or download all of them again",
                )
            found[name], holder[name] = entry, file
    return found


def is_text(config: Mapping[str, Any]) -> bool:
    """Whether a config.json describes a text model alone, so that its tensors have the names of one."""
    return "text_config" not in config


def key_mapping(names: Iterable[str], is_text_config: bool) -> tuple[dict[str, str], list[str]]:
    """(regular expressions to replace in names, as transformers' `key_mapping` takes them; a note for each).

    `is_text_config`: the answer of `is_text`.
    """
    names = list(names)
    mapping: dict[str, str] = {}
    notes = []
    for wrapper in WRAPPERS:
        if with_it := [name for name in names if wrapper in name]:
            mapping[re.escape(wrapper)] = ""
            notes.append(_stripped(wrapper, with_it))
    bare = [re.sub("|".join(map(re.escape, WRAPPERS)), "", name) for name in names]
    if bare and all(name.startswith(DATA_PARALLEL) for name in bare):
        mapping[r"^module\."] = ""
        notes.append(_stripped(DATA_PARALLEL, bare))
        bare = [name.removeprefix(DATA_PARALLEL) for name in bare]
    if is_text_config and (with_it := [name for name in bare if LANGUAGE_MODEL.search(name)]):
        nested = [name for name in with_it if name.startswith("model.")]
        mapping |= {r"^model\.language_model\.": "model."} if nested else {}
        mapping |= {r"^language_model\.": ""} if len(nested) < len(with_it) else {}
        notes.append(_stripped("language_model.", with_it))
    return mapping, notes


def rename(names: Iterable[str], mapping: Mapping[str, str]) -> list[str]:
    """The names after every replacement of `mapping`."""
    renamed = list(names)
    for pattern, replacement in mapping.items():
        renamed = [re.sub(pattern, replacement, name) for name in renamed]
    return renamed


def _stripped(prefix: str, names: Sequence[str]) -> str:
    return f"the prefix {prefix} was taken off {len(names)} names of tensors, the first is {names[0]}"


def check_stored_numbers(name: str, config: Mapping[str, Any], headers: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ModelError where weights are integers or 8-bit floats though config.json states no quantisation.

    Read as they stand, without their scales, they are other numbers than those that were stored.
    """
    if config.get("quantization_config"):
        return
    wrong = [key for key, entry in headers.items() if key.endswith(".weight") and entry["dtype"] not in FLOATS]
    if wrong:
        scales = [key for key in headers if re.search(r"(scale|scale_inv|absmax|SCB|quant_state\w*)$", key)]
        beside = f", though scales lie beside them ({scales[0]})" if scales else ", and no scales lie beside them"
        raise ModelError(
            f"{len(wrong)} weights of {name} are stored as {headers[wrong[0]]['dtype']}, first {wrong[0]}, but its "
            f"config.json has no quantization_config{beside}",
            "give the model in float32, bfloat16 or float16; `quant: nf4` quantises it when it is loaded",
        )
