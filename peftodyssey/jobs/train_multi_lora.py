"""Job: train several cells over one base side by side, each up to its end, which lies where its own training would
leave it.

`jobs.adapt` then finds every member trained and does the rest of it. Killed in between, the next start goes on from
each member's own state.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import Interrupted
from peftodyssey.jobs import eval_callback, progress_file, score
from peftodyssey.jobs.callbacks import Events, How
from peftodyssey.jobs.peak_memory import track_peak
from peftodyssey.jobs.train_cell import attached_method, blocks_of, settings_of, truncate
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import CellTask, ScoreTask
from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.store import atomic, layout, manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from peftodyssey.multi_lora.trainer import Member


def train_multi_lora(
    tasks: Sequence[CellTask],
    micro_batch_size: int,
    share: float,
    root: Path,
    base: PreTrainedModel,
    tokenizer: TextTokenizer,
    how: How,
    events: Events,
) -> dict[str, str]:
    """Train `tasks` together, `micro_batch_size` blocks of each at a time, up to a share of their budgets; returns why
    members failed, by folder.

    `base` is afterwards what it was before. Raises TrainingError where nothing fits the memory, Interrupted where the
    user stops.
    """
    from peftodyssey.multi_lora.trainer import train_adapters

    members = [_member(task, micro_batch_size, share, root, base, tokenizer, how, events) for task in tasks]
    _listen(members, tasks, root, events)
    with track_peak(how.device) as peak:
        whole = train_adapters(
            base,
            members,
            device=how.device,
            checkpoint_every_s=how.checkpoint_every_s,
            should_stop=events.should_stop,
            on_note=events.note,
        )
    for member in members:
        told = {"members": [task.short_hash for task in tasks], "peak_memory_bytes": peak.peak_bytes}
        atomic.write_text(member.state_folder / layout.MULTI_LORA_FILE, json.dumps(told))
    if not whole:
        done = min(len(member.log) for member in members)
        raise Interrupted(
            f"a fleet of {len(tasks)} stopped after step {done}", "start the same command again, it goes on from there"
        )
    if share >= 1:
        _score(
            [(task, member) for task, member in zip(tasks, members, strict=True) if not member.failed],
            root,
            base,
            tokenizer,
            how,
            events,
        )
    return {task.folder: str(member.failed) for task, member in zip(tasks, members, strict=True) if member.failed}


def _score(
    finished: Sequence[tuple[CellTask, Member]],
    root: Path,
    base: PreTrainedModel,
    tokenizer: TextTokenizer,
    how: How,
    events: Events,
) -> None:
    """Fill the columns of finished members, all of them at a time on each text that they have in common."""
    import torch

    from peftodyssey.multi_lora.adapters import start_of
    from peftodyssey.multi_lora.evaluate import attach_adapters_for_eval
    from peftodyssey.training import checkpoint
    from peftodyssey.training.grad_accumulation import HALVES

    if not finished:
        return
    adapters = []
    for _, member in finished:
        state, _ = checkpoint.read(member.state_folder, member.belongs_to)
        assert state is not None, member.state_folder
        adapters.append(start_of(state.tensors, member.start).weights)
    tasks = [task for task, _ in finished]
    for columns in _in_common(tasks, root):
        took = [number for number in range(len(tasks)) if number in columns]
        compute = HALVES.get(tasks[0].base.precision)
        with attach_adapters_for_eval(
            base, [adapters[number] for number in took], torch.device(how.device), compute
        ) as order:
            results = score.score_and_write_adapters(
                columns[took[0]], len(took), root, base, tokenizer.prefix_id, how, events
            )
        for place, result in zip(order, results, strict=True):
            score.commit(columns[took[place]], root, tokenizer.prefix_id, result)


def _in_common(tasks: Sequence[CellTask], root: Path) -> list[dict[int, ScoreTask]]:
    """The missing columns of one text by one way of scoring, by the number of the cell that they belong to."""
    found: dict[tuple[str, ScoreSpec], dict[int, ScoreTask]] = {}
    for number, task in enumerate(tasks):
        for column in task.columns:
            if manifest.read(root / column.folder) is None:
                found.setdefault((column.index, column.settings), {})[number] = column
    return list(found.values())


def _member(
    task: CellTask,
    micro_batch_size: int,
    share: float,
    root: Path,
    base: PreTrainedModel,
    tokenizer: TextTokenizer,
    how: How,
    events: Events,
) -> Member:
    from peftodyssey.multi_lora.adapters import Adapter, adapter_of, copy_adapter_into
    from peftodyssey.multi_lora.trainer import Member
    from peftodyssey.training.loop import resume_digest

    blocks = blocks_of(task, root, tokenizer)
    settings = truncate(share, settings_of(task, blocks.target_sequences))
    settings = replace(settings, micro_batch_size=micro_batch_size, budget_bytes=how.resident_bytes)
    state = manifest.prepare_dir(root / task.folder, keep=(layout.CHECKPOINT,)) / layout.CHECKPOINT
    progress_file.note_repeated_work(root / task.folder, state, events)
    with attached_method(task, base) as attached:
        start, owner = adapter_of(attached.model), resume_digest(attached.trainable, blocks, settings)

    def on_eval(point: int, step: int, tokens: int, adapter: Adapter) -> None:
        with attached_method(task, base) as attached:
            copy_adapter_into(adapter, attached.model)
            eval_callback.EvalCallback(task, root, attached.model, tokenizer.prefix_id, how, events)(
                point, step, tokens
            )

    return Member(settings, blocks, start, state, owner, on_eval=on_eval)


def _listen(members: Sequence[Member], tasks: Sequence[CellTask], root: Path, events: Events) -> None:
    """Every member's steps are told to its heartbeat, those of the longest to the user as well."""
    longest = max(members, key=lambda member: member.settings.steps)

    def listener(member: Member, task: CellTask) -> Callable[[Any], None]:
        beat = progress_file.ProgressFile(root / task.folder, member.settings.last_step)

        def on_step(record: Any) -> None:
            beat.step(record)
            if member is longest:
                events.step(record, member.settings.steps)

        return on_step

    for member, task in zip(members, tasks, strict=True):
        member.on_step = listener(member, task)
