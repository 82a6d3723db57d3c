"""Any model on any text, alone and with adapters, without a recipe."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from peftodyssey.corpora import source as corpus_source
from peftodyssey.errors import InputError
from peftodyssey.execution import interrupt
from peftodyssey.execution.progress import ProgressReporter
from peftodyssey.jobs import index as index_job
from peftodyssey.jobs import score as score_job
from peftodyssey.jobs.context import JobContext, JobOptions
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.memory.device import Device
from peftodyssey.methods.registry import METHODS
from peftodyssey.models import source as model_source
from peftodyssey.models.log_filters import quiet
from peftodyssey.models.training_length import too_long_note, training_length
from peftodyssey.plan.chat_template import chat_identity, chat_of
from peftodyssey.plan.tasks import BaseModelKey, IndexTask, ScoreTask
from peftodyssey.recipe import identity
from peftodyssey.recipe.cell import CorpusSpec, MethodSpec, QuantSpec, ScoreSpec
from peftodyssey.recipe.numbers import parse_count
from peftodyssey.stats.bootstrap import Interval, paired_bootstrap
from peftodyssey.store import layout, manifest, parquet, plans

DEFAULT_CONTEXT = 1024
DEFAULT_TOKENS = "50k"  # `all` scores everything
SUFFIXES = (".gz", ".zst", ".tar", ".txt", ".md", ".json", ".jsonl", ".parquet")  # not part of a text's name


@dataclass(frozen=True)
class Row:
    """One model on the text: nats per token, and the change against the base where there is one."""

    name: str
    nll_nats: float
    perplexity: float
    bits_per_byte: float
    delta: float | None
    lo: float | None
    hi: float | None
    note: str

    @property
    def interval(self) -> str:
        """The 95 % interval as text, or why there is none."""
        return self.note if self.lo is None else f"{self.lo:+.5f} to {self.hi:+.5f}"


@dataclass(frozen=True)
class Scored:
    """What `score` found. Arrays are row for row with the index: nats, NaN where not scored."""

    corpus: str
    documents: int
    tokens: int
    context: int
    rows: tuple[Row, ...]
    columns: dict[str, np.ndarray]  # by the row's name, float32 [tokens of the index]
    document: np.ndarray  # int32 [tokens of the index]
    token: np.ndarray  # int32 [tokens of the index]


def score_model(
    model: str,
    corpus: str,
    adapters: Sequence[Path],
    *,
    revision: str | None,
    split: str,
    out: Path | None,
    device: Device,
    quant: str | None,
    settings: Mapping[str, Any],
    console: Console | None,
) -> Scored:
    """Score `model`, then `model` with each adapter, on one split of `corpus`; columns are kept in `out` if given."""
    source = model_source.resolve(model, revision)
    trained = training_length(source)
    default_context = min(DEFAULT_CONTEXT, _context_of(adapters) or (trained.tokens if trained else DEFAULT_CONTEXT))
    positions = source.config.get("max_position_embeddings") or source.config.get("n_positions")
    point = _settings(settings, positions, default_context)
    found = corpus_source.resolve(CorpusSpec(name=_name(corpus), source=corpus, field=settings.get("field")))
    precision = "fp32" if device.kind == "cpu" else "bf16" if device.bf16 else "fp16"
    key = BaseModelKey(source, precision, _quant(quant))
    stop = interrupt.Stop()
    narrator = ProgressReporter(console or Console(stderr=True), stop)
    bases = LoadedModels(device.kind, device.budget_bytes, on_note=narrator.note)
    with _folder(out) as root, interrupt.listening(stop, narrator.say), quiet(), narrator.showing(2 + len(adapters)):
        for note in source.notes:
            narrator.note(f"{source.name}: {note}")
        if trained and point.context > trained.tokens:
            narrator.note(too_long_note(source.name, trained, point.context))
        chat = chat_of(found, None, source, bases.tokenizer(key))
        point = replace(point, first_token="skip") if chat else point  # the template writes what stands first
        told = chat_identity(chat) | {
            "text": found.fingerprint,
            "split": split,
            "tokenizer": bases.tokenizer(key).fingerprint,
            "max_tokens": point.tokens,
        }
        name = layout.folder_name(f"{found.name}-{split}", identity.digest(told))
        task = IndexTask(f"{layout.CORPORA}/{name}", found, split, source, point.tokens, "keep", "text", told, chat)
        if manifest.read(root / task.folder) is None:
            narrator.task(f"tokenise {found.name}")
            index_job.index(task, root, bases.tokenizer(key))
        narrator.finished(found.name, "done")
        options = JobOptions(device.kind, checkpoint_every_s=0.0, keep="adapters", memory_bytes=None)
        context = JobContext(root, options, narrator)
        columns = {model: _column(task, key, point, bases, None, context, narrator)}
        for adapter in adapters:
            columns[str(adapter)] = _column(task, key, point, bases, adapter, context, narrator)
        index = index_job.opened(root / task.folder)
        rows = tuple(_row(name, column, columns[model], index) for name, column in columns.items())
        scored = int((~np.isnan(columns[model])).sum())
        documents = len(np.unique(index.document))
        return Scored(found.name, documents, scored, point.context, rows, columns, index.document, index.token)


def _column(
    task: IndexTask,
    key: BaseModelKey,
    point: ScoreSpec,
    bases: LoadedModels,
    adapter: Path | None,
    context: JobContext,
    narrator: ProgressReporter,
) -> np.ndarray:
    told = {
        "index": task.identity,
        "model": key.source.fingerprint,
        "precision": key.precision,
        "quant": [key.quant.kind, key.quant.double_quant] if key.quant else None,
        "adapter": _fingerprint(adapter) if adapter else None,
        "context": point.context,
        "stride": point.stride,
        "first_token": point.first_token,
        "mode": point.mode,
    }
    name = f"{task.corpus.name}-{adapter.name if adapter else 'base'}"
    folder = f"{layout.SCORES}/{layout.folder_name(name, identity.digest(told))}"
    score = ScoreTask(folder, task.folder, key, point, None, told)
    if manifest.read(context.root / folder) is None:
        narrator.task(f"score {name}")
        base, prefix = bases.get(key), bases.tokenizer(key).prefix_id
        if adapter is None:
            score_job.score_base_and_write(score, base, prefix, context)
        else:
            attached = METHODS["saved"].load(
                base, adapter, MethodSpec("saved", adapter.name, options={"path": str(adapter)})
            )
            for note in attached.notes:
                narrator.note(f"{adapter}: {note}")
            try:
                score_job.score_and_write(score, attached.model, prefix, context)
            finally:
                METHODS["saved"].detach(attached)
    narrator.finished(name, "done")
    return parquet.read_nll(context.root / folder)[0]


def _row(name: str, column: np.ndarray, base: np.ndarray, index: Any) -> Row:
    kept = ~np.isnan(column)
    nats = float(column[kept].sum(dtype=np.float64))
    mean = nats / max(1, int(kept.sum()))
    bits = nats / math.log(2) / max(1, int(index.bytes[kept].sum()))
    if column is base:
        return Row(name, mean, math.exp(mean), bits, None, None, None, "")
    change: Interval = paired_bootstrap((column - base).astype(np.float64), index.document)
    return Row(name, mean, math.exp(mean), bits, change.estimate, change.lower, change.upper, change.note)


def _context_of(adapters: Sequence[Path]) -> int | None:
    """The context that the cells of these adapters were scored with, where they lie in a directory of results."""
    for adapter in adapters:
        root = adapter.absolute().parent.parent.parent
        if layout.is_store(root):
            folder = adapter.absolute().parent.relative_to(root).as_posix()
            contexts = [entry["coordinates"]["context"] for entry in plans.cells(root) if entry["folder"] == folder]
            if contexts:
                return int(contexts[-1])
    return None


def _settings(settings: Mapping[str, Any], positions: int | None, default_context: int) -> ScoreSpec:
    context = settings.get("context") or min(default_context, positions or default_context)
    mode = settings.get("mode") or "documents"
    stride = settings.get("stride") or (context if mode == "stream" else max(1, context // 2))
    if positions and context > positions:
        raise InputError(
            f"--context {context} is longer than the model's {positions} positions", f"use at most {positions}"
        )
    if not 0 < stride <= context:
        raise InputError(f"--stride {stride} must lie between 1 and the context, {context}", "leave it out for half")
    for option, allowed in (("first_token", ("bos", "skip")), ("mode", ("documents", "stream"))):
        if (settings.get(option) or allowed[0]) not in allowed:
            raise InputError(f"--{option.replace('_', '-')} {settings[option]}: allowed are {', '.join(allowed)}")
    return ScoreSpec(
        context, stride, _tokens(settings.get("tokens") or DEFAULT_TOKENS), settings.get("first_token") or "bos", mode
    )


def _tokens(value: object) -> int | None:
    if value == "all":
        return None
    try:
        return parse_count(value)
    except ValueError as error:
        raise InputError(f"--tokens {value}: {error}", "write 50k, or all") from error


def _quant(kind: str | None) -> QuantSpec | None:
    if kind is None:
        return None
    if kind not in ("nf4", "fp4", "int8"):
        raise InputError(f"--quant {kind}: allowed are nf4, fp4, int8")
    return QuantSpec(kind, kind != "int8")


def _name(corpus: str) -> str:
    name = Path(corpus).name
    while Path(name).suffix in SUFFIXES:
        name = Path(name).stem
    return layout.slug(name.removeprefix("hub:")) or "text"


def _fingerprint(adapter: Path) -> str:
    from peftodyssey.models.weight_files import saved_fingerprint

    return saved_fingerprint(adapter)


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """`out`, or a folder that goes when the work is done."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="peftodyssey-") as scratch:
        yield Path(scratch)
