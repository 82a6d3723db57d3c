"""Recipe -> Plan: resolve every source, count and size every cell, name every folder. Imports no torch.

Called by `check`, `plan` and `run`. Everything wrong is raised together, as one RecipeError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from peftodyssey.corpora import source as corpus_source
from peftodyssey.corpora.chat import Chat
from peftodyssey.corpora.newlines import policy_of
from peftodyssey.corpora.source import Corpus
from peftodyssey.errors import OdysseyError, Problem, RecipeError
from peftodyssey.memory.device import Device
from peftodyssey.memory.search import base_only, cell_step, scoring_batch
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.methods.registry import METHODS
from peftodyssey.model_shape import ModelShape
from peftodyssey.models import source as model_source
from peftodyssey.models.shape_from_config import shape_from_config as anatomy_of
from peftodyssey.models.source import ModelSource
from peftodyssey.models.tokenizer import TextTokenizer, load_tokenizer
from peftodyssey.models.weight_files import saved_fingerprint
from peftodyssey.plan import beside, crossed, names, plan_file, similarity
from peftodyssey.plan import noise as noise_module
from peftodyssey.plan.auto_values import resolve_auto
from peftodyssey.plan.beforehand import validate_cell
from peftodyssey.plan.chat_template import chat_identity, chat_of
from peftodyssey.plan.multiple_choice import Tasks
from peftodyssey.plan.rungs import resolve_rungs
from peftodyssey.plan.tasks import BaseModelKey, CellTask, IndexTask, Plan, ScoreTask
from peftodyssey.recipe import grid, identity
from peftodyssey.recipe.cell import Cell, CorpusSpec, ModelSpec
from peftodyssey.recipe.schema import Recipe
from peftodyssey.store import layout

SAMPLE_TOKENS_CAP = 2_000_000  # tokens that are counted of the pretraining text
TRAIN_TOKENS_CAP = 20_000_000  # tokens indexed of a training split, unless the budget is larger


@dataclass
class Sources:
    """What the recipe names, found once each."""

    models: dict[ModelSpec, ModelSource]
    anatomies: dict[ModelSpec, ModelShape]
    tokenizers: dict[ModelSpec, TextTokenizer]
    corpora: dict[str, Corpus]  # by CorpusSpec.name
    tasks: Tasks = field(default_factory=Tasks)


def build(recipe: Recipe, device: Device, budget_bytes: int | None = None) -> Plan:
    """The plan of `recipe` on `device` within `budget_bytes`; RecipeError with every problem found."""
    found = resolve_rungs(recipe)
    if found.problems:
        raise RecipeError(list(found.problems))
    recipe, cells = found.recipe, grid.cells(found.recipe)
    problems: list[Problem] = []
    sources = _resolve(recipe, cells, problems)
    if not problems:
        _check_cells(recipe, cells, sources, device, problems)
    if problems:
        raise RecipeError(problems)
    budget_bytes = device.budget_bytes if budget_bytes is None else budget_bytes
    builder = _Builder(sources, device, budget_bytes, grid.pretraining_text_spec(recipe))
    tasks = tuple(builder.cell(cell) for cell in cells)
    tasks = tuple(task.with_geometry() for task in tasks) if "geometry" in recipe.measured else tasks
    noise, tasks = noise_module.planned(recipe.noise, tasks, builder.noise_texts, budget_bytes)
    read, tasks = similarity.planned(recipe.similarity, tasks, builder.indexes)
    return Plan(
        recipe=recipe,
        device=device,
        budget_bytes=builder.budget_bytes,
        indexes=tuple(builder.indexes.values()),
        base_scores=tuple(builder.base_scores.values()),
        cells=tasks,
        noise=noise,
        hidden_states=read,
        warnings=(*found.warnings, *_warnings(sources)),
        digest=identity.digest({"cells": [task.entry for task in tasks]}),
        base_choices=tuple(sources.tasks.base_choices.values()),
    )


def _resolve(recipe: Recipe, cells: list[Cell], problems: list[Problem]) -> Sources:
    sources = Sources({}, {}, {}, {})

    def attempt(key: str, act: Callable[[], None]) -> None:
        try:
            act()
        except OdysseyError as error:
            problems.append(_problem(recipe, key, error))

    for point in dict.fromkeys(cell.model for cell in cells):
        attempt("model", lambda point=point: _resolve_model(point, sources))
    for cell in {c.domain.name: c for c in cells}.values():
        attempt("domains", lambda cell=cell: _resolve_corpus(cell.domain, cell.train.objective, sources))
    for general in {g.name: g for c in cells for g in c.general}.values():
        attempt("general", lambda general=general: _resolve_corpus(general, "any", sources))
    for text in {
        p.name: p for c in cells for p in (c.replay, c.early_stop_text) if p and p.name not in sources.corpora
    }.values():
        attempt("methods", lambda text=text: _resolve_corpus(text, "any", sources))
    if sample := grid.pretraining_text_spec(recipe):
        attempt("pretraining_text", lambda: _resolve_corpus(sample, "any", sources))
    for task in grid.task_specs(recipe):
        attempt("tasks", lambda task=task: sources.tasks.find(task))
    return sources


def _resolve_model(point: ModelSpec, sources: Sources) -> None:
    found = model_source.resolve(point.name, point.revision, point.max_position_embeddings, point.weights)
    sources.models[point] = found
    sources.anatomies[point] = anatomy_of(found.config)
    sources.tokenizers[point] = load_tokenizer(found)


def _resolve_corpus(point: CorpusSpec, objective: str, sources: Sources) -> None:
    corpus = corpus_source.resolve(point)
    if objective != "any":
        corpus_source.check_objective(corpus, objective)
    sources.corpora[point.name] = corpus


def _problem(recipe: Recipe, key: str, error: OdysseyError, place: tuple[int, int] | None = None) -> Problem:
    line, column = place or recipe.place((key,))
    return Problem(recipe.where, line, column, key, error.message, next_step=error.next_step)


def _check_cells(recipe: Recipe, cells: list[Cell], sources: Sources, device: Device, problems: list[Problem]) -> None:
    seen: set[str] = set()
    for key, error in (found for cell in cells for found in validate_cell(cell, sources, device)):
        if error.message not in seen:
            seen.add(error.message)
            problems.append(_problem(recipe, key, error))
    if recipe.similarity:
        for point, anatomy in sources.anatomies.items():
            problems.extend(
                _problem(recipe, "measure", error)
                for error in similarity.problems(recipe.similarity, anatomy, point.name)
            )


def _warnings(sources: Sources) -> list[str]:
    from peftodyssey.corpora.tokenizer_checks import audit

    found: dict[str, None] = {}
    for point, tokenizer in sources.tokenizers.items():
        for warning in audit(tokenizer):
            found[f"{point.name}: {warning}"] = None
    return list(found)


class _Builder:
    """Gathers the tasks of a grid, each folder once."""

    def __init__(self, sources: Sources, device: Device, budget_bytes: int, sample: CorpusSpec | None) -> None:
        self.sources, self.sample = sources, sample
        self.device = device
        self.budget_bytes = budget_bytes
        self.indexes: dict[str, IndexTask] = {}
        self.base_scores: dict[str, ScoreTask] = {}

    def cell(self, cell: Cell) -> CellTask:
        """The task of one cell, with the indexes and base columns that it stands on."""
        method = METHODS[cell.method.method]
        anatomy = self.sources.anatomies[cell.model]
        resolved = resolve_auto(cell, self.device)
        base = BaseModelKey(self.sources.models[cell.model], str(resolved["precision"]), cell.method.quant)
        train = self._index(cell, cell.domain, "train") if method.trains else None
        valid = self._index(cell, cell.domain, "valid")
        test = self._index(cell, cell.domain, "test")
        general = [(point.name, self._index(cell, point, self._general_split(point))) for point in cell.general]
        sample = self._index(cell, self.sample, "all", SAMPLE_TOKENS_CAP) if self.sample else None
        replay = self._index(cell, cell.replay, "train") if cell.replay else None
        guard = (
            self._index(cell, cell.early_stop_text, "valid", _cap(cell, "valid", False))
            if cell.early_stop_text
            else None
        )
        told = identity.identity(cell, self._facts(cell, resolved) | beside.facts(cell, replay, guard))
        digest = identity.digest(told)
        trainable = method.count(cell.method, anatomy)
        step, bill = cell_step(
            cell, anatomy, trainable, resolved, base.source.fingerprint, self.device, self.budget_bytes
        )
        texts = [("test", test), ("valid", valid), *general]
        tokens, scoring_bytes = scoring_batch(anatomy, step, cell.score.context, self.budget_bytes)
        columns = {name: self._columns(cell, base, index, digest, step, tokens) for name, index in texts}
        alone, _ = scoring_batch(anatomy, base_only(step, base.quant), cell.score.context, self.budget_bytes)
        choices, asked = self.sources.tasks.of_cell(
            cell, base, str(told["facts"]["tokenizer"]), digest, (alone, tokens)
        )
        wise = {
            share: tuple(self._score(cell, base, index, digest, tokens, share) for _, index in texts)
            for share in cell.method.options.get("wise_ft", ())
        }
        others = crossed.texts(
            cell,
            test,
            lambda p: self._index(cell, p, "test"),
            lambda i: self._columns(cell, base, i, digest, step, tokens),
        )
        folder = f"{layout.CELLS}/{layout.folder_name(names.cell(cell), digest)}"
        return CellTask(
            cell=cell,
            hash=digest,
            folder=folder,
            identity=told,
            base=base,
            shape=anatomy,
            trainable=trainable,
            train_index=train.folder if train else None,
            valid_index=valid.folder,
            general_indexes=tuple(index.folder for _, index in general),
            scores=tuple(column["after"] for column in columns.values()),
            step=step,
            memory=bill,
            scoring_bytes=scoring_bytes,
            auto_values=resolved,
            entry=plan_file.entry(
                cell, digest, folder, base, resolved, trainable, bill, train.folder if train else None, texts, columns
            )
            | ({"sample_index": sample.folder} if sample else {})
            | asked
            | ({"wise": plan_file.wise(wise)} if wise else {})
            | crossed.entry(others),
            choices=choices,
            replay_index=replay.folder if replay else None,
            early_stop_eval=self._score(cell, base, guard, digest, tokens) if guard else None,
            wise_ft_scores=tuple(task for tasks in wise.values() for task in tasks),
            transfer_scores=tuple(column["after"] for _, _, column in others if column["after"]),
        )

    def noise_texts(self, cell: Cell) -> list[tuple[str, IndexTask]]:
        """The texts that `cell`'s base is scored on with noise: the general ones, and the test part of its own."""
        parts = [*((point, self._general_split(point)) for point in cell.general), (cell.domain, "test")]
        return [(point.display_name, self._index(cell, point, split)) for point, split in parts]

    def _facts(self, cell: Cell, resolved: Mapping[str, Any]) -> dict[str, Any]:
        facts: dict[str, Any] = {
            **resolved,
            "model": self.sources.models[cell.model].fingerprint,
            "tokenizer": self.sources.tokenizers[cell.model].fingerprint,
            "domain": self._text(cell),
        }
        if cell.method.method == "saved":
            facts["saved"] = saved_fingerprint(Path(cell.method.options["path"]))
        return facts

    def _text(self, cell: Cell) -> str:
        """What is trained on: the text, and the template that makes text of conversations."""
        corpus = self.sources.corpora[cell.domain.name]
        chat = self._chat(cell, corpus)
        return (
            corpus.fingerprint if chat is None else identity.digest({"text": corpus.fingerprint, **chat_identity(chat)})
        )

    def _chat(self, cell: Cell, corpus: Corpus) -> Chat | None:
        return chat_of(
            corpus, cell.train.chat_template, self.sources.models[cell.model], self.sources.tokenizers[cell.model]
        )

    def _general_split(self, point: CorpusSpec) -> str:
        """Nothing is trained on general text: its own test part, else all of it."""
        return "test" if "test" in self.sources.corpora[point.name].source_splits else "all"

    def _index(self, cell: Cell, point: CorpusSpec, split: str, cap: int | None = None) -> IndexTask:
        corpus = self.sources.corpora[point.name]
        tokenizer = self.sources.tokenizers[cell.model]
        told = {
            "text": corpus.fingerprint,
            "split": split,
            "shares": dict(point.split),
            "newline": policy_of(point.newline, split),
            "tokenizer": tokenizer.fingerprint,
            "max_tokens": cap or _cap(cell, split, point is not cell.domain),
            "objective": cell.train.objective,
        }
        chat = self._chat(cell, corpus)
        told |= chat_identity(chat)
        digest = identity.digest(told)
        folder = f"{layout.CORPORA}/{layout.folder_name(f'{point.name}-{split}', digest)}"
        task = IndexTask(
            folder,
            corpus,
            split,
            self.sources.models[cell.model],
            told["max_tokens"],
            told["newline"],
            cell.train.objective,
            told,
            chat,
        )
        return self.indexes.setdefault(folder, task)

    def _columns(
        self, cell: Cell, base: BaseModelKey, index: IndexTask, digest: str, step: StepSpec, tokens: int | None
    ) -> dict[str, ScoreTask | None]:
        """The before, quantised and after columns of one index; the first two are shared between cells."""
        plain = replace(base, quant=None)
        before = self._base_score(cell, plain, index, step)
        quantised = self._base_score(cell, base, index, step) if base.quant else None
        return {"before": before, "quantised": quantised, "after": self._score(cell, base, index, digest, tokens)}

    def _base_score(self, cell: Cell, base: BaseModelKey, index: IndexTask, step: StepSpec) -> ScoreTask:
        anatomy = self.sources.anatomies[cell.model]
        tokens, _ = scoring_batch(anatomy, base_only(step, base.quant), cell.score.context, self.budget_bytes)
        task = self._score(cell, base, index, None, tokens)
        return self.base_scores.setdefault(task.folder, task)

    def _score(
        self,
        cell: Cell,
        base: BaseModelKey,
        index: IndexTask,
        digest: str | None,
        tokens: int | None,
        share: float = 1.0,
    ) -> ScoreTask:
        settings = (
            replace(cell.score, first_token="skip") if index.chat else cell.score
        )  # the template writes what stands first
        told = {
            "index": index.identity,
            "model": base.source.fingerprint,
            "precision": base.precision,
            "quant": [base.quant.kind, base.quant.double_quant] if base.quant else None,
            "cell": digest,
            "context": cell.score.context,
            "stride": cell.score.stride,
            "first_token": settings.first_token,
            "mode": cell.score.mode,
            **({} if share == 1 else {"share": share}),
        }
        who = cell.method.label if digest else (base.quant.kind if base.quant else "base")
        name = layout.slug(
            index.corpus.name, index.split, names.model(cell.model), who, None if share == 1 else f"x{share:g}"
        )
        folder = f"{layout.SCORES}/{layout.folder_name(name, identity.digest(told))}"
        return ScoreTask(folder, index.folder, base, settings, digest, told, tokens, share)


def _cap(cell: Cell, split: str, general: bool) -> int | None:
    """Tokens to index: the score's cap, half of it for validation, a generous one for training."""
    if split == "train":
        return max(TRAIN_TOKENS_CAP, cell.train.budget_tokens or 0)
    if cell.score.tokens is None:
        return None
    return cell.score.tokens if split == "test" or general else max(1, cell.score.tokens // 2)
