"""LoRA (Hu et al., arXiv 2106.09685): a low-rank update of each targeted matrix. `qlora` is `lora` on a 4-bit base.

Options: `rslora` (alpha / sqrt(rank), arXiv 2312.03732), `dora` (separate magnitudes, arXiv 2402.09353), and `init`,
PEFT's init_lora_weights. With default and gaussian the update is 0 at first, with orthogonal nearly 0; pissa (arXiv
2404.02948), pissa_niter_<n> and olora (arXiv 2406.01775) move a part of the base weights into the adapter; mica (arXiv
2604.01694) trains lora_A only.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter import attach_adapter
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.method import Method
from peftodyssey.methods.modules import fan_in_fan_out, target_module_names
from peftodyssey.methods.targets import (
    CONV1D_FAMILIES,
    EXPERT_MAPS,
    shortest_target_modules,
    target_linears,
    target_problems,
)
from peftodyssey.model_shape import LinearShape, ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MIN_QUANTISED_SHARE = 0.9  # of the decoder's matrices
INIT_LORA_WEIGHTS = ("default", "gaussian", "orthogonal", "pissa", "olora", "mica")
DATA_DRIVEN_INITS = ("eva", "corda", "lora_ga", "loftq")


def init_lora_weights(spec: MethodSpec) -> str:
    """PEFT's init_lora_weights: one of INIT_LORA_WEIGHTS, or `pissa_niter_<n>`."""
    return str(spec.options.get("init") or "default")


def check(spec: MethodSpec, shape: ModelShape) -> list[str]:
    """Problems: targets that match nothing, a rank above a matrix's, an `init` that this base does not allow."""
    problems = target_problems([m.name for m in shape.linears], spec.targets)
    if spec.method == "qlora" and (spec.quant is None or spec.quant.kind not in ("nf4", "fp4")):
        problems.append("qlora needs a base in 4 bits: quant nf4 or fp4")
    if spec.quant and shape.quantised_share < MIN_QUANTISED_SHARE:
        problems.append(
            f"bitsandbytes would store {shape.quantised_share:.0%} of the decoder's matrices in {spec.quant.kind}: it "
            f"leaves the fused experts of {shape.family} as they are ({shape.expert_parameters:,} parameters); use lora"
        )
    expert_maps = {m.leaf for m in target_linears(shape, spec.targets)} & set(EXPERT_MAPS)
    if shape.expert_parameters and expert_maps:
        problems.append(
            f"PEFT takes {', '.join(sorted(expert_maps))} for the fused experts of {shape.family}, on which "
            "adapters are not supported; name the targets of attention"
        )
    if spec.rank is None or spec.rank < 1:
        return [*problems, f"{spec.method} needs a rank of at least 1, not {spec.rank}"]
    return problems + _rank_problems(spec.rank, target_linears(shape, spec.targets)) + _init_problems(spec, shape)


def _rank_problems(rank: int, matrices: tuple[LinearShape, ...]) -> list[str]:
    if not matrices:
        return []
    smallest = min(matrices, key=lambda m: min(m.out_features, m.in_features))
    limit = min(smallest.out_features, smallest.in_features)
    if rank <= limit:
        return []
    size = f"{smallest.out_features} x {smallest.in_features}"
    return [f"rank {rank} is larger than {smallest.name} ({size}); at most {limit} with these targets"]


def _init_problems(spec: MethodSpec, shape: ModelShape) -> list[str]:
    name, problems = init_lora_weights(spec), []
    if name in DATA_DRIVEN_INITS:
        names = ", ".join(INIT_LORA_WEIGHTS)
        problems.append(f"init {name} looks at data before training, which is not supported; there are {names}")
    elif name not in INIT_LORA_WEIGHTS and not re.fullmatch(r"pissa_niter_\d+", name):
        problems.append(f"there is no init {name!r}; there are {', '.join(INIT_LORA_WEIGHTS)}, pissa_niter_<n>")
    if spec.quant and name not in ("default", "gaussian"):
        problems.append(
            f"init {name} reads or changes the base's weights, which {spec.quant.kind} storage does not allow"
        )
    if name == "orthogonal" and spec.rank and spec.rank % 2:
        problems.append(f"init orthogonal needs an even rank, not {spec.rank}")
    if name == "olora" and shape.family in CONV1D_FAMILIES:
        problems.append(f"init olora does not support the transposed weights of {shape.family}; use pissa")
    if name == "mica" and spec.options.get("dora"):
        problems.append("init mica and dora exclude each other")
    return problems


def count(spec: MethodSpec, shape: ModelShape) -> int:
    """lora_A and lora_B of each target, and its magnitudes with dora; lora_A only with mica."""
    rank, mica, dora = spec.rank or 0, init_lora_weights(spec) == "mica", bool(spec.options.get("dora"))
    return sum(
        rank * (m.in_features + (0 if mica else m.out_features)) + (m.out_features if dora else 0)
        for m in target_linears(shape, spec.targets)
    )


def attach(model: PreTrainedModel, spec: MethodSpec, seed: int) -> AttachedMethod:
    """PEFT's LoRA on the targets; lora_alpha is twice the rank where the spec has none."""
    from peft import LoraConfig

    names, others = target_module_names(model, spec.targets)
    if spec.rank is None:
        raise MethodError(f"{spec.method} needs a rank", "give `rank: 8`")
    init = init_lora_weights(spec)
    alpha = 2 * spec.rank if spec.alpha is None else spec.alpha
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type] # PEFT takes floats too
        target_modules=shortest_target_modules(names, others),
        lora_dropout=spec.dropout,
        use_rslora=bool(spec.options.get("rslora")),
        use_dora=bool(spec.options.get("dora")),
        init_lora_weights=True if init == "default" else init,  # type: ignore[arg-type] # PEFT lists literals
        fan_in_fan_out=fan_in_fan_out(model, names),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return attach_adapter(model, config, spec, seed)


LORA = Method("lora", "a low-rank update of each targeted matrix", check, count, attach)
QLORA = Method("qlora", "a low-rank update of each targeted matrix of a base in 4 bits", check, count, attach)
