"""Which linear maps of a model `target_modules` means, by name and without torch.

A target matches as in PEFT: a module's full name, or its end after a dot (`q_proj`, `mlp.c_proj`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from peftodyssey.model_shape import LinearShape, ModelShape

ALL_LINEAR = "all-linear"
CONV1D_FAMILIES = ("gpt2", "openai-gpt", "imagegpt")  # their linear maps are Conv1D, whose weights are (in, out)

NOT_ADAPTED = re.compile(
    r"\.(mamba|mixer)\.out_proj$"  # state-space kernels read its weight and pass an adapter by
    r"|\.shared_expert_gate$"  # one output
)
EXPERT_MAPS = ("gate_proj", "up_proj", "down_proj", "w1", "w2", "w3")  # PEFT takes these names for fused experts
SHARED_EXPERT = ".shared_expert"

Targets = str | Sequence[str] | None


def matches(name: str, target: str) -> bool:
    """Whether `target` means the module `name`."""
    return name == target or name.endswith(f".{target}")


def as_tuple(targets: Targets) -> tuple[str, ...]:
    """`targets` as a tuple; one name is a tuple of one."""
    return (targets,) if isinstance(targets, str) else tuple(targets or ())


def select_names(names: Sequence[str], targets: Targets) -> list[str]:
    """Those of `names` that `targets` means, in their order.

    None and `all-linear` mean all but those on which an adapter has no effect or no room: the output of state-space
    layers, gates of one output; and beside fused experts the maps that have an expert's name.
    """
    words = as_tuple(targets)
    if not words or ALL_LINEAR in words:
        with_experts = any(SHARED_EXPERT in name for name in names)
        return [
            n for n in names if not NOT_ADAPTED.search(n) and not (with_experts and n.rpartition(".")[2] in EXPERT_MAPS)
        ]
    return [name for name in names if any(matches(name, word) for word in words)]


def target_linears(shape: ModelShape, targets: Targets) -> tuple[LinearShape, ...]:
    """The linear maps of the decoder layers that `targets` means, in module order."""
    selected = set(select_names([m.name for m in shape.linears], targets))
    return tuple(m for m in shape.linears if m.name in selected)


def adapter_share(shape: ModelShape, targets: Targets) -> str:
    """Which share of the weights an adapter on `targets` changes, and which kinds of weights it does not, in words."""
    adapted = target_linears(shape, targets)
    taken = {linear.name for linear in adapted}
    others: dict[str, int] = {}
    for linear in shape.linears:
        if linear.name not in taken:
            others[linear.leaf] = others.get(linear.leaf, 0) + linear.parameters
    rest = shape.norm_parameters - shape.expert_parameters
    kinds = {
        "experts that are stored in one tensor": shape.expert_parameters,
        "embeddings": shape.embedding_parameters,
        "the head": shape.head_parameters,
        **others,
        "norms, convolutions and states": rest,
    }

    def share(count: int) -> str:
        percent = 100 * count / shape.parameters
        return f"{percent:.0f} %" if percent >= 1 else "under 1 %"

    leaves = ", ".join(dict.fromkeys(linear.leaf for linear in adapted))
    left = ", ".join(f"{name} ({share(count)})" for name, count in kinds.items() if count)
    return f"{share(sum(m.parameters for m in adapted))} of the weights have an adapter ({leaves}); without one: {left}"


def target_problems(names: Iterable[str], targets: Targets) -> list[str]:
    """One sentence for each target that means none of `names`, the linear maps of the decoder layers."""
    names = list(names)
    leaves = sorted({name.rsplit(".", 1)[-1] for name in names})
    return [
        f"target {word!r} matches no linear map of the decoder layers; there are {', '.join(leaves)}"
        + (f"; {hint}" if (hint := did_you_mean(word, leaves)) else "")
        for word in as_tuple(targets)
        if word != ALL_LINEAR and not any(matches(name, word) for name in names)
    ]


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """`did you mean 'x'?` with the nearest of `known`; empty where none is near."""
    near = get_close_matches(word, list(known), 1, cutoff)
    return f"did you mean {near[0]!r}?" if near else ""


def shortest_target_modules(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """`target_modules` that mean `names` and none of `others`: last parts of the names, or full names where needed."""
    leaves = {name.rsplit(".", 1)[-1] for name in names}
    chosen = set(names)
    is_ambiguous = any(name not in chosen and name.rsplit(".", 1)[-1] in leaves for name in others)
    return list(names) if is_ambiguous else sorted(leaves)
