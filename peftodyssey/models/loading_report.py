"""Whether a checkpoint's tensors are those of the model: what is missing, left over or of another shape is refused.

transformers reports this while it loads, and goes on with random weights where a tensor is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import ModelError
from peftodyssey.models.scoring_mode import is_4bit
from peftodyssey.models.stored_tensors import CONSTANTS, OTHER_TOWERS

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MAX_KINDS = 3
NEXT = "check that config.json and the weights belong together; download or save both again"


def check_loading(
    name: str, model: PreTrainedModel, info: Mapping[str, Any], stored: Iterable[str], is_text_config: bool
) -> list[str]:
    """Notes about stored tensors that the model does not read, by count and first name.

    `info` is transformers' loading info, `stored` the names in the files. Raises ModelError for tensors that are
    missing (they would be random), left over (the file is another model), or of another shape.
    """
    mismatched = sorted(info["mismatched_keys"]) + _wrong_quantised_shapes(model)
    left_over = sorted(
        key
        for key in info["unexpected_keys"]
        if not CONSTANTS.search(key) and not (is_text_config and OTHER_TOWERS.search(key))
    )
    problems = [
        _counted(_once(model, info["missing_keys"]), "missing from the weights and would be random"),
        _counted([f"{key} {tuple(got)} for {tuple(wanted)}" for key, got, wanted in mismatched], "of another shape"),
        _counted(left_over, "in the weights but not in the model"),
    ]
    if problems := [problem for problem in problems if problem]:
        raise ModelError(f"the weights of {name} are not those of its config.json: {'; '.join(problems)}", NEXT)
    return [*_ignored_notes(model, info, stored), *_parted_notes(model)]


def _parted_notes(model: PreTrainedModel) -> list[str]:
    """A note where the head is a matrix of its own though config.json ties it to the embeddings."""
    head, inputs = model.get_output_embeddings(), model.get_input_embeddings()
    if not model.config.get_text_config().tie_word_embeddings or head is None or head.weight is inputs.weight:
        return []
    return [
        "config.json ties the head to the embeddings (tie_word_embeddings), but the weights hold two different "
        "matrices: they are kept apart"
    ]


def forget_key_mapping(model: Any, mapping: Mapping[str, str]) -> None:
    """Takes the renamings of `mapping` out of what transformers undoes when it saves `model`."""
    conversions = getattr(model, "_weight_conversions", None)
    if mapping and conversions is not None:
        model._weight_conversions = [one for one in conversions if not set(one.source_patterns) & set(mapping)]


def _once(model: PreTrainedModel, missing: Iterable[str]) -> list[str]:
    """The missing names, a weight that several names share under its first one."""
    others = {name for name, _ in model.named_parameters(remove_duplicate=False)} - dict(
        model.named_parameters()
    ).keys()
    return sorted(set(missing) - others) or sorted(missing)


def _counted(names: list[str], what: str) -> str:
    """`3 tensors are <what>, first <name>`; empty for none."""
    one = len(names) == 1
    return f"{len(names)} tensor{'' if one else 's'} {'is' if one else 'are'} {what}, first {names[0]}" if names else ""


def _wrong_quantised_shapes(model: PreTrainedModel) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """bitsandbytes maps whose stored weight is not (out_features, in_features): transformers does not compare them."""
    wrong = []
    for name, module in model.named_modules():
        kind = type(module).__name__
        if is_4bit(module) and getattr(module.weight, "quant_state", None) is not None:
            shape = tuple(module.weight.quant_state.shape)
        elif kind == "Linear8bitLt":
            shape = tuple(module.weight.shape)
        else:
            continue
        wanted: Any = (module.out_features, module.in_features)
        if shape not in (wanted, wanted[::-1] if hasattr(module, "source_cls") else wanted):
            wrong.append((f"{name}.weight", shape, wanted))
    return wrong


def _ignored_notes(model: PreTrainedModel, info: Mapping[str, Any], stored: Iterable[str]) -> list[str]:
    """What is stored and not read: declared by the model's class, constants, and parts for images and sound."""
    declared = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_unexpected or ()]
    names, prefix = set(model.state_dict()), f"{model.base_model_prefix}."
    known = names | {name.removeprefix(prefix) for name in names}
    ignored = sorted(
        {
            key
            for key in stored
            if key not in known and (CONSTANTS.search(key) or any(pattern.search(key) for pattern in declared))
        }
        | {key for key in info["unexpected_keys"] if OTHER_TOWERS.search(key)}
    )
    if not ignored:
        return []
    kinds = sorted({re.sub(r"\.\d+\.", ".*.", key) for key in ignored})  # without the numbers of layers
    more = f" and {len(kinds) - MAX_KINDS} kinds more" if len(kinds) > MAX_KINDS else ""
    return [
        f"{len(ignored)} stored tensors are no weights of the text model and were not read: "
        f"{', '.join(kinds[:MAX_KINDS])}{more}"
    ]
