"""LoRA (Hu et al., arXiv 2106.09685): a low-rank update of each targeted matrix. In METHODS as `lora` and `qlora`.

Options: `rslora` (alpha over the root of the rank, arXiv 2312.03732), `dora` (magnitudes apart, arXiv 2402.09353),
`init`: default and gaussian start at zero; orthogonal nearly so; pissa (arXiv 2404.02948), pissa_niter_<n>, olora
(arXiv 2406.01775) take a part of the base into the adapter; mica (arXiv 2604.01694) trains A alone. `qlora` is `lora`
on a 4-bit base.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter import attach_adapter, detach_adapter, export_adapter, merge_adapter
from peftodyssey.methods.modules import fan_in_fan_out, target_module_names
from peftodyssey.methods.protocol import AttachedMethod, MethodImpl
from peftodyssey.methods.saved import load_folder
from peftodyssey.methods.targets import CONV1D_FAMILIES, shortest_target_modules, target_linears, target_problems
from peftodyssey.model_shape import LinearShape, ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INIT_LORA_WEIGHTS = ("default", "gaussian", "orthogonal", "pissa", "olora", "mica")
DATA_DRIVEN_INITS = ("eva", "corda", "lora_ga", "loftq")


def init_lora_weights(point: MethodSpec) -> str:
    """The name of the adapter's start: one of STARTS or `pissa_niter_<n>`."""
    return str(point.options.get("init") or "default")


def check(point: MethodSpec, anatomy: ModelShape) -> list[str]:
    """Targets that match nothing, a rank that a target cannot hold, starts that need something that is not there."""
    problems = target_problems(anatomy, point.targets)
    if point.method == "qlora" and (point.quant is None or point.quant.kind not in ("nf4", "fp4")):
        problems.append("qlora needs a base in 4 bits: quant nf4 or fp4")
    if point.rank is None or point.rank < 1:
        return [*problems, f"{point.method} needs a rank of at least 1, not {point.rank}"]
    return (
        problems + _rank_problems(point.rank, target_linears(anatomy, point.targets)) + _init_problems(point, anatomy)
    )


def _rank_problems(rank: int, matrices: tuple[LinearShape, ...]) -> list[str]:
    if not matrices:
        return []
    smallest = min(matrices, key=lambda m: min(m.out_features, m.in_features))
    limit = min(smallest.out_features, smallest.in_features)
    if rank <= limit:
        return []
    size = f"{smallest.out_features} x {smallest.in_features}"
    return [f"rank {rank} is larger than {smallest.name} ({size}); at most {limit} with these targets"]


def _init_problems(point: MethodSpec, anatomy: ModelShape) -> list[str]:
    name, problems = init_lora_weights(point), []
    if name in DATA_DRIVEN_INITS:
        problems.append(
            f"init {name} looks at data before training, which is not done here; there are {', '.join(INIT_LORA_WEIGHTS)}"
        )
    elif name not in INIT_LORA_WEIGHTS and not re.fullmatch(r"pissa_niter_\d+", name):
        problems.append(f"there is no init {name!r}; there are {', '.join(INIT_LORA_WEIGHTS)}, pissa_niter_<n>")
    if point.quant and name not in ("default", "gaussian"):
        problems.append(
            f"init {name} reads or changes the base's weights, which {point.quant.kind} storage does not allow"
        )
    if name == "orthogonal" and point.rank and point.rank % 2:
        problems.append(f"init orthogonal needs an even rank, not {point.rank}")
    if name == "olora" and anatomy.family in CONV1D_FAMILIES:
        problems.append(f"init olora does not know the transposed weights of {anatomy.family}; use pissa")
    if name == "mica" and point.options.get("dora"):
        problems.append("init mica and dora exclude each other")
    return problems


def count(point: MethodSpec, anatomy: ModelShape) -> int:
    """A and B of each target, its magnitudes under dora; A alone for mica, which freezes B."""
    rank, mica, dora = point.rank or 0, init_lora_weights(point) == "mica", bool(point.options.get("dora"))
    return sum(
        rank * (m.in_features + (0 if mica else m.out_features)) + (m.out_features if dora else 0)
        for m in target_linears(anatomy, point.targets)
    )


def attach(model: PreTrainedModel, point: MethodSpec, seed: int) -> AttachedMethod:
    """PEFT's LoRA on the targets; alpha is twice the rank where the point has none."""
    from peft import LoraConfig

    names, others = target_module_names(model, point.targets)
    if point.rank is None:
        raise MethodError(f"{point.method} needs a rank", "give `rank: 8`")
    init = init_lora_weights(point)
    alpha = 2 * point.rank if point.alpha is None else point.alpha
    config = LoraConfig(
        r=point.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,  # type: ignore[arg-type]
        target_modules=shortest_target_modules(names, others),
        lora_dropout=point.dropout,
        use_rslora=bool(point.options.get("rslora")),
        use_dora=bool(point.options.get("dora")),
        init_lora_weights=True if init == "default" else init,  # type: ignore[arg-type]
        fan_in_fan_out=fan_in_fan_out(model, names),
        bias="none",
        task_type="CAUSAL_LM",
    )
    return attach_adapter(model, config, point, seed)


_PARTS = (check, count, attach, export_adapter, load_folder, merge_adapter, detach_adapter)
LORA = MethodImpl("lora", "a low-rank update of each targeted matrix", *_PARTS)
QLORA = MethodImpl("qlora", "a low-rank update of each targeted matrix of a base in 4 bits", *_PARTS)
