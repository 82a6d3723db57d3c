"""Job: the mean hidden states of one text's chunks under one base, as it stands in memory; commit them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from peftodyssey.errors import CorpusError, Interrupted
from peftodyssey.jobs.callbacks import Events, How
from peftodyssey.jobs.index import opened
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.plan.tasks import CellTask, HiddenStatesTask, Plan
from peftodyssey.scoring.hidden_states import mean_states
from peftodyssey.stats import chunk_sampling
from peftodyssey.store import manifest
from peftodyssey.store import states as store

FEWEST_CHUNKS = 8


def missing(plan: Plan, cells: Sequence[CellTask], root: Path) -> list[HiddenStatesTask]:
    """The states that the report wants for `cells`, finished or not, and that are not there yet."""
    wanted = {
        task.entry["similarity"][name] for task in cells if "similarity" in task.entry for name in ("text", "reference")
    }
    return [task for task in plan.hidden_states if task.folder in wanted and manifest.read(root / task.folder) is None]


def states(task: HiddenStatesTask, root: Path, bases: LoadedModels, how: How, events: Events) -> None:
    """Write the states of `task`; CorpusError where its text has too few whole chunks."""
    index = opened(root / task.index)
    name = Path(task.index).name
    row, half = _chosen(index.starts, task)
    fewest = min(np.bincount(half)[1:]) if task.halves else len(row)
    if fewest < FEWEST_CHUNKS:
        raise CorpusError(
            f"{name} holds {fewest} chunks of {task.chunk_tokens} tokens{' in a half' * task.halves}, too few to compare texts on",
            "raise score.tokens, lower chunk_tokens of similarity, or give more text",
        )

    def progress(done: int, total: int) -> None:
        events.scored(name, done, total)
        if events.should_stop():
            raise Interrupted("stopped while reading chunks", "start the same command again, it goes on from here")

    model, prefix = bases.get(task.base), bases.tokenizer(task.base).prefix_id
    token = chunk_sampling.chunk_ids(index.token, row, task.chunk_tokens)
    hidden = mean_states(
        model,
        token,
        layer=task.layer,
        prefix=prefix,
        device=how.device,
        precision=task.base.precision,
        on_progress=progress,
    )
    folder = manifest.prepare_dir(root / task.folder)
    store.write(folder, hidden, row, half)
    facts = {"chunks": len(row), "width": hidden.shape[1], "prefix": prefix}
    manifest.commit(folder, {"kind": "states", "identity": task.identity, "status": "done", "facts": facts})


def _chosen(starts: np.ndarray, task: HiddenStatesTask) -> tuple[np.ndarray, np.ndarray]:
    """First rows and halves of the chunks that are drawn."""
    if not task.halves:
        row = chunk_sampling.sample_chunks(starts, task.chunk_tokens, task.chunks, chunk_sampling.SEED)
        return row, np.zeros(len(row), np.int8)
    first = chunk_sampling.random_half(starts, chunk_sampling.SEED)
    rows = [
        chunk_sampling.sample_chunks(starts, task.chunk_tokens, task.chunks, chunk_sampling.SEED, kept)
        for kept in (first, ~first)
    ]
    return np.concatenate(rows), np.repeat(np.array([1, 2], np.int8), [len(part) for part in rows])
