"""What a cell is trained with: its method on the base, its packed text and its settings."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey.corpora.packing import PackedSequences, SpecialTokens, pack
from peftodyssey.jobs.index import opened
from peftodyssey.memory_settings import MemorySettings
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import CellTask
from peftodyssey.recipe.cell import TrainSpec
from peftodyssey.store import layout, manifest
from peftodyssey.training.replay import concat_replay
from peftodyssey.training.settings import EarlyStopSettings, TrainSettings

if TYPE_CHECKING:
    from peftodyssey.training.checkpoint import StemCheckpoint


def weights_of(task: CellTask, root: Path) -> Path | None:
    """The folder of the trained weights that a finished cell is made from, None where they were dropped."""
    if "path" in task.cell.method.options:
        return Path(task.cell.method.options["path"])
    folders = (root / (task.source or task.folder) / name for name in (layout.ADAPTER, layout.WEIGHTS))
    return next((folder for folder in folders if folder.is_dir()), None)


def sequences_of(task: CellTask, root: Path, tokenizer: TextTokenizer) -> PackedSequences:
    """The cell's training text, packed into sequences, replayed general text last.

    Rendered conversations contain their special tokens already.
    """
    spec = task.cell.train

    def packed(folder: str, objective: str) -> PackedSequences:
        framed = bool((manifest.read(root / folder) or {})["facts"].get("framed"))
        bos, eos = (None, None) if framed else (tokenizer.bos_id, tokenizer.eos_id)
        return pack(
            opened(root / folder),
            SpecialTokens(bos, eos, from_template=framed),
            seq_len=spec.seq_len,
            seed=task.cell.seed,
            objective=objective,
            too_long=spec.too_long or "error",
        )

    target = packed(str(task.train_index), spec.objective)
    return concat_replay(target, packed(task.replay_index, "text")) if task.replay_index else target


def settings_of(task: CellTask, num_sequences: int) -> TrainSettings:
    """The settings of a cell whose text packs into `num_sequences` sequences."""
    spec, method, step = task.cell.train, task.cell.method, task.step
    assert method.lr is not None, "a method that trains has a learning rate"
    batch_size = spec.batch_tokens // spec.seq_len
    steps = steps_of(spec, num_sequences, batch_size)
    early_stop = method.options.get("early_stop")
    memory = MemorySettings.from_settings(step, batch_size)
    return TrainSettings(
        micro_batch_size=memory.micro_batch_size,
        gradient_checkpointing=memory.gradient_checkpointing,
        offload_activations=memory.offload_activations,
        offload_optimizer=memory.offload_optimizer,
        lr=method.lr,
        steps=steps,
        batch_size=batch_size,
        schedule=spec.schedule,
        warmup=spec.warmup,
        warmup_amount=spec.warmup_steps,
        weight_decay=spec.weight_decay,
        betas=spec.betas,
        grad_clip=spec.grad_clip,
        precision=task.auto_values["precision"],
        loss_chunk_bytes=step.loss_chunk_bytes,
        seed=task.cell.seed,
        optimizer=task.auto_values["optimizer"],
        eval_at_steps=tuple(sorted({_step_at(share, steps) for share in spec.eval_at if share < 1})),
        l2_sp=method.options.get("l2_sp", 0.0),
        norm_ball=method.options.get("norm_ball"),
        replay=method.options.get("replay", 0.0),
        early_stop=EarlyStopSettings(early_stop["general"], early_stop["patience"], early_stop["num_evals"])
        if early_stop
        else None,
    )


def stem_of(task: CellTask, root: Path) -> StemCheckpoint | None:
    """Where the cell's stem is kept; None where it shares none with other budgets."""
    from peftodyssey.training.checkpoint import StemCheckpoint

    return StemCheckpoint(root / task.stem.folder, task.stem.continues) if task.stem else None


def truncate(settings: TrainSettings, share: float) -> TrainSettings:
    """The settings of a training that stops at a share of its budget, to be resumed later; at 1 the same settings."""
    return settings if share >= 1 else replace(settings, stop_at_step=_step_at(share, settings.steps))


def _step_at(share: float, steps: int) -> int:
    return max(1, round(share * steps))


def steps_of(spec: TrainSpec, num_sequences: int, batch_size: int) -> int:
    """Optimizer steps of a budget in tokens, epochs or steps; at least one."""
    if spec.budget_steps is not None:
        return spec.budget_steps
    if spec.budget_epochs is not None:
        return max(1, math.ceil(spec.budget_epochs * num_sequences / batch_size))
    assert spec.budget_tokens is not None
    return max(1, math.ceil(spec.budget_tokens / spec.batch_tokens))
