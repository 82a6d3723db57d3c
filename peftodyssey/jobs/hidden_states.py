"""Job: the mean hidden states of one text's chunks under one base, committed as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from peftodyssey.errors import CorpusError
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.index import opened
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.plan.tasks import CellTask, HiddenStatesTask, Plan
from peftodyssey.scoring.hidden_states import mean_states
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.stats import chunk_sampling
from peftodyssey.store import manifest
from peftodyssey.store import states as store

MIN_CHUNKS = 8


def missing(plan: Plan, cells: Sequence[CellTask], root: Path) -> list[HiddenStatesTask]:
    """The states that the report needs for `cells`, finished or not, and that are not there yet."""
    wanted = {
        task.entry["similarity"][name] for task in cells if "similarity" in task.entry for name in ("text", "reference")
    }
    return [task for task in plan.hidden_states if task.folder in wanted and manifest.read(root / task.folder) is None]


def write_states(task: HiddenStatesTask, models: LoadedModels, context: JobContext) -> None:
    """Writes the states of `task`; CorpusError where its text has too few whole chunks."""
    index = opened(context.root / task.index)
    name = Path(task.index).name
    first_rows, half = _draw_chunks(index.starts, task)
    chunks = min(np.bincount(half)[1:]) if task.halves else len(first_rows)
    if chunks < MIN_CHUNKS:
        raise CorpusError(
            f"{name} has {chunks} chunks of {task.chunk_tokens} tokens{' in a half' * task.halves}, fewer than the "
            f"{MIN_CHUNKS} that a comparison of texts needs",
            "raise score.tokens, lower chunk_tokens of similarity, or give more text",
        )

    model, prefix = models.get(task.base), models.tokenizer(task.base).prefix_id
    token = chunk_sampling.chunk_ids(index.token, first_rows, task.chunk_tokens)
    hidden = mean_states(
        model,
        token,
        ScoreSettings(context.options.device, precision=task.base.precision),
        layer=task.layer,
        prefix=prefix,
        on_progress=context.scoring_progress(name, "reading chunks"),
    )
    folder = manifest.prepare_dir(context.root / task.folder)
    store.write(folder, hidden, first_rows, half)
    facts = {"chunks": len(first_rows), "width": hidden.shape[1], "prefix": prefix}
    manifest.commit(folder, {"kind": "states", "identity": task.identity, "status": "done", "facts": facts})


def _draw_chunks(starts: np.ndarray, task: HiddenStatesTask) -> tuple[np.ndarray, np.ndarray]:
    """First rows of the drawn chunks, and which half of the documents each is from (0: not split)."""
    if not task.halves:
        first_rows = chunk_sampling.sample_chunks(starts, task.chunk_tokens, task.chunks, chunk_sampling.SEED)
        return first_rows, np.zeros(len(first_rows), np.int8)
    first = chunk_sampling.random_half(starts, chunk_sampling.SEED)
    rows = [
        chunk_sampling.sample_chunks(starts, task.chunk_tokens, task.chunks, chunk_sampling.SEED, mask)
        for mask in (first, ~first)
    ]
    return np.concatenate(rows), np.repeat(np.array([1, 2], np.int8), [len(part) for part in rows])
