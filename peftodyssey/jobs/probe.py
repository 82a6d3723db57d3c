"""Job: try one shape of step for real: load, train two steps of full blocks, score a batch, save, reload. Keeps
nothing.

Called by `run.probing`. The text is random tokens in documents of all lengths up to the block: nothing is longer in the
run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from peftodyssey.constants import SCORE_BATCH_TOKENS
from peftodyssey.corpora.index import Index
from peftodyssey.corpora.packing import PackedSequences
from peftodyssey.errors import TrainingError
from peftodyssey.jobs.peak_memory import allocated_bytes, track_peak
from peftodyssey.jobs.train_cell import attached_method, settings_of
from peftodyssey.memory.probes import Probe
from peftodyssey.methods.registry import METHODS
from peftodyssey.plan.tasks import CellTask
from peftodyssey.scoring.nll import score_index

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from peftodyssey.scoring.nll import ScoreResult

STEPS = 2
RELOADED_WITHIN_NATS = 0.02  # in the mean, between the trained weights and the same read from disk (bf16 rounding)


def probe(task: CellTask, base: PreTrainedModel, load_seconds: float, device: str, prefix: int | None) -> Probe:
    """What the shape of `task` takes on `device`; `base` is afterwards what it was before.

    Raises TrainingError, MethodError or CorpusError where the cell could not be done in a run.
    """
    draw = np.random.default_rng(task.cell.seed)
    vocabulary = min(task.shape.vocabulary, base.get_input_embeddings().num_embeddings)
    index = _text(draw, vocabulary, task, device)
    held = {"weights": allocated_bytes(device)}
    with TemporaryDirectory() as scratch:
        place = Path(scratch) / "saved"
        with attached_method(task, base) as attached:
            held["adapters"] = allocated_bytes(device)
            with track_peak(device) as peak:
                seconds = _train(task, attached, draw, vocabulary, device, held) if task.cell.method.lr else ()
            with track_peak(device) as scoring:
                scored = _score(task, attached.model, index, prefix, device)
            begun = time.perf_counter()
            if seconds:
                METHODS[task.cell.method.method].export(attached, place, task.cell.model.name)
            save_seconds = time.perf_counter() - begun
        if seconds:
            _require_same(task, base, place, scored, index, prefix, device)
        saved_bytes = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    steady = held.get("optimiser states", held["adapters"])
    return Probe(
        what=f"{task.cell.model.name}, {task.cell.method.label}, {task.step.micro_batch_size} x {task.step.seq_len} tokens",
        measured={
            "weights": held["weights"],
            "adapters": held["adapters"] - held["weights"],
            "optimiser states": steady - held["adapters"],
            "passing": peak.allocated_bytes - steady,
        },
        peak_allocated_bytes=peak.allocated_bytes,
        peak_reserved_bytes=peak.peak_bytes,
        scoring_peak_bytes=scoring.peak_bytes,
        step_seconds=seconds,
        scored_tokens_per_second=scored.facts["tokens"] / max(scored.facts["seconds"], 1e-9),
        load_seconds=load_seconds,
        save_seconds=save_seconds,
        saved_bytes=saved_bytes,
    )


def _train(
    task: CellTask, attached: object, draw: np.random.Generator, vocabulary: int, device: str, held: dict[str, int]
) -> tuple[float, ...]:
    """Two optimiser steps; notes what is held after the first one. Returns the seconds of each."""
    if task.cell.train.engine == "trl":
        from peftodyssey.training.trl_bridge import train_trl as train
    else:
        from peftodyssey.training.loop import train
    batch_size = task.cell.train.batch_tokens // task.cell.train.seq_len
    blocks = random_blocks(draw, batch_size * STEPS, task.cell.train.seq_len, vocabulary)
    settings = replace(settings_of(task, len(blocks.labels)), steps=STEPS, warmup=0.0, eval_at_steps=())

    def on_step(_: object) -> None:
        held.setdefault("optimiser states", allocated_bytes(device))

    result = train(attached.model, attached.trainable, blocks, settings, device=device, on_step=on_step)  # type: ignore[attr-defined]
    return tuple(record.seconds for record in result.log)


def _score(task: CellTask, model: object, index: Index, prefix: int | None, device: str) -> ScoreResult:
    return score_index(
        model,
        index,
        task.cell.score,
        prefix=prefix,
        device=device,
        precision=task.base.precision,  # type: ignore[arg-type]
        batch_tokens=task.scores[0].batch_tokens,
    )


def _require_same(
    task: CellTask,
    base: PreTrainedModel,
    place: Path,
    scored: ScoreResult,
    index: Index,
    prefix: int | None,
    device: str,
) -> None:
    """What was written to disk, read again, gives the same likelihoods."""
    with attached_method(task, base, place) as reloaded:
        again = _score(task, reloaded.model, index, prefix, device)
    drift_nats = abs(
        float(np.nanmean(again.nll_nats, dtype=np.float64) - np.nanmean(scored.nll_nats, dtype=np.float64))
    )
    if not drift_nats <= RELOADED_WITHIN_NATS:
        raise TrainingError(
            f"{task.cell.method.label}: saved and loaded again, it gives {drift_nats:.4f} nats a token more or less",
            "check the library versions (`peftodyssey doctor`); results of a run would not be those of its files",
        )


def _lengths(draw: np.random.Generator, total: int, longest: int) -> Iterator[int]:
    """Lengths of documents that add up to `total`: the longest there can be first, then any."""
    left, length = total, longest
    while left:
        length = min(left, length)
        yield length
        left -= length
        length = int(draw.integers(2, longest + 1))


def random_blocks(draw: np.random.Generator, blocks: int, seq_len: int, vocabulary: int) -> PackedSequences:
    """Random tokens; each second block holds several documents, as packed text does."""
    ids = draw.integers(0, vocabulary, (blocks, seq_len)).astype(np.int32)
    positions, segments = np.zeros_like(ids), np.zeros_like(ids)
    for number in range(blocks):
        lengths = list(_lengths(draw, seq_len, max(2, seq_len // 3) if number % 2 else seq_len))
        positions[number] = np.concatenate([np.arange(length) for length in lengths])
        segments[number] = np.repeat(np.arange(len(lengths)), lengths)
    return PackedSequences(ids, np.roll(ids, -1, axis=1), positions, segments)


def _text(draw: np.random.Generator, vocabulary: int, task: CellTask, device: str) -> Index:
    """An index of random tokens that fills one scoring batch, its first document longer than a window."""
    context = int(task.cell.score.context or task.cell.train.seq_len)
    lengths = list(
        _lengths(draw, max(2 * context, min(SCORE_BATCH_TOKENS.get(device, 2048), 4 * context)), 2 * context)
    )
    rows = sum(lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    zeros = np.zeros(rows, np.int32)
    return Index(
        folder=Path(),
        document=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
        position=zeros,
        token=draw.integers(0, vocabulary, rows).astype(np.int32),
        start=zeros,
        end=zeros,
        bytes=zeros,
        token_class=zeros.astype(np.int8),
        trained=np.ones(rows, bool),
        starts=starts,
    )


@contextmanager
def loading() -> Iterator[list[float]]:
    """Seconds of the block, appended when it ends."""
    seconds: list[float] = []
    begun = time.perf_counter()
    yield seconds
    seconds.append(time.perf_counter() - begun)
