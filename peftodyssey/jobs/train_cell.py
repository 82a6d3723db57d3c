"""Job: train one cell on a base in memory, save its weights, score its columns, commit.

The order is: training (resumed from its checkpoint), weights, columns, manifest. Killed in between, the next start
resumes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import Interrupted, TrainingError
from peftodyssey.jobs import eval_callback, geometry, multiple_choice, progress_file, score, weight_noise
from peftodyssey.jobs.cell_inputs import attached_method, sequences_of, settings_of, truncate, weights_of
from peftodyssey.jobs.context import START_AGAIN, JobContext
from peftodyssey.jobs.peak_memory import track_peak
from peftodyssey.methods import wise_ft
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.weight_updates import additive_deltas
from peftodyssey.models import bin_conversion
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import CellTask
from peftodyssey.store import layout, manifest, parquet, tables
from peftodyssey.store.versions import versions
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.settings import StepRecord, TrainCallbacks, TrainResult, TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Trained:
    """The result of a training and its peak memory."""

    result: TrainResult
    peak_bytes: int


def train_cell(task: CellTask, base: PreTrainedModel, tokenizer: TextTokenizer, context: JobContext) -> None:
    """Does all of one cell and commits it; `base` is afterwards what it was before.

    Raises TrainingError, MethodError or CorpusError where the cell cannot be done, Interrupted where the user stops.
    """
    folder = manifest.prepare_dir(context.root / task.folder, keep=(layout.CHECKPOINT,))
    shifted = weight_noise.names(task, context.root, base)
    with attached_method(task, base) as attached:
        trained = _train(task, attached, tokenizer, context) if task.train_index else None
        facts = _facts(task, trained, context.options.device) | _multi_lora_facts(folder / layout.CHECKPOINT)
        facts |= {"method_notes": list(attached.notes)} if attached.notes else {}
        if trained:
            name = layout.ADAPTER if attached.is_adapter else layout.WEIGHTS
            METHODS[task.cell.method.method].export(attached, folder / name, task.cell.model.name)
            parquet.write_rows(folder / layout.LOG, [vars(record) for record in trained.result.log], tables.LOG)
        update = additive_deltas(attached, shifted) if shifted else {}
        score_missing(task, attached, tokenizer, context)
    weight_noise.perturb_along_update(task, base, update, tokenizer.prefix_id, context)
    eval_callback.write(folder, task, context.root, trained.result if trained else None)
    _commit(task, folder, facts, context.options.keep)


def train_until(
    task: CellTask, share: float, base: PreTrainedModel, tokenizer: TextTokenizer, context: JobContext
) -> None:
    """Trains one cell up to a share of its budget and saves its state; raises what `train_cell` does."""
    manifest.prepare_dir(context.root / task.folder, keep=(layout.CHECKPOINT,))
    with attached_method(task, base) as attached:
        _train(task, attached, tokenizer, context, share)


def rescore(task: CellTask, base: PreTrainedModel, tokenizer: TextTokenizer, context: JobContext) -> None:
    """Fills the columns, and the geometry, that a finished cell lacks, from the weights that it kept."""
    weights = weights_of(task, context.root)
    assert weights is not None, "the scheduler trains again where the weights are gone"
    shifted = weight_noise.names(task, context.root, base)
    with attached_method(task, base, weights) as attached:
        update = additive_deltas(attached, shifted) if shifted else {}
        score_missing(task, attached, tokenizer, context)
    weight_noise.perturb_along_update(task, base, update, tokenizer.prefix_id, context)


def score_missing(task: CellTask, attached: AttachedMethod, tokenizer: TextTokenizer, context: JobContext) -> None:
    """Fills the columns, tasks and geometry that a cell lacks.

    Columns of a share of the update (WiSE-FT) come last, because the weights are changed for them.
    """
    columns = {column.folder: column for column in (*task.columns, *task.wise_ft_scores)}
    missing = [column for column in columns.values() if manifest.read(context.root / column.folder) is None]
    scaled = [column for column in missing if column.share != 1]
    for column in missing:
        if column.share == 1:
            score.score_and_write(column, attached.model, tokenizer.prefix_id, context)
    for choice in task.choices:
        if manifest.read(context.root / choice.folder) is None:
            multiple_choice.score_and_write(choice, attached.model, tokenizer, context)
    if geometry.is_missing(task, context.root):
        geometry.measure(task, attached, context)
    if scaled:
        with wise_ft.scaled_update(attached) as set_share:
            for column in scaled:
                set_share(column.share)
                score.score_and_write(column, attached.model, tokenizer.prefix_id, context)


def _train(
    task: CellTask, attached: AttachedMethod, tokenizer: TextTokenizer, context: JobContext, share: float = 1.0
) -> Trained:
    if task.cell.train.engine == "trl":
        from peftodyssey.training.trl_bridge import train_trl as train
    else:
        from peftodyssey.training.loop import train
    options, folder = context.options, context.root / task.folder
    sequences = sequences_of(task, context.root, tokenizer)
    settings = truncate(settings_of(task, sequences.target_sequences), share)
    settings = replace(settings, budget_bytes=options.resident_bytes)
    progress_file.note_repeated_work(folder, context.callbacks)
    with track_peak(options.device) as peak:
        result = train(
            attached.model,
            attached.trainable,
            sequences,
            settings,
            device=options.device,
            checkpoints=CheckpointSettings(folder / layout.CHECKPOINT, options.checkpoint_every_s),
            callbacks=_train_callbacks(task, attached, tokenizer, settings, context),
        )
    if result.resume_note:
        context.callbacks.note(result.resume_note)
    if result.interrupted:
        raise Interrupted(f"{task.folder}: stopped after step {result.steps} of {settings.steps}", START_AGAIN)
    if result.stopped_at_step:
        context.callbacks.note(
            f"{task.cell.method.label}: stopped at step {result.stopped_at_step}, because general text had become too "
            f"much worse; kept step {result.steps}"
        )
    elif share >= 1 and not settings.l2_sp_cancels_update:  # a part of a training may lie within the warm-up
        _require_weights_changed(task, attached)
    return Trained(result, peak.peak_bytes)


def _train_callbacks(
    task: CellTask, attached: AttachedMethod, tokenizer: TextTokenizer, settings: TrainSettings, context: JobContext
) -> TrainCallbacks:
    def general_nll() -> float:
        assert task.early_stop_eval is not None, "a method with early stopping has a general text"
        result = score.scored(task.early_stop_eval, attached.model, tokenizer.prefix_id, context)
        return score.mean_nats(result.nll_nats)

    return TrainCallbacks(
        on_step=on_step_of(task, settings, context),
        on_eval=eval_callback.EvalCallback(task, attached.model, tokenizer.prefix_id, context),
        should_stop=context.callbacks.should_stop,
        on_note=context.callbacks.note,
        general_nll=general_nll,
    )


def on_step_of(
    task: CellTask, settings: TrainSettings, context: JobContext, report: bool = True
) -> Callable[[StepRecord], None]:
    """Writes each step of a training to its progress file and, with `report`, to the user."""
    progress = progress_file.ProgressFile(context.root / task.folder, settings.last_step)

    def on_step(record: StepRecord) -> None:
        progress.step(record)
        if report:
            context.callbacks.step(record, settings.steps)

    return on_step


def _require_weights_changed(task: CellTask, attached: AttachedMethod) -> None:
    """Raises TrainingError where training changed nothing, because the adapter was then not connected."""
    from peftodyssey.methods.weights import max_change

    if max_change(attached) == 0.0:
        raise TrainingError(
            f"{task.cell.method.label}: training changed none of the trained weights",
            "raise lr; in bf16 a tiny lr is rounded away",
        )


def _facts(task: CellTask, trained: Trained | None, device: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "trainable_params": task.trainable,
        "planned_memory_bytes": task.memory.peak_reserved_bytes,
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


def _multi_lora_facts(checkpoint: Path) -> dict[str, Any]:
    """With which cells a cell trained together: its time is a share of theirs, its peak memory is that of all."""
    path = checkpoint / layout.MULTI_LORA_FILE
    if not path.is_file():
        return {}
    group = json.loads(path.read_text(encoding="utf-8"))
    return {
        "multi_lora_size": len(group["members"]),
        "multi_lora": group["members"],
        "peak_memory_bytes": group["peak_memory_bytes"],
    }


def _commit(task: CellTask, folder: Path, facts: dict[str, Any], keep: str) -> None:
    """Commits the cell; full-size weights that are not kept go before, so that the manifest lists what is there."""
    drop = (folder / layout.WEIGHTS).is_dir() and keep == "adapters"
    if drop:
        manifest.remove(folder / layout.WEIGHTS)
    facts["weights"] = "dropped" if drop else "kept"
    payload = {"kind": "cell", "hash": task.hash, "identity": task.identity, "status": "done", "facts": facts}
    manifest.commit(folder, payload, leave_out=(layout.CHECKPOINT,))
    manifest.remove(folder / layout.CHECKPOINT)
    progress_file.remove(folder)
