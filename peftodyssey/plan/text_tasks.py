"""The tasks that tokenise and score the texts of a plan: which split of which text, under which base model or cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftodyssey.corpora.newlines import policy_of
from peftodyssey.memory.search import base_only, scoring_batch
from peftodyssey.plan.chat_template import chat_identity
from peftodyssey.plan.sources import Sources
from peftodyssey.plan.tasks import BaseModelKey, IndexTask, ScoreTask, TrainedCell
from peftodyssey.recipe import identity
from peftodyssey.recipe.cell import Cell, CorpusSpec, ModelSpec, TrainSpec
from peftodyssey.store import layout

SAMPLE_TOKENS_CAP = 2_000_000  # tokens that are counted of the pretraining text
TRAIN_TOKENS_CAP = 20_000_000  # tokens indexed of a training split where the budget is in epochs
SAMPLED_TOKENS_CAP = 4_000_000  # where it is in tokens or steps, unless that is more: memory follows it


UNCAPPED_TOKENS = 1_000_000  # scored, about, where the recipe sets no cap


def scored_tokens(cap: int | None) -> int:
    """Tokens of a split that are scored at most."""
    return cap if cap is not None else UNCAPPED_TOKENS


def train_tokens_cap(train: TrainSpec) -> int:
    """Tokens of a training split that are indexed at most."""
    if train.budget_epochs is not None:
        return TRAIN_TOKENS_CAP
    return max(SAMPLED_TOKENS_CAP, train.budget_tokens or (train.budget_steps or 0) * train.batch_tokens)


def model_slug(model: ModelSpec) -> str:
    """The base model in a folder's name: the last part of its own name, and its revision."""
    return layout.slug(model.name.rsplit("/", 1)[-1], model.revision)


@dataclass(frozen=True)
class TextColumns:
    """One text of a cell and its columns of NLL."""

    name: str
    index: IndexTask
    before: ScoreTask  # under the unquantised base model
    quantised: ScoreTask | None  # under the quantised base model, where it is quantised
    after: ScoreTask  # under the trained cell

    @property
    def required(self) -> tuple[str, ...]:
        """The folders that must be there before the column after adaptation means anything."""
        return tuple(folder for key in ("index", "before", "quantised") if (folder := self.folders[key]))

    @property
    def entry(self) -> dict[str, str | None]:
        """What the plan file says of the text."""
        return {"name": self.name, **self.folders}

    @property
    def folders(self) -> dict[str, str | None]:
        """The folders of the index and of the columns, as the plan file has them."""
        return {
            "index": self.index.folder,
            "before": self.before.folder,
            "quantised": self.quantised.folder if self.quantised else None,
            "after": self.after.folder,
        }


class TextTasks:
    """The index and score tasks of a grid, each folder once."""

    def __init__(self, sources: Sources, budget_bytes: int) -> None:
        self.sources, self.budget_bytes = sources, budget_bytes
        self.indexes: dict[str, IndexTask] = {}
        self.base_scores: dict[str, ScoreTask] = {}

    def index(
        self,
        cell: Cell,
        spec: CorpusSpec,
        split: str,
        max_tokens: int | None,
        apart_from: Sequence[IndexTask] = (),
    ) -> IndexTask:
        """The index of one split of a text with the tokenizer of the cell's model, without what stands in others."""
        corpus = self.sources.corpora[spec.name]
        chat = self.sources.chat(cell, corpus)
        newline = policy_of(spec.newline, split)
        facts = {
            "text": corpus.fingerprint,
            "split": split,
            "shares": dict(spec.split),
            "newline": newline,
            "tokenizer": self.sources.tokenizers[cell.model].fingerprint,
            "max_tokens": max_tokens,
            "objective": cell.train.objective,
            **({"special_tokens": "parse"} if spec.special_tokens == "parse" else {}),
            **chat_identity(chat),
            **({"apart_from": [other.folder for other in apart_from]} if apart_from else {}),
        }
        folder = f"{layout.CORPORA}/{layout.folder_name(f'{spec.name}-{split}', identity.digest(facts))}"
        task = IndexTask(
            folder=folder,
            corpus=corpus,
            split=split,
            tokenizer_source=self.sources.models[cell.model],
            max_tokens=max_tokens,
            newline=newline,
            objective=cell.train.objective,
            identity=facts,
            chat=chat,
            apart_from=tuple(other.folder for other in apart_from),
        )
        return self.indexes.setdefault(folder, task)

    def train_index(self, cell: Cell, spec: CorpusSpec) -> IndexTask:
        """The train split of a text; with `dedupe: train` without what its held-out splits share with it."""
        held_out: tuple[IndexTask, ...] = ()
        if spec.dedupe == "train":  # all of them, however much is scored: a cell does not depend on that
            held_out = tuple(self.index(cell, spec, split, TRAIN_TOKENS_CAP) for split in ("valid", "test"))
        return self.index(cell, spec, "train", train_tokens_cap(cell.train), held_out)

    def valid_index(self, cell: Cell, spec: CorpusSpec) -> IndexTask:
        """The validation split of a text, up to half of what is scored of a test split."""
        cap = cell.score.tokens
        return self.index(cell, spec, "valid", None if cap is None else max(1, cap // 2), self._trained(cell, spec))

    def test_index(self, cell: Cell, spec: CorpusSpec) -> IndexTask:
        """The test split of a domain."""
        return self.index(cell, spec, "test", cell.score.tokens, self._trained(cell, spec))

    def _trained(self, cell: Cell, spec: CorpusSpec) -> tuple[IndexTask, ...]:
        """What `dedupe: test` keeps held-out splits apart from."""
        return (self.train_index(cell, spec),) if spec.dedupe == "test" else ()

    def general_indexes(self, cell: Cell) -> list[tuple[CorpusSpec, IndexTask]]:
        """The general texts of a cell."""
        split_of = self.sources.general_split
        return [(spec, self.index(cell, spec, split_of(spec), cell.score.tokens)) for spec in cell.general]

    def columns(self, trained: TrainedCell, name: str, index: IndexTask) -> TextColumns:
        """The columns of a text before and after; those of base models are shared between cells."""
        base = trained.base
        before = self._base_score(trained, replace(base, quant=None), index)
        quantised = self._base_score(trained, base, index) if base.quant else None
        return TextColumns(name, index, before, quantised, self.score(trained, index))

    def score(self, trained: TrainedCell, index: IndexTask) -> ScoreTask:
        """A column under a trained cell."""
        return score_task(trained.cell, trained.base, index, trained.hash, trained.pass_tokens)

    def _base_score(self, trained: TrainedCell, base: BaseModelKey, index: IndexTask) -> ScoreTask:
        cell, step = trained.cell, base_only(trained.step, base.quant)
        tokens, _ = scoring_batch(self.sources.shapes[cell.model], step, cell.score.context, self.budget_bytes)
        task = score_task(cell, base, index, None, tokens)
        return self.base_scores.setdefault(task.folder, task)


def score_task(
    cell: Cell, base: BaseModelKey, index: IndexTask, cell_hash: str | None, tokens: int | None, share: float = 1.0
) -> ScoreTask:
    """A column of `index` under a base model alone (`cell_hash` None) or a cell; `tokens` of one pass.

    `share` of the cell's update is in the scored weights.
    """
    # a chat template writes the first token itself
    settings = replace(cell.score, first_token="skip") if index.chat else cell.score
    facts: dict[str, Any] = {
        "index": index.identity,
        "model": base.source.fingerprint,
        "precision": base.precision,
        "quant": [base.quant.kind, base.quant.double_quant] if base.quant else None,
        "cell": cell_hash,
        "context": cell.score.context,
        "stride": cell.score.stride,
        "first_token": settings.first_token,
        "mode": cell.score.mode,
    }
    if share != 1:
        facts["share"] = share
    label = cell.method.label if cell_hash else (base.quant.kind if base.quant else "base")
    part = None if share == 1 else f"x{share:g}"
    name = layout.slug(index.corpus.name, index.split, model_slug(cell.model), label, part)
    folder = f"{layout.SCORES}/{layout.folder_name(name, identity.digest(facts))}"
    return ScoreTask(folder, index.folder, base, settings, cell_hash, facts, tokens)
