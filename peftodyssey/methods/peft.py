"""Any adapter of the PEFT library, by the name of its type and the fields of its config, handed on unchanged. In
METHODS as `peft`.

Refused: prompt learning, whose virtual tokens shift rows and positions, and the few types of REFUSED. Some types do not
start at the base's own function (FOURIERFT, UNILORA draw their weights); that is PEFT's choice and shows at step 0.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter import attach_adapter, detach_adapter, export_adapter, merge_adapter
from peftodyssey.methods.lora import DATA_DRIVEN_INITS
from peftodyssey.methods.modules import linear_modules
from peftodyssey.methods.peft_param_count import count_on_empty_model
from peftodyssey.methods.peft_types import SET_BY_PEFT, config_fields_by_type
from peftodyssey.methods.protocol import AttachedMethod, MethodImpl
from peftodyssey.methods.saved import load_folder
from peftodyssey.methods.targets import as_tuple, target_problems
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

VIRTUAL_TOKENS = "puts virtual tokens before each sequence, which packing, windows and per-token scores do not allow"
REFUSED = {
    **dict.fromkeys(
        ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "CARTRIDGE"), VIRTUAL_TOKENS
    ),
    "ADAPTION_PROMPT": "changes the attention itself and cannot be taken off exactly",
    "ADALORA": "needs a call after every optimiser step, without which it never gives ranks away; use lora",
    "POLY": "needs a task number with every sequence",
    "SHADOW": "runs a second model beside the base",
    "XLORA": "mixes adapters that exist already; score these with `saved`",
}


def type_name(point: MethodSpec) -> str:
    """The PEFT type in capitals."""
    return str(point.options.get("peft_type", "")).upper()


def config_fields(point: MethodSpec) -> dict[str, Any]:
    """The fields of the config as given."""
    return dict(point.options.get("config") or {})


def check(point: MethodSpec, anatomy: ModelShape) -> list[str]:
    """Unknown or refused types, unknown fields, targets that match nothing."""
    name, types = type_name(point), config_fields_by_type()
    if name in REFUSED:
        return [f"PEFT's {name} {REFUSED[name]}"]
    if name not in types:
        return [f"PEFT has no type {name!r}; {_nearest(name, tuple(types))}"]
    problems = [
        f"PEFT's {name} has no field {key!r}; {_nearest(key, types[name])}"
        for key in config_fields(point)
        if key not in types[name]
    ]
    if config_fields(point).get("init_lora_weights") in DATA_DRIVEN_INITS:
        problems.append("a start that looks at data before training is not done here")
    return problems + _target_problems(point, anatomy)


def _target_problems(point: MethodSpec, anatomy: ModelShape) -> list[str]:
    """For lists of targets; one word is a pattern to PEFT, and LN_TUNING and TRAINABLE_TOKENS sit on other modules."""
    targets = config_fields(point).get("target_modules")
    if isinstance(targets, str) or targets is None or type_name(point) in ("LN_TUNING", "TRAINABLE_TOKENS"):
        return []
    return target_problems(anatomy, as_tuple(tuple(targets)))


def _nearest(word: str, known: tuple[str, ...]) -> str:
    close = get_close_matches(word, known, 1, 0.5)
    return (f"did you mean {close[0]!r}? " if close else "") + f"there are {', '.join(sorted(known))}"


def config(point: MethodSpec) -> Any:
    """PEFT's config of the point. Raises MethodError with PEFT's reason where it refuses."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    name, given = type_name(point), config_fields(point)
    if name in REFUSED:
        raise MethodError(f"PEFT's {name} {REFUSED[name]}", "use another type")
    if name not in config_fields_by_type():
        raise MethodError(f"PEFT has no type {name!r}", _nearest(name, tuple(config_fields_by_type())))
    unknown = [key for key in given if key in SET_BY_PEFT or key not in config_fields_by_type()[name]]
    if unknown:
        raise MethodError(
            f"PEFT's {name} has no field {unknown[0]!r} to set", _nearest(unknown[0], config_fields_by_type()[name])
        )
    try:
        return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)](task_type="CAUSAL_LM", **given)
    except (ValueError, TypeError) as error:
        raise MethodError(f"PEFT's {name} refuses its fields: {error}", "change them") from error


def count(point: MethodSpec, anatomy: ModelShape) -> int:
    """What PEFT makes trainable on empty matrices of the model's names and sizes; imports torch, as only PEFT knows."""
    given = config_fields(point)
    if type_name(point) == "TRAINABLE_TOKENS":
        return len(given.get("token_indices") or ()) * anatomy.hidden
    if type_name(point) == "LN_TUNING":
        return anatomy.norm_parameters
    return count_on_empty_model(config(point), anatomy)


def attach(model: PreTrainedModel, point: MethodSpec, seed: int) -> AttachedMethod:
    """PEFT's adapter on the model."""
    made = config(point)
    if type_name(point) == "LN_TUNING" and made.target_modules is None:
        made.target_modules = _norms(model)
    return attach_adapter(model, made, point, seed)


def _norms(model: PreTrainedModel) -> list[str]:
    """Full names of all modules whose own parameters are vectors and that are no linear maps: PEFT's default misses
    some.
    """
    linears = set(linear_modules(model))
    return [
        name
        for name, module in model.named_modules()
        if name not in linears and (own := list(module.parameters(recurse=False))) and all(p.ndim == 1 for p in own)
    ]


PEFT = MethodImpl(
    "peft",
    "any adapter of the PEFT library, by type and fields",
    check,
    count,
    attach,
    export_adapter,
    load_folder,
    merge_adapter,
    detach_adapter,
)
