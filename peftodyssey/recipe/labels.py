"""Short labels that tell the methods of one recipe apart: `full`, `lora r=8`, `lora r=8 alpha=32`.

Called by `recipe.grid`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftodyssey.recipe.cell import MethodSpec

DISTINGUISHING = (
    "quant",
    "double_quant",
    "rank",
    "alpha",
    "targets",
    "dropout",
    "rslora",
    "dora",
    "init",
    "master_weights",
    "layers",
    "l2_sp",
    "norm_ball",
    "replay",
    "early_stop",
    "config",
    "lr",
)


def plain_label(point: MethodSpec) -> str:
    """The label of a method by itself: its name, its rank, and what is unusual about it."""
    options, words = point.options, [point.method]
    if point.method == "saved":
        return Path(options["path"]).name or "saved"
    if point.method == "peft":
        return " ".join([f"peft {options['peft_type']}", *constraint_words(options)])
    if point.quant and point.quant.kind != "nf4":
        words.append(point.quant.kind)
    if point.rank is not None:
        words.append(f"r={point.rank}")
    if "layers" in options:
        words.append(str(options["layers"]))
    words += [key for key in ("rslora", "dora") if options.get(key)]
    if options.get("init", "default") != "default":
        words.append(options["init"])
    return " ".join([*words, *constraint_words(options)])


def constraint_words(options: dict[str, Any]) -> list[str]:
    """How the update is held, as a label says it: `l2_sp=1`, `early_stop=0.02`."""
    found = [f"{name}={options[name]:g}" for name in ("l2_sp", "norm_ball", "replay") if options.get(name)]
    return [*found, *([f"early_stop={options['early_stop']['general']:g}"] if options.get("early_stop") else [])]


def traits(point: MethodSpec) -> dict[str, Any]:
    """What may tell a method from another, in the order it is added to a label; a tuned lr does not."""
    known = {
        "quant": point.quant and point.quant.kind,
        "double_quant": point.quant and point.quant.double_quant,
        "rank": point.rank,
        "alpha": point.alpha,
        "targets": point.targets,
        "dropout": point.dropout,
        "lr": None if point.tuned else point.lr,
        **point.options,
    }
    return {name: known.get(name) for name in DISTINGUISHING}


def labelled(points: Sequence[MethodSpec]) -> list[MethodSpec]:
    """`learning_curves` with labels that differ wherever the points do (but for tuned learning rates)."""
    groups: dict[str, list[MethodSpec]] = defaultdict(list)
    for point in points:
        groups[point.label or plain_label(point)].append(point)
    taken: dict[str, MethodSpec] = {}
    return [
        replace(point, label=_unique(_told_apart(point, groups[point.label or plain_label(point)]), point, taken))
        for point in points
    ]


def _told_apart(point: MethodSpec, group: Sequence[MethodSpec]) -> str:
    """The label that `group` shares, and as many traits as it takes to tell `point` from the others of the group."""
    label, mine = point.label or plain_label(point), traits(point)
    alike = [other for other in map(traits, group) if other != mine]
    for name in DISTINGUISHING:
        if any(other[name] != mine[name] for other in alike):
            label = _added(label, name, mine[name]) if mine[name] is not None else label
            alike = [other for other in alike if other[name] == mine[name]]
    return label


def _unique(label: str, point: MethodSpec, taken: dict[str, MethodSpec]) -> str:
    """`label`, numbered where another method has it: two saved adapters of one folder name, or two PEFT configs."""
    scored_too = {key: value for key, value in point.options.items() if key != "wise_ft"}
    bare = replace(point, label="", lr=None if point.tuned else point.lr, options=scored_too)
    number, candidate = 1, label
    while taken.setdefault(candidate, bare) != bare:
        number += 1
        candidate = f"{label} #{number}"
    return candidate


def _added(label: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        word = f"{name}" if value else f"no {name}"
        return label if name in label.split() or (not value and name != "double_quant") else f"{label} {word}"
    if name in ("quant", "init"):
        return label if str(value) in label.split() or value == "default" else f"{label} {value}"
    if name == "rank":
        return f"{label} r={value}"
    if isinstance(value, dict):
        told = [
            key for key in sorted(value) if name != "early_stop" or key != "general"
        ]  # which the label's start says
        words = (f"{key}={value[key]:g}" if isinstance(value[key], float) else f"{key}={value[key]}" for key in told)
        return " ".join([label, *words])
    if isinstance(value, tuple):
        return f"{label} {name}={'+'.join(value)}"
    word = f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
    return label if word in label.split() else f"{label} {word}"
