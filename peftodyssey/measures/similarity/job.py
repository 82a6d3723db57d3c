"""Job: the mean hidden states of one text's chunks under one base, committed as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from peftodyssey.errors import CorpusError
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import Handle
from peftodyssey.jobs.index import opened
from peftodyssey.measures.similarity import chunk_sampling
from peftodyssey.measures.similarity import states as store
from peftodyssey.measures.similarity.hidden_states import mean_states
from peftodyssey.measures.similarity.plan import Reading
from peftodyssey.plan.tasks import MeasureTask
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.store import manifest

MIN_CHUNKS = 8


def run(task: MeasureTask, handle: Handle, context: JobContext) -> None:
    """Writes the states of `task`; CorpusError where its text has too few whole chunks."""
    reading: Reading = task.options
    index = opened(context.root / reading.index)
    name = Path(reading.index).name
    first_rows, half = _draw_chunks(index.starts, reading)
    chunks = min(np.bincount(half)[1:]) if reading.halves else len(first_rows)
    if chunks < MIN_CHUNKS:
        raise CorpusError(
            f"{name} has {chunks} chunks of {reading.chunk_tokens} tokens{' in a half' * reading.halves}, fewer than "
            f"the {MIN_CHUNKS} that a comparison of texts needs",
            "raise score.tokens, lower chunk_tokens of similarity, or give more text",
        )

    model, prefix = handle.base(), handle.tokenizer.prefix_id
    token = chunk_sampling.chunk_ids(index.token, first_rows, reading.chunk_tokens)
    hidden = mean_states(
        model,
        token,
        ScoreSettings(context.options.device, precision=task.base.precision),
        layer=reading.layer,
        prefix=prefix,
        on_progress=context.scoring_progress(name, "reading chunks"),
    )
    folder = manifest.prepare_dir(context.root / task.folder)
    store.write(folder, hidden, first_rows, half)
    facts = {"chunks": len(first_rows), "width": hidden.shape[1], "prefix": prefix}
    manifest.commit(folder, {"kind": "states", "identity": task.identity, "status": "done", "facts": facts})


def _draw_chunks(starts: np.ndarray, reading: Reading) -> tuple[np.ndarray, np.ndarray]:
    """First rows of the drawn chunks, and which half of the documents each is from (0: not split)."""
    size, count = reading.chunk_tokens, reading.chunks
    if not reading.halves:
        first_rows = chunk_sampling.sample_chunks(starts, size, count, chunk_sampling.SEED)
        return first_rows, np.zeros(len(first_rows), np.int8)
    first = chunk_sampling.random_half(starts, chunk_sampling.SEED)
    rows = [chunk_sampling.sample_chunks(starts, size, count, chunk_sampling.SEED, mask) for mask in (first, ~first)]
    return np.concatenate(rows), np.repeat(np.array([1, 2], np.int8), [len(part) for part in rows])
