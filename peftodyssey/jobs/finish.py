"""The end of a cell, however it was trained: export, columns, measures, learning curve, manifest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftodyssey.jobs import eval_callback, group_record, progress_file, score, self_check
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import CellHandle
from peftodyssey.jobs.self_check import SelfCheck
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.weights import max_change
from peftodyssey.models import bin_conversion
from peftodyssey.plan.host_and_disk import planned_bytes
from peftodyssey.plan.tasks import CellTask, MeasureTask
from peftodyssey.store import layout, manifest, parquet, tables
from peftodyssey.store.versions import versions
from peftodyssey.training.settings import TrainResult

KEPT, NEEDED, DROPPED = "kept", "needed", "dropped"  # what becomes of a cell's weights; needed: by other cells


@dataclass(frozen=True)
class Trained:
    """The result of a training and its peak memory; the weights are on the model."""

    result: TrainResult
    peak_bytes: int
    planned_steps: int
    check: SelfCheck | None = None  # None: --no-selfcheck


def finish(task: CellTask, handle: CellHandle, trained: Trained | None, context: JobContext) -> None:
    """Saves, scores, measures and commits a cell whose trained weights are on the model of `handle`.

    `trained` is None where nothing was trained (method `saved`).
    """
    folder = context.root / task.folder
    facts = _facts(task, trained, context.options.device) | _multi_lora_facts(folder, trained)
    attached = handle.adapted()
    facts |= {"method_notes": list(attached.notes)} if attached.notes else {}
    if trained:
        name = layout.ADAPTER if attached.is_adapter else layout.WEIGHTS
        METHODS[task.cell.method.method].export(attached, folder / name, task.cell.model.name)
        parquet.write_rows(folder / layout.LOG, [vars(record) for record in trained.result.log], tables.LOG)
    moved = max_change(attached) if trained and trained.check else 0.0
    measure_missing(task, handle, context)
    if trained:
        facts["self_checks"] = _self_checks(task, handle, trained, moved, context) if trained.check else self_check.OFF
    eval_callback.write(folder, task, context.root, trained.result if trained else None)
    _commit(task, context.root, facts, context.options.keep)


def _self_checks(
    task: CellTask, handle: CellHandle, trained: Trained, moved: float, context: JobContext
) -> dict[str, Any]:
    """What the cell's checks of itself found. Raises TrainingError where one is broken."""
    check, result, prefix = trained.check, trained.result, handle.tokenizer.prefix_id
    assert check is not None
    with check.timed():
        check.add("largest_weight_change", moved, math.isfinite(moved))
        planned = result.steps == trained.planned_steps or result.stopped_at_step is not None
        steps = f"{result.steps} of {trained.planned_steps}"
        check.add("steps", steps, planned)
        self_check.check_columns(check, task, prefix, context)
        self_check.check_end(check, task, handle.base(), prefix, context)
    return check.facts()


def measure_missing(task: CellTask, handle: CellHandle, context: JobContext) -> None:
    """Fills the columns and measures that a cell lacks; those that move the bare base come last."""
    for column in task.columns:
        if manifest.read(context.root / column.folder) is None:
            score.score_and_write(column, handle.adapted().model, handle.tokenizer.prefix_id, context)
    missing = [one for one in task.measures if manifest.read(context.root / one.folder) is None]
    for one in _adapted_first(missing):
        context.measures[one.measure].run(one, handle, context)


def _adapted_first(tasks: Iterable[MeasureTask]) -> list[MeasureTask]:
    return sorted(tasks, key=lambda task: task.on == "update")


def _facts(task: CellTask, trained: Trained | None, device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "trainable_params": task.trainable,
        "planned_memory_bytes": planned_bytes(task),
        "multi_lora_size": 1,
        "engine": task.cell.train.engine if trained else "none",
        "device": device,
        "versions": versions(),
        **task.auto_values,
        **({"base_weights": bin_conversion.CONVERSION_NOTE} if task.base.source.pickled else {}),
    }
    if trained is None:
        return {**facts, "steps": 0, "tokens": 0, "seconds": 0.0, "tokens_per_second": None, "peak_memory_bytes": None}
    result = trained.result
    return {
        **facts,
        "steps": result.steps,
        "tokens": result.tokens,
        "seconds": result.seconds,
        "tokens_per_second": result.log[-1].tokens / result.seconds if result.seconds else None,
        "peak_memory_bytes": trained.peak_bytes,
        "final_loss_nats": result.final_loss if result.steps else None,
        "micro_batch_size": result.memory_settings.micro_batch_size,
        "gradient_checkpointing": result.memory_settings.gradient_checkpointing,
        "offload_activations": result.memory_settings.offload_activations,
        "out_of_memory": result.out_of_memory,
        "resumed_from": result.resumed_from,
        "stopped_at_step": result.stopped_at_step,
        "general_rises_nats": [list(evaluation) for evaluation in result.general_rises_nats],
    }


def _multi_lora_facts(folder: Path, trained: Trained | None) -> dict[str, Any]:
    """With which cells a cell trained together: its time is a share of theirs, its peak memory is that of all."""
    record = group_record.read(folder)
    if record is None or trained is None:
        return {}
    peak, members = max(record.peak_memory_bytes, trained.peak_bytes), list(record.members)
    return {"multi_lora_size": len(members), "multi_lora": members, "peak_memory_bytes": peak}


def _commit(task: CellTask, root: Path, facts: dict[str, Any], keep: str) -> None:
    """Commits the cell; full-size weights that are not kept go before, so that the manifest lists what is there."""
    folder = root / task.folder
    facts["weights"] = _fate_of_weights(task, root, keep)
    if facts["weights"] == DROPPED:
        manifest.remove(folder / layout.WEIGHTS)
    payload = {"kind": "cell", "hash": task.hash, "identity": task.identity, "status": "done", "facts": facts}
    manifest.commit(folder, payload, leave_out=(layout.CHECKPOINT,))
    manifest.remove(folder / layout.CHECKPOINT)
    if task.stem and not task.stem.continues:  # the largest budget: nothing starts from the stem any more
        manifest.remove(root / task.stem.folder)
    progress_file.remove(folder)


def _fate_of_weights(task: CellTask, root: Path, keep: str) -> str:
    """Full-size weights are kept if asked for, or until the cells that are made from them are finished."""
    if keep != "adapters" or not (root / task.folder / layout.WEIGHTS).is_dir():
        return KEPT
    return DROPPED if is_read(task, root) else NEEDED


def is_read(task: CellTask, root: Path) -> bool:
    """Whether every cell that is made from the weights of `task` is finished."""
    return all(manifest.read(root / folder) is not None for folder in task.read_by)
