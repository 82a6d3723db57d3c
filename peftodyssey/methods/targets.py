"""Which linear maps of a model `target_modules` means, by name and without torch.

A target matches as in PEFT: a module's full name, or its end after a dot (`q_proj`, `mlp.c_proj`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from peftodyssey.model_shape import LinearShape, ModelShape

ALL_LINEAR = "all-linear"
CONV1D_FAMILIES = ("gpt2", "openai-gpt", "imagegpt")  # their linear maps are Conv1D, whose weights are (in, out)

Targets = str | Sequence[str] | None


def matches(name: str, target: str) -> bool:
    """Whether `target` means the module `name`."""
    return name == target or name.endswith(f".{target}")


def as_tuple(targets: Targets) -> tuple[str, ...]:
    """`targets` as a tuple; one name is a tuple of one."""
    return (targets,) if isinstance(targets, str) else tuple(targets or ())


def select_names(names: Sequence[str], targets: Targets) -> list[str]:
    """Those of `names` that `targets` means, in their order; all of them for None and `all-linear`."""
    words = as_tuple(targets)
    if not words or ALL_LINEAR in words:
        return list(names)
    return [name for name in names if any(matches(name, word) for word in words)]


def target_linears(shape: ModelShape, targets: Targets) -> tuple[LinearShape, ...]:
    """The linear maps of the decoder layers that `targets` means, in module order."""
    selected = set(select_names([m.name for m in shape.linears], targets))
    return tuple(m for m in shape.linears if m.name in selected)


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
