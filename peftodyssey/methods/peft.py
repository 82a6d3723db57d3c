"""Any adapter of the PEFT library, by the name of its type and the fields of its config, which PEFT gets unchanged.

Prompt learning, whose virtual tokens shift rows and positions, and the other types of REFUSED are refused. Some types
change the model before training (FOURIERFT and UNILORA draw their weights), as PEFT initialises them so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter import attach_adapter
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.lora import DATA_DRIVEN_INITS
from peftodyssey.methods.method import Method
from peftodyssey.methods.modules import linear_modules
from peftodyssey.methods.peft_param_count import count_on_empty_model
from peftodyssey.methods.peft_types import config_fields_by_type
from peftodyssey.methods.targets import did_you_mean, target_problems
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
    "ADALORA": "needs a call after every optimiser step, without which it never reallocates ranks; use lora",
    "POLY": "needs a task id with every sequence",
    "SHADOW": "runs a second model beside the base",
    "XLORA": "mixes existing adapters; score these with `saved`",
}


def type_name(spec: MethodSpec) -> str:
    """The PEFT type in capitals."""
    return str(spec.options.get("peft_type", "")).upper()


def config_fields(spec: MethodSpec) -> dict[str, Any]:
    """The fields of the config as given."""
    return dict(spec.options.get("config") or {})


def check(spec: MethodSpec, shape: ModelShape) -> list[str]:
    """Problems: unknown or refused types, unknown fields, targets that match nothing."""
    problems = _type_problems(spec)
    if type_name(spec) not in config_fields_by_type() or type_name(spec) in REFUSED:
        return problems
    if config_fields(spec).get("init_lora_weights") in DATA_DRIVEN_INITS:
        problems.append("init_lora_weights that needs data before training is not supported")
    return problems + _target_problems(spec, shape)


def _type_problems(spec: MethodSpec) -> list[str]:
    name, types = type_name(spec), config_fields_by_type()
    if name in REFUSED:
        return [f"PEFT's {name} {REFUSED[name]}"]
    if name not in types:
        return [f"PEFT has no type {name!r}; {_nearest(name, types)}"]
    unknown = [key for key in config_fields(spec) if key not in types[name]]
    return [f"PEFT's {name} has no field {key!r} to set; {_nearest(key, types[name])}" for key in unknown]


def _target_problems(spec: MethodSpec, shape: ModelShape) -> list[str]:
    """Problems of a list of targets; a string is a regular expression to PEFT, and two types adapt other modules."""
    targets = config_fields(spec).get("target_modules")
    if isinstance(targets, str) or targets is None or type_name(spec) in ("LN_TUNING", "TRAINABLE_TOKENS"):
        return []
    return target_problems([m.name for m in shape.linears], tuple(targets))


def _nearest(word: str, known: Iterable[str]) -> str:
    return f"{did_you_mean(word, known, 0.5)} there are {', '.join(sorted(known))}".strip()


def config(spec: MethodSpec) -> Any:
    """The PEFT config that the spec describes. Raises MethodError with PEFT's reason where it refuses."""
    from peft import PeftType
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    name = type_name(spec)
    if problems := _type_problems(spec):
        raise MethodError(problems[0], "use another type, or change its fields")
    try:
        return PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(name)](task_type="CAUSAL_LM", **config_fields(spec))
    except (ValueError, TypeError) as error:
        raise MethodError(f"PEFT's {name} refuses its fields: {error}", "change them") from error


def count(spec: MethodSpec, shape: ModelShape) -> int:
    """Parameters that PEFT makes trainable on empty linear maps of the model's names and sizes; imports torch."""
    if type_name(spec) == "TRAINABLE_TOKENS":
        return len(config_fields(spec).get("token_indices") or ()) * shape.hidden
    if type_name(spec) == "LN_TUNING":
        return shape.norm_parameters
    return count_on_empty_model(config(spec), shape)


def attach(model: PreTrainedModel, spec: MethodSpec, seed: int) -> AttachedMethod:
    """PEFT's adapter on the model."""
    peft_config = config(spec)
    if type_name(spec) == "LN_TUNING" and peft_config.target_modules is None:
        peft_config.target_modules = _norms(model)
    return attach_adapter(model, peft_config, spec, seed)


def _norms(model: PreTrainedModel) -> list[str]:
    """Full names of the modules that have only vectors and are no linear maps. PEFT's default targets miss some."""
    linears, names = linear_modules(model), []
    for name, module in model.named_modules():
        ndims = {p.ndim for p in module.parameters(recurse=False)}
        if ndims == {1} and name not in linears:
            names.append(name)
    return names


PEFT = Method("peft", "any adapter of the PEFT library, by type and fields", check, count, attach)
