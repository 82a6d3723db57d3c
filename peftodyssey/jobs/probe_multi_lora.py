"""Job: try a fleet's joint step for real: two steps of full blocks of random tokens. Keeps nothing. Called by
`run.probing`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from peftodyssey.jobs.peak_memory import track_peak
from peftodyssey.jobs.probe import STEPS, random_blocks
from peftodyssey.jobs.train_cell import attached_method, settings_of
from peftodyssey.plan.probe_results import MultiLoraProbe
from peftodyssey.plan.tasks import CellTask

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from peftodyssey.multi_lora.trainer import Member


def probe_multi_lora(
    tasks: Sequence[CellTask], micro_batch_size: int, base: PreTrainedModel, device: str
) -> MultiLoraProbe:
    """What the joint step of `tasks` takes on `device`; `base` is afterwards what it was before. Raises TrainingError."""
    from peftodyssey.multi_lora.trainer import train_adapters

    draw = np.random.default_rng(tasks[0].cell.seed)
    vocabulary = min(tasks[0].shape.vocabulary, base.get_input_embeddings().num_embeddings)
    with TemporaryDirectory() as scratch:
        members = [
            _member(task, micro_batch_size, base, draw, vocabulary, Path(scratch) / str(n))
            for n, task in enumerate(tasks)
        ]
        with track_peak(device) as peak:
            train_adapters(base, members, device=device)
    for member in members:
        if member.failed:
            raise member.failed
    seconds = tuple(len(members) * record.seconds for record in members[0].log)
    method, train = tasks[0].cell.method.method, tasks[0].cell.train
    what = f"{len(tasks)} {method} cells on {tasks[0].cell.model.name}, {micro_batch_size} x {train.seq_len} tokens of each at a time"
    return MultiLoraProbe(what, len(tasks), seconds, peak.peak_bytes)


def _member(
    task: CellTask,
    micro_batch_size: int,
    base: PreTrainedModel,
    draw: np.random.Generator,
    vocabulary: int,
    folder: Path,
) -> Member:
    from peftodyssey.multi_lora.adapters import adapter_of
    from peftodyssey.multi_lora.trainer import Member

    train = task.cell.train
    blocks = random_blocks(draw, train.batch_tokens // train.seq_len * STEPS, train.seq_len, vocabulary)
    settings = settings_of(task, len(blocks.labels))
    settings = replace(settings, steps=STEPS, warmup=0.0, eval_at_steps=(), micro_batch_size=micro_batch_size)
    with attached_method(task, base) as attached:
        start = adapter_of(attached.model)
    return Member(settings, blocks, start, folder, belongs_to="a probe")
