"""What makes two cells the same result: the fields of a cell that change it, and their hash.

Names, paths and labels are not hashed. Content is, by the fingerprints in `facts`, and so is what `auto` was resolved
to. A field is hashed only where it differs from its default below. These defaults never change: a new default in the
schema then gives a new hash, as it must, and a new field at its default leaves the old hashes as they are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from peftodyssey.recipe.cell import (
    Cell,
    CorpusSpec,
    MethodSpec,
    ModelSpec,
    QuantSpec,
    TrainSpec,
)

# Fields that say how, where or under what name; every other field of these classes is hashed.
EXCLUDED_FIELDS: dict[type, frozenset[str]] = {
    # what is scored, and how, is in the identity of each column; facts hold the content of the texts
    Cell: frozenset({"recipe", "general", "score", "tasks", "replay", "early_stop_text"}),
    ModelSpec: frozenset({"name", "revision", "weights"}),  # facts["model"] is their content
    CorpusSpec: frozenset({"name", "source", "revision"}),  # facts["domain"] is their content
    MethodSpec: frozenset({"label", "tuned", "max_cells"}),
    QuantSpec: frozenset(),
    # facts hold what the first two were resolved to, and the chat template with the domain
    TrainSpec: frozenset({"precision", "optimizer", "multi_lora", "halving", "chat_template"}),
}
EXCLUDED_OPTIONS = frozenset({"path", "wise_ft"})  # facts["saved"] is the content of `path`; `wise_ft` only scores

DEFAULTS: dict[type, dict[str, Any]] = {
    Cell: {},
    ModelSpec: {"max_position_embeddings": None},
    CorpusSpec: {
        "field": None,
        "config": None,
        "split": {},
        "newline": "keep",
        "special_tokens": "text",
        "columns": {},
        "bad_rows": "error",
        "dedupe": "off",
    },
    MethodSpec: {
        "lr": None,
        "rank": None,
        "alpha": None,
        "targets": None,
        "dropout": 0.0,
        "quant": None,
        "options": {},
    },
    QuantSpec: {},
    TrainSpec: {
        "budget_tokens": None,
        "budget_epochs": None,
        "budget_steps": None,
        "weight_decay": 0.0,
        "grad_clip": 1.0,
        "betas": (0.9, 0.999),
        "objective": "text",
        "too_long": None,
        "eval_at": (1.0,),
        "engine": "native",
        "warmup_steps": None,
    },
}
OPTION_DEFAULTS = {
    "rslora": False,
    "dora": False,
    "init": "default",
    "master_weights": "fp32",
    "dropout": "none",
    "config": {},
    "l2_sp": 0.0,
    "replay": 0.0,
}
FACTS = (
    "model",
    "tokenizer",
    "domain",
    "precision",
    "compute_dtype",
    "optimizer",
    "optimizer_state",
    "master_weights",
)
OPTION_FACTS = ("replay", "early_stop")  # facts that are needed where the method has the option: its text
UNTRAINED_FACTS = ("model", "tokenizer", "domain", "precision", "compute_dtype", "saved")


def hashed_fields(cell: Cell) -> dict[str, Any]:
    """The fields of `cell` that change its result, defaults left out, without the content that only `facts` hold."""
    hashed = _part(cell)
    if cell.method.method == "saved":  # nothing is drawn or trained
        hashed = {key: value for key, value in hashed.items() if key not in ("seed", "train")}
    return hashed


def _part(point: Any) -> dict[str, Any]:
    kind, part = type(point), {}
    for field in fields(point):
        value = getattr(point, field.name)
        if field.name in EXCLUDED_FIELDS[kind] or (
            field.name in DEFAULTS[kind] and value == DEFAULTS[kind][field.name]
        ):
            continue
        if kind is MethodSpec and field.name == "options":
            value = {
                k: v
                for k, v in value.items()
                if k not in EXCLUDED_OPTIONS and not (k in OPTION_DEFAULTS and v == OPTION_DEFAULTS[k])
            }
            if not value:
                continue
        part[field.name] = _plain(value)
    return part


def _plain(value: Any) -> Any:
    if type(value) in EXCLUDED_FIELDS:
        return _part(value)
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def identity(cell: Cell, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the hash of `cell` covers, readable: its fields, and the facts about its sources.

    `facts` holds the fingerprints `model`, `tokenizer` and `domain`, and what `auto` became: `precision`,
    `compute_dtype`, `optimizer`, `optimizer_state`, `master_weights`. A `saved` cell needs `saved`, the fingerprint of
    what is scored, in place of the last three; an option of OPTION_FACTS needs the one of its name. Raises KeyError for
    a missing fact.
    """
    always = UNTRAINED_FACTS if cell.method.method == "saved" else FACTS
    names = (*always, *(name for name in OPTION_FACTS if cell.method.options.get(name)))
    needed = {name: facts[name] for name in names}
    return {
        "science": hashed_fields(cell),
        "facts": {name: value for name, value in needed.items() if value is not None},
    }


def canonical(value: Any, where: str = "identity") -> str:
    """`value` as canonical JSON: sorted keys, no spaces, floats by `repr`, whole floats as integers.

    Raises TypeError for what has no stable form (objects, sets, bytes, keys that are not text) and ValueError for NaN.
    """
    if value is None or isinstance(value, (bool, str)):
        return json.dumps(value, ensure_ascii=True)
    if type(value) is int:
        return str(value)
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which has no stable identity")
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(canonical(item, f"{where}[{i}]") for i, item in enumerate(value)) + "]"
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}, which is not text")
        return "{" + ",".join(f"{json.dumps(k)}:{canonical(value[k], f'{where}.{k}')}" for k in sorted(value)) + "}"
    raise TypeError(f"{where} is a {type(value).__name__}, which has no stable identity")


def digest(identity: Mapping[str, Any]) -> str:
    """The sha256, in hex, of the canonical JSON of `identity`."""
    return hashlib.sha256(canonical(identity).encode("ascii")).hexdigest()
