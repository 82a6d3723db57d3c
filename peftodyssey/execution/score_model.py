"""Any model on any text, alone and with adapters, without a recipe."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
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
from peftodyssey.methods import saved
from peftodyssey.methods.registry import METHODS
from peftodyssey.models import source as model_source
from peftodyssey.models.log_filters import quiet
from peftodyssey.models.source import ModelSource
from peftodyssey.models.training_length import TrainingLength, too_long_note, training_length
from peftodyssey.plan.chat_template import chat_identity, chat_of
from peftodyssey.plan.tasks import BaseModelKey, IndexTask, ScoreTask
from peftodyssey.recipe import identity
from peftodyssey.recipe.cell import CorpusSpec, MethodSpec, QuantSpec, ScoreSpec
from peftodyssey.recipe.corpus_names import corpus_name
from peftodyssey.recipe.numbers import parse_count
from peftodyssey.recipe.schema_texts import Corpus
from peftodyssey.stats.bootstrap import Interval, paired_bootstrap
from peftodyssey.store import layout, manifest, parquet, plans

DEFAULT_CONTEXT = 1024


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


@dataclass(frozen=True)
class ScoreRequest:
    """What to score and how. Context None: the length that the base was trained on; stride None: half of it."""

    model: str
    corpus: str
    adapters: Sequence[Path] = ()
    _: KW_ONLY
    revision: str | None = None  # of the model
    split: str = "test"  # train, valid, test or all
    quant: str | None = None  # nf4, fp4 or int8
    context: int | None = None
    stride: int | None = None
    tokens: str | int = "50k"  # at most so many, by whole documents; `all` scores everything
    first_token: str = "bos"  # bos or skip
    mode: str = "documents"  # documents or stream
    field: str | None = None  # of rows, that holds the text
    chat_template: str | None = None  # of conversations: plain, or a Jinja file; None: the model's own


def score_model(request: ScoreRequest, *, device: Device, out: Path | None, console: Console | None) -> Scored:
    """Score the model alone and with each adapter on one split of the text; columns are kept in `out` if given."""
    source = model_source.resolve(request.model, request.revision)
    for weights in (*([source.folder] if source.folder else []), *request.adapters):
        manifest.refuse_damaged(weights)
    trained = training_length(source)
    corpus = corpus_source.resolve(CorpusSpec(name=_name(request.corpus), source=request.corpus, field=request.field))
    spec = _score_spec(request, source, trained)
    precision = "fp32" if device.kind == "cpu" else "bf16" if device.bf16 else "fp16"
    base = BaseModelKey(source, precision, _quant(request.quant))
    stop = interrupt.Stop()
    progress = ProgressReporter(console or Console(stderr=True), stop)
    models = LoadedModels(device.kind, device.budget_bytes, on_note=progress.note)
    with (
        _folder(out) as root,
        interrupt.listening(stop, progress.say),
        quiet(),
        progress.showing(2 + len(request.adapters)),
    ):
        for note in source.notes:
            progress.note(f"{source.name}: {note}")
        if trained and spec.context > trained.tokens:
            progress.note(too_long_note(source.name, trained, spec.context))
        tokenizer = models.tokenizer(base)
        chat = chat_of(corpus, request.chat_template, source, tokenizer)
        if corpus.row_schema.turns is not None:
            progress.note(f"{corpus.name}: read as {corpus.row_schema.described()}; prompts are scored like answers")
        spec = replace(spec, first_token="skip") if chat else spec  # the template writes the first token
        index_identity = chat_identity(chat) | {
            "text": corpus.fingerprint,
            "split": request.split,
            "tokenizer": tokenizer.fingerprint,
            "max_tokens": spec.tokens,
        }
        name = layout.folder_name(f"{corpus.name}-{request.split}", identity.digest(index_identity))
        folder = f"{layout.CORPORA}/{name}"
        task = IndexTask(folder, corpus, request.split, source, spec.tokens, "keep", "text", index_identity, chat)
        if manifest.read(root / folder) is None:
            progress.task(f"tokenise {corpus.name}")
            index_job.index(task, root, tokenizer)
        progress.finished(corpus.name, "done")
        options = JobOptions(device.kind, checkpoint_every_s=0.0, keep="adapters", memory_bytes=None)
        context = JobContext(root, options, progress)
        scorer = _Scorer(task, base, spec, models, context, progress)
        columns = {request.model: scorer.column(None)}
        columns |= {str(adapter): scorer.column(adapter) for adapter in request.adapters}
        index = index_job.opened(root / folder)
        rows = tuple(_row(name, column, columns[request.model], index) for name, column in columns.items())
        tokens = int((~np.isnan(columns[request.model])).sum())
        documents = len(np.unique(index.document))
        return Scored(corpus.name, documents, tokens, spec.context, rows, columns, index.document, index.token)


@dataclass(frozen=True)
class _Scorer:
    """Scores one text with one base model, alone or with an adapter."""

    index: IndexTask
    base: BaseModelKey
    spec: ScoreSpec
    models: LoadedModels
    context: JobContext
    progress: ProgressReporter

    def column(self, adapter: Path | None) -> np.ndarray:
        """The column of the base with `adapter`, read where it is complete, else scored first."""
        score_identity = {
            "index": self.index.identity,
            "model": self.base.source.fingerprint,
            "precision": self.base.precision,
            "quant": [self.base.quant.kind, self.base.quant.double_quant] if self.base.quant else None,
            "adapter": _fingerprint(adapter) if adapter else None,
            "context": self.spec.context,
            "stride": self.spec.stride,
            "first_token": self.spec.first_token,
            "mode": self.spec.mode,
        }
        name = f"{self.index.corpus.name}-{adapter.name if adapter else 'base'}"
        folder = f"{layout.SCORES}/{layout.folder_name(name, identity.digest(score_identity))}"
        if manifest.read(self.context.root / folder) is None:
            self.progress.task(f"score {name}")
            self._score(ScoreTask(folder, self.index.folder, self.base, self.spec, None, score_identity), adapter)
        self.progress.finished(name, "done")
        return parquet.read_nll(self.context.root / folder)[0]

    def _score(self, task: ScoreTask, adapter: Path | None) -> None:
        model, prefix = self.models.get(self.base), self.models.tokenizer(self.base).prefix_id
        if adapter is None:
            score_job.score_base_and_write(task, model, prefix, self.context)
            return
        spec = MethodSpec("saved", adapter.name, options={"path": str(adapter)})
        attached = METHODS["saved"].load(model, adapter, spec)
        for note in dict.fromkeys((*attached.notes, *saved.notes(adapter, self.base.source.name))):
            self.progress.note(f"{adapter}: {note}")
        try:
            score_job.score_and_write(task, attached.model, prefix, self.context)
        finally:
            METHODS["saved"].detach(attached)


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


def _score_spec(request: ScoreRequest, source: ModelSource, trained: TrainingLength | None) -> ScoreSpec:
    positions = source.config.get("max_position_embeddings") or source.config.get("n_positions") or DEFAULT_CONTEXT
    default = min(DEFAULT_CONTEXT, _context_of(request.adapters) or (trained.tokens if trained else DEFAULT_CONTEXT))
    context = request.context or min(default, positions)
    stride = request.stride or (context if request.mode == "stream" else max(1, context // 2))
    if positions and context > positions:
        raise InputError(
            f"--context {context} is longer than the model's {positions} positions", f"use at most {positions}"
        )
    if not 0 < stride <= context:
        raise InputError(f"--stride {stride} must lie between 1 and the context, {context}", "leave it out for half")
    for option, allowed in (("first_token", ("bos", "skip")), ("mode", ("documents", "stream"))):
        if (value := getattr(request, option)) not in allowed:
            raise InputError(f"--{option.replace('_', '-')} {value}: allowed are {', '.join(allowed)}")
    return ScoreSpec(context, stride, _tokens(request.tokens), request.first_token, request.mode)


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
    name = corpus_name(Corpus.model_validate({"source": corpus}))
    return layout.slug(name.removesuffix(".tar")) or "text"


def _fingerprint(adapter: Path) -> str:
    from peftodyssey.models.weight_files import saved_fingerprint

    return saved_fingerprint(adapter)


@contextlib.contextmanager
def _folder(out: Path | None) -> Iterator[Path]:
    """`out`, or a temporary folder, which is deleted afterwards."""
    if out is not None:
        yield out
        return
    with tempfile.TemporaryDirectory(prefix="peftodyssey-") as scratch:
        yield Path(scratch)
