"""Which linear maps of a model a method sits on, in words: without torch. Called by `lora`, `ia3` and `peft`.

A target matches as in PEFT: a module's full name, or the end of it after a dot (`q_proj`, `mlp.c_proj`).
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from peftodyssey.model_shape import LinearShape, ModelShape

ALL_LINEAR = "all-linear"
CONV1D_FAMILIES = ("gpt2", "openai-gpt", "imagegpt")  # families made of Conv1D, whose weights are (in, out)


def matches(name: str, target: str) -> bool:
    """Whether the module `name` is meant by `target`."""
    return name == target or name.endswith(f".{target}")


def as_tuple(targets: str | Sequence[str] | None) -> tuple[str, ...]:
    """`targets` as a tuple: one word is a list of one."""
    return (targets,) if isinstance(targets, str) else tuple(targets or ())


def target_linears(anatomy: ModelShape, targets: str | Sequence[str] | None) -> tuple[LinearShape, ...]:
    """The linear maps of the decoder layers that `targets` means, in module order; all of them for None and
    `all-linear`.
    """
    words = as_tuple(targets)
    if not words or words == (ALL_LINEAR,):
        return anatomy.linears
    return tuple(m for m in anatomy.linears if any(matches(m.name, word) for word in words))


def target_problems(anatomy: ModelShape, targets: str | Sequence[str] | None) -> list[str]:
    """One sentence for each target that means no linear map of the decoder layers."""
    leaves = sorted({m.leaf for m in anatomy.linears})
    problems = []
    for word in as_tuple(targets):
        if word == ALL_LINEAR or any(matches(m.name, word) for m in anatomy.linears):
            continue
        close = get_close_matches(word, leaves, 1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        problems.append(
            f"target {word!r} matches no linear map of the decoder layers; there are {', '.join(leaves)}{hint}"
        )
    return problems


def shortest_target_modules(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Targets that mean `names` and none of `others`: their last parts where these are enough, else the full names."""
    leaves = {name.rsplit(".", 1)[-1] for name in names}
    chosen = set(names)
    clash = any(name not in chosen and name.rsplit(".", 1)[-1] in leaves for name in others)
    return list(names) if clash else sorted(leaves)
