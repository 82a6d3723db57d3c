"""What the store's plan file says of one cell: its coordinates and the folders its row is collected from.

Called by `plan.build`; read back by `report.collect`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from peftodyssey.memory.memory_plan import MemoryPlan
from peftodyssey.recipe import grid
from peftodyssey.recipe.cell import Cell, QuantSpec
from peftodyssey.recipe.identity import digest as digest_of

if TYPE_CHECKING:
    from peftodyssey.plan.tasks import BaseModelKey, IndexTask, ScoreTask


def entry(
    cell: Cell,
    digest: str,
    folder: str,
    base: BaseModelKey,
    resolved: Mapping[str, Any],
    trainable: int,
    bill: MemoryPlan,
    train_index: str | None,
    texts: Sequence[tuple[str, IndexTask]],
    columns: Mapping[str, Mapping[str, ScoreTask | None]],
) -> dict[str, Any]:
    """The cell's line of the plan file, of plain JSON values."""
    scores = {name: _folders(index, columns[name]) for name, index in texts}
    general = [{"name": name, **scores[name]} for name, _ in texts[2:]]
    return {
        "cell": digest[:16],
        "slug": folder.split("/", 1)[1],
        "folder": folder,
        "group": f"{grid.tune_group(cell)}-{digest_of({'score': asdict(cell.score)})[:8]}",
        "coordinates": _coordinates(cell, base, resolved, trainable, bill),
        "train_index": train_index,
        "scores": {"test": scores["test"], "valid": scores["valid"], "general": general},
    }


def wise(found: Mapping[float, Sequence[ScoreTask]]) -> list[dict[str, Any]]:
    """What the plan file says of the columns at each share of the update: of test, validation and general text."""
    return [
        {"share": share, "test": test.folder, "valid": valid.folder, "general": [task.folder for task in general]}
        for share, (test, valid, *general) in found.items()
    ]


def _folders(index: IndexTask, columns: Mapping[str, ScoreTask | None]) -> dict[str, str | None]:
    return {"index": index.folder, **{name: task.folder if task else None for name, task in columns.items()}}


def _coordinates(
    cell: Cell, base: BaseModelKey, resolved: Mapping[str, Any], trainable: int, bill: MemoryPlan
) -> dict[str, Any]:
    method = cell.method
    targets = method.targets if method.targets is None or isinstance(method.targets, str) else ",".join(method.targets)
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
        "precision": resolved["precision"],
        "optimizer": f"{resolved['optimizer']}, {resolved['optimizer_state']} state" if method.lr else None,
        "lr": method.lr,
        "domain": cell.domain.name,
        "newline": cell.domain.newline,
        "objective": cell.train.objective,
        "seed": cell.seed,
        "l2_sp": method.options.get("l2_sp"),
        "norm_ball": method.options.get("norm_ball"),
        "replay": method.options.get("replay"),
        "early_stop": (method.options.get("early_stop") or {}).get("general"),
        "trainable_params": trainable,
        "context": cell.score.context,
        "planned_memory_bytes": bill.peak_reserved_bytes,
    }


def _quant(quant: QuantSpec | None) -> str | None:
    if quant is None:
        return None
    return quant.kind + ("+dq" if quant.double_quant and quant.kind != "int8" else "")
