"""Short labels that distinguish the methods of one recipe: `full`, `lora r=8`, `lora r=8 alpha=32`."""

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
    "vectors",
    "l2_sp",
    "norm_ball",
    "replay",
    "early_stop",
    "config",
    "lr",
)


def plain_label(spec: MethodSpec) -> str:
    """The label of a method by itself: its name, its rank, and what is unusual about it."""
    options, words = spec.options, [spec.method]
    if spec.method == "saved":
        return Path(options["path"]).name or "saved"
    if spec.method == "peft":
        return " ".join([f"peft {options['peft_type']}", *constraint_words(options)])
    if spec.quant and spec.quant.kind != "nf4":
        words.append(spec.quant.kind)
    if spec.rank is not None:
        words.append(f"r={spec.rank}")
    if "layers" in options:
        words.append(str(options["layers"]))
    words += [key for key in ("rslora", "dora") if options.get(key)]
    words += ["no vectors"] if options.get("vectors") == "out" else []
    if options.get("init", "default") != "default":
        words.append(options["init"])
    return " ".join([*words, *constraint_words(options)])


def constraint_words(options: dict[str, Any]) -> list[str]:
    """The constraints on the update in a label: `l2_sp=1`, `early_stop=0.02`."""
    words = [f"{name}={options[name]:g}" for name in ("l2_sp", "norm_ball", "replay") if options.get(name)]
    if options.get("early_stop"):
        words.append(f"early_stop={options['early_stop']['general']:g}")
    return words


def _settings(spec: MethodSpec) -> dict[str, Any]:
    """The settings that may distinguish a method from another, in the order of a label; a tuned lr does not."""
    settings = {
        "quant": spec.quant and spec.quant.kind,
        "double_quant": spec.quant and spec.quant.double_quant,
        "rank": spec.rank,
        "alpha": spec.alpha,
        "targets": spec.targets,
        "dropout": spec.dropout,
        "lr": None if spec.tuned else spec.lr,
        **spec.options,
    }
    return {name: settings.get(name) for name in DISTINGUISHING}


def labelled(specs: Sequence[MethodSpec]) -> list[MethodSpec]:
    """`specs` with labels that differ wherever the specs do, except in tuned learning rates."""
    groups: dict[str, list[MethodSpec]] = defaultdict(list)
    for spec in specs:
        groups[spec.label or plain_label(spec)].append(spec)
    taken: dict[str, MethodSpec] = {}
    return [
        replace(spec, label=_unique(_distinguished(spec, groups[spec.label or plain_label(spec)]), spec, taken))
        for spec in specs
    ]


def _distinguished(spec: MethodSpec, group: Sequence[MethodSpec]) -> str:
    """The label that `group` shares, with the settings that distinguish `spec` from the others of the group."""
    label, settings = spec.label or plain_label(spec), _settings(spec)
    same_label = [other for other in map(_settings, group) if other != settings]
    for name in DISTINGUISHING:
        if any(other[name] != settings[name] for other in same_label):
            label = _added(label, name, settings[name]) if settings[name] is not None else label
            same_label = [other for other in same_label if other[name] == settings[name]]
    return label


def _unique(label: str, spec: MethodSpec, taken: dict[str, MethodSpec]) -> str:
    """`label`, numbered where another method has it: two saved adapters of one folder name, or two PEFT configs."""
    options = {key: value for key, value in spec.options.items() if key != "wise_ft"}
    unlabelled = replace(spec, label="", lr=None if spec.tuned else spec.lr, options=options)
    number, candidate = 1, label
    while taken.setdefault(candidate, unlabelled) != unlabelled:
        number += 1
        candidate = f"{label} #{number}"
    return candidate


def _added(label: str, name: str, value: Any) -> str:
    if isinstance(value, bool):
        word = name if value else f"no {name}"
        return label if name in label.split() or (not value and name != "double_quant") else f"{label} {word}"
    if name == "vectors":  # the plain label has it
        return label if "no vectors" in label or value == "in" else f"{label} no vectors"
    if name in ("quant", "init"):
        return label if str(value) in label.split() or value == "default" else f"{label} {value}"
    if name == "rank":
        return f"{label} r={value}"
    if isinstance(value, dict):
        keys = [key for key in sorted(value) if (name, key) != ("early_stop", "general")]  # the plain label has it
        words = (f"{key}={value[key]:g}" if isinstance(value[key], float) else f"{key}={value[key]}" for key in keys)
        return " ".join([label, *words])
    if isinstance(value, tuple):
        return f"{label} {name}={'+'.join(value)}"
    word = f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
    return label if word in label.split() else f"{label} {word}"
