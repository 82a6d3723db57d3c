"""What the store's plan file says of one cell: its coordinates, and the folders that its row of results comes from.

The report reads it back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from peftodyssey.plan.host_and_disk import planned_bytes
from peftodyssey.plan.tasks import CellTask
from peftodyssey.plan.text_tasks import TextColumns
from peftodyssey.recipe import grid
from peftodyssey.recipe.cell import Cell, QuantSpec
from peftodyssey.recipe.identity import digest, identity


def entry(task: CellTask, texts: Sequence[TextColumns], facts: Mapping[str, Any]) -> dict[str, Any]:
    """The cell's line of the plan file, of plain JSON values. `texts`: test, validation, then the general texts.

    `facts` are those of the cell's identity.
    """
    test, valid, *general = texts
    cell = task.cell
    scoring = digest({"score": asdict(cell.score), "general": [text.index.identity for text in general]})[:8]
    return {
        "cell": task.short_hash,
        "slug": task.folder.split("/", 1)[1],
        "folder": task.folder,
        "group": group_of(cell),
        "scoring": scoring,
        "setting": _setting(cell, facts, scoring),
        "coordinates": _coordinates(task),
        "train_index": task.train_index,
        "saved": cell.method.options.get("path") if cell.method.method == "saved" else None,
        "scores": {
            "test": test.folders,
            "valid": valid.folders,
            "general": [text.entry for text in general],
        },
    }


def group_of(cell: Cell) -> str:
    """What cells share that differ only in their seed and a tuned learning rate, and are scored alike."""
    return f"{grid.tune_group(cell)}-{digest({'score': asdict(cell.score)})[:8]}"


def _setting(cell: Cell, facts: Mapping[str, Any], scoring: str) -> str:
    """What cells share that differ in nothing but their seed, and a tuned learning rate; 16 hex digits."""
    method = replace(cell.method, lr=None) if cell.method.tuned else cell.method
    return digest({**identity(replace(cell, seed=0, method=method), facts), "scoring": scoring})[:16]


def _coordinates(task: CellTask) -> dict[str, Any]:
    cell, method, base = task.cell, task.cell.method, task.base
    targets = method.targets if method.targets is None or isinstance(method.targets, str) else ",".join(method.targets)
    optimizer = f"{task.auto_values['optimizer']}, {task.auto_values['optimizer_state']} state"
    return {
        "label": method.label,
        "model": cell.model.name,
        "revision": base.source.revision,
        "pretrain_tokens": base.source.pretrain_tokens,
        "arm": base.source.arm,
        "method": method.method,
        "rank": method.rank,
        "alpha": method.alpha,
        "targets": targets,
        "quant": _quant(method.quant),
        "precision": task.auto_values["precision"],
        "optimizer": optimizer if method.lr else None,
        "lr": method.lr,
        "budget": cell.train.budget if method.lr else None,
        "domain": cell.domain.name,
        "newline": cell.domain.newline,
        "objective": cell.train.objective,
        "seed": cell.seed,
        "l2_sp": method.options.get("l2_sp"),
        "norm_ball": method.options.get("norm_ball"),
        "replay": method.options.get("replay"),
        "early_stop": (method.options.get("early_stop") or {}).get("general"),
        "trainable_params": task.trainable,
        "context": cell.score.context,
        "stride": cell.score.stride,
        "score_tokens": cell.score.tokens,
        "planned_memory_bytes": planned_bytes(task),
    }


def _quant(quant: QuantSpec | None) -> str | None:
    if quant is None:
        return None
    return quant.kind + ("+dq" if quant.double_quant and quant.kind != "int8" else "")
