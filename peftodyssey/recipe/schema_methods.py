"""The methods of a recipe as pydantic classes, one per constraint on the update.

A list on a field marked "axis" makes one cell per value. Default learning rates: full fine-tuning 1e-4, LoRA and QLoRA
1e-3, because published sweeps find LoRA's best learning rate about ten times that of full fine-tuning at any rank
("LoRA Without Regret", Thinking Machines 2025; Biderman et al., arXiv 2405.09673).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, WithJsonSchema

from peftodyssey.recipe.field_syntax import (
    Alphas,
    Dropouts,
    Flags,
    LearningRates,
    LearningRateSpec,
    OrList,
    Ranks,
    Targets,
)
from peftodyssey.recipe.field_types import NonEmptyStr, NonNegativeInt, refuse
from peftodyssey.recipe.schema_constraints import MethodSection, Regularized, ReplayAndEarlyStop

INITS = ("default", "gaussian", "pissa", "olora", "orthogonal")
_PEFT_TYPE_NAMES = """
PROMPT_TUNING MULTITASK_PROMPT_TUNING P_TUNING PREFIX_TUNING LORA ADALORA ADAMSS BOFT ADAPTION_PROMPT IA3 BEFT
LILY LOHA LOKR OFT POLY LN_TUNING VERA FROD PVERA FOURIERFT GLORA XLORA HRA VBLORA UNILORA CPT MISS RANDLORA
ROAD TRAINABLE_TOKENS HIRA SHIRA C3A WAVEFT OSF DELORA GRALORA CARTRIDGE TINYLORA PSOFT PEANUT SHADOW
SUPERTUNING DEFT
"""
PEFT_TYPES = tuple(_PEFT_TYPE_NAMES.split())  # of peft 0.21, for spelling only; other names are passed on to PEFT


def _init(value: Any) -> str:
    if isinstance(value, str) and (value in INITS or re.fullmatch(r"pissa_niter_[1-9]\d*", value)):
        return value
    hint = "initialisations that look at data (eva, corda, loftq, lora_ga) are not supported"
    raise refuse("not an initialisation of LoRA", ", ".join((*INITS, "pissa_niter_<n>")), hint)


def _peft_type(value: Any) -> str:
    from difflib import get_close_matches

    name = str(value).strip().upper()
    close = get_close_matches(name, PEFT_TYPES, 1, 0.8)
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", name) or (close and name not in PEFT_TYPES):
        hint = f"did you mean {close[0]}?" if close else "see the list of PEFT types in peft's documentation"
        raise refuse("not a type of PEFT adapter", ", ".join(PEFT_TYPES), hint)
    return name


Init = Annotated[
    str,
    BeforeValidator(_init),
    WithJsonSchema({"anyOf": [{"enum": list(INITS)}, {"pattern": "^pissa_niter_[1-9][0-9]*$"}]}),
]
Inits = Annotated[tuple[Init, ...], OrList()]
Quants = Annotated[tuple[Literal["nf4", "fp4", "int8"], ...], OrList()]
FourBits = Annotated[tuple[Literal["nf4", "fp4"], ...], OrList()]
MasterWeights = Annotated[tuple[Literal["fp32", "bf16"], ...], OrList()]
LayerCounts = Ranks


class Full(Regularized):
    """Every weight of the model is trained."""

    method: Literal["full"] = Field(description="Full fine-tuning; a word.")
    lr: LearningRates = Field(
        default=LearningRateSpec(fixed=(1e-4,)),
        description="Peak learning rate, per step; axis. Default 1e-4, a tenth of LoRA's.",
    )
    master_weights: MasterWeights = Field(
        default=("fp32",),
        description="Data type of the trained weights: fp32, or bf16 where train.precision is bf16; axis, a word.",
    )
    dropout: Annotated[tuple[Literal["none", "config"], ...], OrList()] = Field(
        default=("none",),
        description="Dropout in training: none, or config, that of hidden states and attention probabilities in the "
        "base's config (0.1 in GPT-2); axis, a word.",
    )


class _LowRank(Regularized):
    rank: Ranks = Field(default=(8,), description="LoRA's rank r of each update; axis, a count.")
    alpha: Alphas = Field(
        default=("2r",),
        description="LoRA's alpha: the update is scaled by alpha / rank; a number or a multiple of the rank (2r); "
        "axis.",
    )
    targets: Targets = Field(
        default=("all-linear",),
        description="Target modules: all-linear (every linear layer of the decoder) or a list of module names; a list "
        "of lists is an axis.",
    )
    dropout: Dropouts = Field(default=(0.0,), description="Dropout on the adapter's input in training, 0 to 1; axis.")
    lr: LearningRates = Field(
        default=LearningRateSpec(fixed=(1e-3,)),
        description="Peak learning rate, per step; axis. Default 1e-3, ten times that of full fine-tuning, as "
        "published sweeps find.",
    )
    rslora: Flags = Field(
        default=(False,),
        description="rsLoRA: the update is scaled by alpha / sqrt(rank); true or false; axis.",
    )
    dora: Flags = Field(
        default=(False,),
        description="DoRA: magnitude and direction of each weight column are trained separately; true or false; axis.",
    )
    init: Inits = Field(
        default=("default",),
        description="Initialisation of the adapter: default (B = 0), gaussian, pissa, pissa_niter_<n>, olora, "
        "orthogonal; axis, a word.",
    )
    double_quant: Flags = Field(
        default=(True,),
        description="Double quantisation: the scales of a 4-bit base are quantised too, which saves 0.4 bits a "
        "weight; true or false; axis.",
    )


class Lora(_LowRank):
    """A low-rank update of each targeted matrix."""

    method: Literal["lora"] = Field(description="LoRA; a word.")
    quant: Quants | None = Field(
        default=None,
        description="Quantisation of the frozen base: nf4, fp4 (4 bits) or int8 (8 bits); axis, a word. Default: none.",
    )


class Qlora(_LowRank):
    """LoRA on a base that is quantised to 4 bits."""

    method: Literal["qlora"] = Field(description="QLoRA; a word.")
    quant: FourBits = Field(
        default=("nf4",), description="4-bit quantisation of the frozen base, nf4 or fp4; axis, a word."
    )


class Bitfit(Regularized):
    """Only the biases are trained; an error where a model has none."""

    method: Literal["bitfit"] = Field(description="BitFit; a word.")
    lr: LearningRates = Field(
        default=LearningRateSpec(fixed=(1e-3,)),
        description="Peak learning rate, per step; axis. Default 1e-3, because few parameters are trained.",
    )


class LastLayers(Regularized):
    """Only the last decoder layers are trained."""

    method: Literal["last_layers"] = Field(description="Training of the last decoder layers; a word.")
    layers: LayerCounts = Field(default=(1,), description="How many decoder layers, counted from the end; axis.")
    lr: LearningRates = Field(
        default=LearningRateSpec(fixed=(1e-4,)),
        description="Peak learning rate, per step; axis. Default 1e-4, as for full.",
    )


class Ia3(ReplayAndEarlyStop):
    """Learned scales on keys, values and the feed-forward."""

    method: Literal["ia3"] = Field(description="IA3; a word.")
    targets: Targets | None = Field(
        default=None,
        description="Target modules: module names or all-linear; a list of lists is an axis. Default: keys, values "
        "and the feed-forward's inner activations.",
    )
    lr: LearningRates = Field(
        default=LearningRateSpec(fixed=(1e-2,)),
        description="Peak learning rate, per step; axis. Default 1e-2, as scales start at 1.",
    )


class Peft(ReplayAndEarlyStop):
    """Any adapter type of the PEFT library, by its name and the fields of its config."""

    method: Literal["peft"] = Field(description="An adapter of the PEFT library; a word.")
    peft_type: Annotated[str, BeforeValidator(_peft_type)] = Field(
        description="Name of PEFT's type, such as VERA or LOKR; a word."
    )
    config: dict[str, Any] = Field(
        default_factory=dict, description="Fields of PEFT's config class, passed on unchanged; a mapping."
    )
    lr: LearningRates = Field(
        default=LearningRateSpec(fixed=(1e-3,)),
        description="Peak learning rate, per step; axis. Default 1e-3, as for LoRA.",
    )


class Truncate(MethodSection):
    """The update of full fine-tuning cut to a rank after training: it is scored, not trained."""

    method: Literal["truncate"] = Field(
        description="The update of every `full` of the recipe without further constraints, at each of its learning "
        "rates and seeds, cut to a rank by singular value decomposition; a word."
    )
    rank: Annotated[tuple[NonNegativeInt, ...], OrList()] = Field(
        default=(8,),
        description="Rank to which the update of every matrix is cut, embeddings and head included; 0 removes it; "
        "axis, a count.",
    )
    vectors: Annotated[tuple[Literal["in", "out"], ...], OrList()] = Field(
        default=("in", "out"),
        description="Whether the update of norms and biases, which have no rank, stays in or is left out; axis, a "
        "word. Default: both.",
    )


class Saved(MethodSection):
    """An adapter or a model that exists already: it is scored, not trained."""

    method: Literal["saved"] = Field(description="A saved adapter or model; a word.")
    path: NonEmptyStr = Field(description="Folder of the adapter or model, relative to the recipe's folder; a path.")


def _which(value: Any) -> str | None:
    name = value.get("method") if isinstance(value, dict) else getattr(value, "method", None)
    return name if isinstance(name, str) else None


AnyMethod = Annotated[
    Annotated[Full, Tag("full")]
    | Annotated[Lora, Tag("lora")]
    | Annotated[Qlora, Tag("qlora")]
    | Annotated[Bitfit, Tag("bitfit")]
    | Annotated[LastLayers, Tag("last_layers")]
    | Annotated[Ia3, Tag("ia3")]
    | Annotated[Peft, Tag("peft")]
    | Annotated[Truncate, Tag("truncate")]
    | Annotated[Saved, Tag("saved")],
    Discriminator(_which),
]
METHOD_CLASSES: dict[str, type[MethodSection]] = {
    tag.tag: kind for kind, tag in map(get_args, get_args(get_args(AnyMethod)[0]))
}
