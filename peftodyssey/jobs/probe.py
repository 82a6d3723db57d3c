"""Job: run one shape of step for real on random tokens: train some steps, score a batch, save, reload. Keeps nothing.

The documents have all lengths up to `seq_len`: nothing is longer in a run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from peftodyssey.constants import SCORE_BATCH_TOKENS
from peftodyssey.corpora.index import Index
from peftodyssey.corpora.packing import PackedSequences
from peftodyssey.errors import TrainingError
from peftodyssey.jobs.cell_inputs import settings_of
from peftodyssey.jobs.handle import attached_method
from peftodyssey.jobs.peak_memory import allocated_bytes, track_peak
from peftodyssey.memory.probes import STEPS, Probe
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.registry import METHODS
from peftodyssey.plan.probe_results import MultiLoraProbe
from peftodyssey.plan.tasks import CellTask
from peftodyssey.scoring.nll import score_index
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.training.settings import StepRecord, TrainCallbacks, TrainSettings

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from peftodyssey.multi_lora.trainer import Member
    from peftodyssey.scoring.nll import ScoreResult

MAX_RELOAD_DRIFT_NATS = 0.02  # of the mean NLL, between the trained weights and the same read from disk (bf16 rounding)


def probe(task: CellTask, base: PreTrainedModel, load_seconds: float, device: str, prefix: int | None) -> Probe:
    """Measures the shape of `task` on `device`; `base` is afterwards what it was before.

    Raises TrainingError, MethodError or CorpusError where the cell could not be done in a run.
    """
    run = _CellProbe(task, base, device, prefix, RandomText.of(task, base))
    context = int(task.cell.score.context or task.cell.train.seq_len)
    index = run.random.index(context, SCORE_BATCH_TOKENS.get(device, 2048))
    in_use = {"weights": allocated_bytes(device)}
    with TemporaryDirectory() as scratch:
        folder = Path(scratch) / "saved"
        with attached_method(task, base) as attached:
            in_use["adapters"] = allocated_bytes(device)
            with track_peak(device) as peak:
                seconds = run.train(attached, in_use) if task.cell.method.lr else ()
            with track_peak(device) as scoring:
                scored = run.score(attached.model, index)
            begun = time.perf_counter()
            if seconds:
                METHODS[task.cell.method.method].export(attached, folder, task.cell.model.name)
            save_seconds = time.perf_counter() - begun
        if seconds:
            run.require_same_reloaded(folder, scored, index)
        saved_bytes = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    steady = in_use.get("optimizer states", in_use["adapters"])
    step = task.step
    return Probe(
        what=f"{task.cell.model.name}, {task.cell.method.label}, {step.micro_batch_size} x {step.seq_len} tokens",
        measured={
            "weights": in_use["weights"],
            "adapters": in_use["adapters"] - in_use["weights"],
            "optimiser states": steady - in_use["adapters"],
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


@dataclass(frozen=True)
class StepCost:
    """What some steps took."""

    step_seconds: tuple[float, ...]  # of each optimiser step, in order; the first one warms up
    peak_bytes: int  # reserved on a GPU, resident on a CPU


def probe_steps(task: CellTask, base: PreTrainedModel, device: str) -> StepCost:
    """Times the training steps of `task` by itself; `base` is afterwards what it was before. Raises TrainingError."""
    run = _CellProbe(task, base, device, None, RandomText.of(task, base))
    with attached_method(task, base) as attached, track_peak(device) as peak:
        seconds = run.train(attached, {})
    return StepCost(seconds, peak.peak_bytes)


def probe_multi_lora(
    tasks: Sequence[CellTask], micro_batch_size: int, base: PreTrainedModel, device: str
) -> MultiLoraProbe:
    """Measures the joint step of `tasks` on `device`; `base` is afterwards what it was before. Raises TrainingError."""
    from peftodyssey.multi_lora.trainer import train_adapters

    random = RandomText.of(tasks[0], base)
    with TemporaryDirectory() as scratch:
        members = [
            _member(task, micro_batch_size, base, random, Path(scratch) / str(n)) for n, task in enumerate(tasks)
        ]
        with track_peak(device) as peak:
            train_adapters(base, members, device=device)
    for member in members:
        if member.failed:
            raise member.failed
    seconds = tuple(len(members) * record.seconds for record in members[0].log)
    cell = tasks[0].cell
    what = (
        f"{len(tasks)} {cell.method.method} cells on {cell.model.name}, "
        f"{micro_batch_size} x {cell.train.seq_len} tokens of each at a time"
    )
    return MultiLoraProbe(what, len(tasks), seconds, peak.peak_bytes)


def _member(task: CellTask, micro_batch_size: int, base: PreTrainedModel, random: RandomText, folder: Path) -> Member:
    from peftodyssey.multi_lora.adapters import adapter_of
    from peftodyssey.multi_lora.trainer import Member

    sequences = random.sequences(task)
    settings = replace(probe_settings(task, sequences), micro_batch_size=micro_batch_size)
    with attached_method(task, base) as attached:
        start = adapter_of(attached.model)
    return Member(settings, sequences, start, folder, resume_digest="a probe")


def probe_settings(task: CellTask, sequences: PackedSequences) -> TrainSettings:
    """The settings of a cell for the steps of a probe at full learning rate."""
    return replace(settings_of(task, len(sequences.labels)), steps=STEPS, warmup=0.0, eval_at_steps=())


@dataclass(frozen=True)
class _CellProbe:
    """The parts of one probe."""

    task: CellTask
    base: PreTrainedModel
    device: str
    prefix: int | None
    random: RandomText

    def train(self, attached: AttachedMethod, in_use: dict[str, int]) -> tuple[float, ...]:
        """Trains some steps and adds to `in_use` the bytes after the first one. Returns the seconds of each."""
        if self.task.cell.train.engine == "trl":
            from peftodyssey.training.trl_bridge import train_trl as train
        else:
            from peftodyssey.training.loop import train
        sequences = self.random.sequences(self.task)

        def on_step(_: StepRecord) -> None:
            in_use.setdefault("optimizer states", allocated_bytes(self.device))

        result = train(
            attached.model,
            attached.trainable,
            sequences,
            probe_settings(self.task, sequences),
            device=self.device,
            callbacks=TrainCallbacks(on_step=on_step),
        )
        return tuple(record.seconds for record in result.log)

    def score(self, model: nn.Module, index: Index) -> ScoreResult:
        """Scores a text as the cell's columns are scored."""
        return score_index(
            model,
            index,
            self.task.cell.score,
            ScoreSettings(self.device, self.task.scores[0].batch_tokens, precision=self.task.base.precision),
            prefix=self.prefix,
        )

    def require_same_reloaded(self, folder: Path, scored: ScoreResult, index: Index) -> None:
        """Raises TrainingError where the saved weights, loaded again, give other likelihoods."""
        with attached_method(self.task, self.base, folder) as reloaded:
            again = self.score(reloaded.model, index)
        means = [float(np.nanmean(result.nll_nats, dtype=np.float64)) for result in (again, scored)]
        drift_nats = abs(means[0] - means[1])
        if not drift_nats <= MAX_RELOAD_DRIFT_NATS:
            raise TrainingError(
                f"{self.task.cell.method.label}: reloaded, its NLL differs by {drift_nats:.4f} nats per token",
                "check the library versions (`peftodyssey doctor`): a run's numbers would not be those of its files",
            )


@dataclass(frozen=True)
class RandomText:
    """Random tokens in documents of random lengths."""

    draw: np.random.Generator
    vocabulary: int

    @classmethod
    def of(cls, task: CellTask, base: PreTrainedModel) -> RandomText:
        """Text of tokens that `base` knows."""
        embeddings: Any = base.get_input_embeddings()
        vocabulary = min(task.shape.vocabulary, embeddings.num_embeddings)
        return cls(np.random.default_rng(task.cell.seed), vocabulary)

    def _lengths(self, total: int, longest: int) -> Iterator[int]:
        """Lengths of documents that add up to `total`: first the longest, then random ones."""
        left, length = total, longest
        while left:
            length = min(left, length)
            yield length
            left -= length
            length = int(self.draw.integers(2, longest + 1))

    def sequences(self, task: CellTask) -> PackedSequences:
        """The sequences of the steps of a cell; every second one holds several documents, as packed text does."""
        seq_len = task.cell.train.seq_len
        num_sequences = task.cell.train.batch_tokens // seq_len * STEPS
        ids = self.draw.integers(0, self.vocabulary, (num_sequences, seq_len)).astype(np.int32)
        positions, segments = np.zeros_like(ids), np.zeros_like(ids)
        for number in range(num_sequences):
            lengths = list(self._lengths(seq_len, max(2, seq_len // 3) if number % 2 else seq_len))
            positions[number] = np.concatenate([np.arange(length) for length in lengths])
            segments[number] = np.repeat(np.arange(len(lengths)), lengths)
        return PackedSequences(ids, np.roll(ids, -1, axis=1), positions, segments)

    def index(self, context: int, batch_tokens: int) -> Index:
        """An index that fills a scoring batch; its first document is longer than a window of `context` tokens."""
        lengths = list(self._lengths(max(2 * context, min(batch_tokens, 4 * context)), 2 * context))
        rows = sum(lengths)
        zeros = np.zeros(rows, np.int32)
        return Index(
            folder=Path(),
            document=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            position=zeros,
            token=self.draw.integers(0, self.vocabulary, rows).astype(np.int32),
            start=zeros,
            end=zeros,
            bytes=zeros,
            token_class=zeros.astype(np.int8),
            trained=np.ones(rows, bool),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        )
