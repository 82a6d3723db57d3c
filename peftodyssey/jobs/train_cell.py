"""Job: train one cell on a base in memory, keep its adapter, fill its columns, commit.

The order is: training (resumed where it stood), weights, columns, manifest. Killed in between, the next start goes on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.corpora.packing import PackedSequences, SpecialTokens, pack
from peftodyssey.errors import Interrupted, TrainingError
from peftodyssey.jobs import eval_callback, geometry, multiple_choice, progress_file, score, weight_noise
from peftodyssey.jobs.callbacks import Events, How
from peftodyssey.jobs.index import opened
from peftodyssey.jobs.peak_memory import track_peak
from peftodyssey.methods import wise_ft
from peftodyssey.methods.protocol import AttachedMethod
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.weight_updates import additive_deltas
from peftodyssey.models import bin_conversion
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import CellTask
from peftodyssey.recipe.cell import TrainSpec
from peftodyssey.store import layout, manifest, parquet, tables
from peftodyssey.store.versions import versions
from peftodyssey.training.replay import concat_replay
from peftodyssey.training.settings import EarlyStopSettings, TrainResult, TrainSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Trained:
    """What a training left: its result and the peak of memory."""

    result: TrainResult
    peak_bytes: int


def train_cell(
    task: CellTask, root: Path, base: PreTrainedModel, tokenizer: TextTokenizer, how: How, events: Events
) -> None:
    """Do all of one cell and commit it; `base` is afterwards what it was before.

    Raises TrainingError, MethodError or CorpusError where the cell cannot be done, Interrupted where the user stops.
    """
    folder = manifest.prepare_dir(root / task.folder, keep=(layout.CHECKPOINT,))
    shifted = weight_noise.names(task, root, base)
    with attached_method(task, base) as attached:
        trained = _train(task, root, attached, tokenizer, how, events) if task.train_index else None
        facts = _facts(task, trained, how) | _fleet(folder / layout.CHECKPOINT)
        if trained:
            _keep_weights(attached, folder, task)
            parquet.write_rows(folder / layout.LOG, [vars(record) for record in trained.result.log], tables.LOG)
        update = additive_deltas(attached, shifted) if shifted else {}
        score_missing(task, root, attached, tokenizer, how, events)
    weight_noise.perturb_along_update(task, root, base, update, tokenizer.prefix_id, how, events)
    eval_callback.write(folder, task, root, trained.result if trained else None)
    _commit(task, folder, facts, how)


def train_until(
    task: CellTask, share: float, root: Path, base: PreTrainedModel, tokenizer: TextTokenizer, how: How, events: Events
) -> None:
    """Train one cell up to a share of its budget and leave it there, its state saved; raises what `adapt` does."""
    manifest.prepare_dir(root / task.folder, keep=(layout.CHECKPOINT,))
    with attached_method(task, base) as attached:
        _train(task, root, attached, tokenizer, how, events, share)


def rescore(
    task: CellTask, root: Path, base: PreTrainedModel, tokenizer: TextTokenizer, how: How, events: Events
) -> None:
    """Fill the columns, and the geometry, that a finished cell lacks from the weights that it kept."""
    kept = weights_of(task, root)
    assert kept is not None, "the scheduler asks for a new training where the weights are gone"
    shifted = weight_noise.names(task, root, base)
    with attached_method(task, base, kept) as attached:
        update = additive_deltas(attached, shifted) if shifted else {}
        score_missing(task, root, attached, tokenizer, how, events)
    weight_noise.perturb_along_update(task, root, base, update, tokenizer.prefix_id, how, events)


def score_missing(
    task: CellTask, root: Path, attached: AttachedMethod, tokenizer: TextTokenizer, how: How, events: Events
) -> None:
    """The columns, tasks and geometry of a cell that are not whole; those of a share of the update last, for which the
    weights are changed.
    """
    wanted = {column.folder: column for column in (*task.columns, *task.wise_ft_scores)}
    missing = [column for column in wanted.values() if manifest.read(root / column.folder) is None]
    for column in missing:
        if column.share == 1:
            score.score_and_write(column, root, attached.model, tokenizer.prefix_id, how, events)
    for asked in task.choices:
        if manifest.read(root / asked.folder) is None:
            multiple_choice.column(asked, root, attached.model, tokenizer, how, events)
    if geometry.is_missing(task, root):
        geometry.measure(task, root, attached, events)
    with wise_ft.scaled_update(attached) if any(column.share != 1 for column in missing) else nullcontext() as to_share:
        for column in missing:
            if column.share != 1:
                to_share(column.share)
                score.score_and_write(column, root, attached.model, tokenizer.prefix_id, how, events)


def weights_of(task: CellTask, root: Path) -> Path | None:
    """Where the trained weights of a finished cell lie, None where they were dropped."""
    if task.train_index is None:
        return Path(task.cell.method.options["path"])
    places = (root / task.folder / name for name in (layout.ADAPTER, layout.WEIGHTS))
    return next((place for place in places if place.is_dir()), None)


@contextmanager
def attached_method(task: CellTask, base: PreTrainedModel, kept: Path | None = None) -> Iterator[AttachedMethod]:
    """The method on the base: fresh, or as it was left in the folder `kept`; taken off again at the end."""
    method, point = METHODS[task.cell.method.method], task.cell.method
    attached = method.load(base, kept, point) if kept else method.attach(base, point, task.cell.seed)
    try:
        yield attached
    finally:
        method.detach(attached)


def _train(
    task: CellTask,
    root: Path,
    attached: AttachedMethod,
    tokenizer: TextTokenizer,
    how: How,
    events: Events,
    share: float = 1.0,
) -> Trained:
    if task.cell.train.engine == "trl":
        from peftodyssey.training.trl_bridge import train_trl as train
    else:
        from peftodyssey.training.loop import train
    blocks = blocks_of(task, root, tokenizer)
    settings = truncate(share, replace(settings_of(task, blocks.target_sequences), budget_bytes=how.resident_bytes))
    state = root / task.folder / layout.CHECKPOINT
    recorder = eval_callback.EvalCallback(task, root, attached.model, tokenizer.prefix_id, how, events)
    beat = progress_file.ProgressFile(root / task.folder, settings.last_step)
    progress_file.note_repeated_work(root / task.folder, state, events)

    def on_step(record: Any) -> None:
        beat.step(record)
        events.step(record, settings.steps)

    def general_nll() -> float:
        assert task.early_stop_eval is not None, "a method with an early stop has a text that it looks at"
        return score.mean_nats(
            score.scored(task.early_stop_eval, root, attached.model, tokenizer.prefix_id, how, events).nll_nats
        )

    with track_peak(how.device) as peak:
        result = train(
            attached.model,
            attached.trainable,
            blocks,
            settings,
            device=how.device,
            state_folder=state,
            checkpoint_every_s=how.checkpoint_every_s,
            on_step=on_step,
            on_eval=recorder,
            should_stop=events.should_stop,
            on_note=events.note,
            general_nll=general_nll,
        )
    if result.resume_note:
        events.note(result.resume_note)
    if result.interrupted:
        raise Interrupted(
            f"{task.folder}: stopped after step {result.steps} of {settings.steps}",
            "start the same command again, it goes on from there",
        )
    if result.stopped_at_step:
        events.note(
            f"{task.cell.method.label}: general text became too much worse; kept step {result.steps} of {result.stopped_at_step}"
        )
    ended = (
        share >= 1 and result.stopped_at_step is None
    )  # a part, or what an early stop kept, may lie within the warm-up
    if ended and not settings.l2_sp_cancels_update:
        _require_weights_changed(task, attached)
    return Trained(result, peak.peak_bytes)


def blocks_of(task: CellTask, root: Path, tokenizer: TextTokenizer) -> PackedSequences:
    """The cell's text packed into the blocks that it trains on, those that are replayed last.

    Rendered conversations hold their special tokens already.
    """
    point = task.cell.train

    def packed(folder: str, objective: str) -> PackedSequences:
        framed = bool((manifest.read(root / folder) or {})["facts"].get("framed"))
        bos, eos = (None, None) if framed else (tokenizer.bos_id, tokenizer.eos_id)
        return pack(
            opened(root / folder),
            SpecialTokens(bos, eos, from_template=framed),
            seq_len=point.seq_len,
            seed=task.cell.seed,
            objective=objective,
            too_long=point.too_long or "error",
        )

    target = packed(str(task.train_index), point.objective)
    return concat_replay(target, packed(task.replay_index, "text")) if task.replay_index else target


def settings_of(task: CellTask, blocks: int) -> TrainSettings:
    """The settings of a cell whose text packs into `blocks` blocks."""
    point = task.cell.train
    batch_size = point.batch_tokens // point.seq_len
    steps = steps_of(point, blocks, batch_size)
    inner = tuple(sorted({_step_at(share, steps) for share in point.eval_at if share < 1}))
    options, stop = task.cell.method.options, task.cell.method.options.get("early_stop")
    assert task.cell.method.lr is not None, "a method that trains has a learning rate"
    return TrainSettings(
        lr=task.cell.method.lr,
        steps=steps,
        batch_size=batch_size,
        micro_batch_size=task.step.micro_batch_size,
        schedule=point.schedule,
        warmup=point.warmup,
        weight_decay=point.weight_decay,
        betas=point.betas,
        grad_clip=point.grad_clip,
        precision=task.auto_values["precision"],
        gradient_checkpointing=task.step.gradient_checkpointing,
        offload_activations=task.step.offload_activations,
        offload_optimizer=task.step.offload_optimizer,
        loss_chunk_bytes=task.step.loss_chunk_bytes,
        seed=task.cell.seed,
        optimizer=task.auto_values["optimizer"],
        eval_at_steps=inner,
        l2_sp=options.get("l2_sp", 0.0),
        norm_ball=options.get("norm_ball"),
        replay=options.get("replay", 0.0),
        early_stop=EarlyStopSettings(stop["general"], stop["patience"], stop["num_evals"]) if stop else None,
    )


def truncate(share: float, settings: TrainSettings) -> TrainSettings:
    """The settings of a training that stops for now at a share of its budget; of the whole one at 1."""
    return settings if share >= 1 else replace(settings, stop_at_step=_step_at(share, settings.steps))


def _step_at(share: float, steps: int) -> int:
    return max(1, round(share * steps))


def steps_of(point: TrainSpec, blocks: int, batch_size: int) -> int:
    """Optimiser steps of a budget in tokens, epochs or steps; at least one."""
    if point.budget_steps is not None:
        return point.budget_steps
    if point.budget_epochs is not None:
        return max(1, math.ceil(point.budget_epochs * blocks / batch_size))
    assert point.budget_tokens is not None
    return max(1, math.ceil(point.budget_tokens / point.batch_tokens))


def _require_weights_changed(task: CellTask, attached: AttachedMethod) -> None:
    """An adapter that did not move after training was not connected: say so instead of reporting a change of nothing."""
    from peftodyssey.methods.weights import max_change

    if max_change(attached) == 0.0:
        raise TrainingError(
            f"{task.cell.method.label}: training left every trained weight where it was",
            "raise lr; in bf16 a tiny lr is rounded away",
        )


def _keep_weights(attached: AttachedMethod, folder: Path, task: CellTask) -> None:
    name = layout.ADAPTER if attached.is_adapter else layout.WEIGHTS
    METHODS[task.cell.method.method].export(attached, folder / name, task.cell.model.name)


def _facts(task: CellTask, trained: Trained | None, how: How) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "trainable_params": task.trainable,
        "planned_memory_bytes": task.memory.peak_reserved_bytes,
        "multi_lora_size": 1,
        "engine": task.cell.train.engine if trained else "none",
        "device": how.device,
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
        "micro_batch_size": result.micro_batch_size_used,
        "gradient_checkpointing": result.gradient_checkpointing_used,
        "offload_activations": result.activations_offloaded,
        "out_of_memory": result.out_of_memory,
        "resumed_from": result.resumed_from,
        "stopped_at_step": result.stopped_at_step,
        "general_rises_nats": [list(look) for look in result.general_rises_nats],
    }


def _fleet(checkpoint: Path) -> dict[str, Any]:
    """With whom a cell trained, where it did not train alone: its time is a share of theirs, its peak is all of theirs."""
    path = checkpoint / layout.MULTI_LORA_FILE
    if not path.is_file():
        return {}
    told = json.loads(path.read_text(encoding="utf-8"))
    return {
        "multi_lora_size": len(told["members"]),
        "multi_lora": told["members"],
        "peak_memory_bytes": told["peak_memory_bytes"],
    }


def _commit(task: CellTask, folder: Path, facts: dict[str, Any], how: How) -> None:
    """Commit the cell; full-size weights and the training state go before, so that the manifest says what is there."""
    drop = (folder / layout.WEIGHTS).is_dir() and how.keep == "adapters"
    if drop:
        manifest.remove(folder / layout.WEIGHTS)
    facts["weights"] = "dropped" if drop else "kept"
    payload = {"kind": "cell", "hash": task.hash, "identity": task.identity, "status": "done", "facts": facts}
    manifest.commit(folder, payload, leave_out=(layout.CHECKPOINT,))
    manifest.remove(folder / layout.CHECKPOINT)
    progress_file.remove(folder)
