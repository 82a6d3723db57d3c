"""Job: train one cell on a base in memory, or take what was trained already, and finish it.

Training resumes from its checkpoint. Killed at any point, the next start resumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from peftodyssey.errors import Interrupted, TrainingError
from peftodyssey.jobs import eval_callback, progress_file, score, self_check
from peftodyssey.jobs.cell_inputs import sequences_of, settings_of, stem_of, truncate, weights_of
from peftodyssey.jobs.context import START_AGAIN, JobContext
from peftodyssey.jobs.finish import Trained, finish, measure_missing
from peftodyssey.jobs.handle import CellHandle, cell_handle
from peftodyssey.jobs.index import opened
from peftodyssey.jobs.peak_memory import track_peak
from peftodyssey.jobs.self_check import SelfCheck
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import CellTask
from peftodyssey.store import layout, manifest
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.settings import StepRecord, TrainCallbacks, TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from peftodyssey.methods.attached import AttachedMethod


def train_cell(task: CellTask, base: PreTrainedModel, tokenizer: TextTokenizer, context: JobContext) -> None:
    """Does all of one cell and commits it; `base` is afterwards what it was before.

    Raises TrainingError, MethodError or CorpusError where the cell cannot be done, Interrupted where the user stops.
    """
    manifest.prepare_dir(context.root / task.folder, keep=(layout.CHECKPOINT,))
    if context.options.self_check:
        self_check.remember_base(base)
    weights = None if task.train_index else weights_of(task, context.root)
    with cell_handle(task, base, tokenizer, weights) as handle:
        trained = train(task, handle, context) if task.train_index else None
        finish(task, handle, trained, context)


def adapt(task: CellTask, base: PreTrainedModel, tokenizer: TextTokenizer, context: JobContext) -> None:
    """`train_cell`, or `rescore` where the cell is finished and its weights are there."""
    is_trained = manifest.read(context.root / task.folder) is not None and weights_of(task, context.root)
    (rescore if is_trained else train_cell)(task, base, tokenizer, context)


def train_until(
    task: CellTask, share: float, base: PreTrainedModel, tokenizer: TextTokenizer, context: JobContext
) -> None:
    """Trains one cell up to a share of its budget and saves its state; raises what `train_cell` does."""
    manifest.prepare_dir(context.root / task.folder, keep=(layout.CHECKPOINT,))
    with cell_handle(task, base, tokenizer) as handle:
        train(task, handle, context, share)


def rescore(task: CellTask, base: PreTrainedModel, tokenizer: TextTokenizer, context: JobContext) -> None:
    """Fills the columns and measures that a finished cell lacks, from the weights that it kept."""
    weights = weights_of(task, context.root)
    assert weights is not None, "the scheduler trains again where the weights are gone"
    with cell_handle(task, base, tokenizer, weights) as handle:
        measure_missing(task, handle, context)


def train(task: CellTask, handle: CellHandle, context: JobContext, share: float = 1.0) -> Trained:
    """Trains the method on the model of `handle`, up to a share of the budget, from a checkpoint where there is one."""
    if task.cell.train.engine == "trl":
        from peftodyssey.training.trl_bridge import train_trl as run
    else:
        from peftodyssey.training.loop import train as run
    options, folder, attached = context.options, context.root / task.folder, handle.adapted()
    sequences = sequences_of(task, context.root, handle.tokenizer)
    settings = truncate(settings_of(task, sequences.target_sequences), share)
    settings = replace(settings, budget_bytes=options.resident_bytes)
    progress_file.note_repeated_work(folder, context.callbacks)
    check = started_check(task, attached, context)
    with track_peak(options.device) as peak:
        result = run(
            attached.model,
            attached.trainable,
            sequences,
            settings,
            device=options.device,
            checkpoints=CheckpointSettings(
                folder / layout.CHECKPOINT, options.checkpoint_every_s, stem_of(task, context.root)
            ),
            callbacks=_train_callbacks(task, handle, settings, context),
        )
    if result.resume_note:
        context.callbacks.note(result.resume_note)
    if result.interrupted:
        where = f"{task.cell.domain.display_name}, {task.cell.method.label}"
        raise Interrupted(f"{where}: stopped after step {result.steps} of {settings.steps}", START_AGAIN)
    if result.stopped_at_step:
        context.callbacks.note(
            f"{task.cell.method.label}: stopped at step {result.stopped_at_step}, because general text had become too "
            f"much worse; kept step {result.steps}"
        )
    elif share >= 1 and not settings.l2_sp_cancels_update:  # a part of a training may lie within the warm-up
        require_weights_changed(task, attached)
    return Trained(result, peak.peak_bytes, settings.steps, check)


def started_check(task: CellTask, attached: AttachedMethod, context: JobContext) -> SelfCheck | None:
    """The checks of a cell that begins, with those of its start; None with --no-selfcheck."""
    if not context.options.self_check:
        return None
    check = SelfCheck()
    with check.timed():
        self_check.check_start(check, attached, opened(context.root / str(task.train_index)))
    return check


def _train_callbacks(
    task: CellTask, handle: CellHandle, settings: TrainSettings, context: JobContext
) -> TrainCallbacks:
    model, prefix = handle.adapted().model, handle.tokenizer.prefix_id

    def general_nll() -> float:
        assert task.early_stop_eval is not None, "a method with early stopping has a general text"
        return score.mean_nats(score.scored(task.early_stop_eval, model, prefix, context).nll_nats)

    return TrainCallbacks(
        on_step=on_step_of(task, settings, context),
        on_eval=eval_callback.EvalCallback(task, model, prefix, context),
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


def require_weights_changed(task: CellTask, attached: AttachedMethod) -> None:
    """Raises TrainingError where training changed nothing, because the adapter was then not connected."""
    from peftodyssey.methods.weights import max_change

    if max_change(attached) == 0.0:
        raise TrainingError(
            f"{task.cell.method.label}: training changed none of the trained weights",
            "raise lr; in bf16 a tiny lr is rounded away",
        )
