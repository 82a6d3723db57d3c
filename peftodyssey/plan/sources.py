"""What a recipe names, resolved once each: models with their tokenizers, texts, and prompts with choices."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from peftodyssey.corpora import source as corpus_source
from peftodyssey.corpora.chat import Chat
from peftodyssey.corpora.multiple_choice import Questions
from peftodyssey.corpora.multiple_choice import resolve as resolve_questions
from peftodyssey.corpora.source import Corpus
from peftodyssey.corpora.survey import Survey
from peftodyssey.errors import MissingWeights, OdysseyError, Problem
from peftodyssey.model_shape import ModelShape
from peftodyssey.models import source as model_source
from peftodyssey.models.local_model import looks_local
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.models.source import ModelSource
from peftodyssey.models.tokenizer import TextTokenizer, load_tokenizer
from peftodyssey.plan.chat_template import chat_of
from peftodyssey.plan.ladder_rungs import is_one_of_several, without_equal_tokens
from peftodyssey.recipe import grid
from peftodyssey.recipe.cell import Cell, CorpusSpec, ModelSpec, TaskSpec
from peftodyssey.recipe.grid import model_name
from peftodyssey.recipe.schema import Recipe
from peftodyssey.store import manifest


@dataclass
class Sources:
    """The models, texts and tasks of a recipe."""

    models: dict[ModelSpec, ModelSource] = field(default_factory=dict)
    shapes: dict[ModelSpec, ModelShape] = field(default_factory=dict)
    tokenizers: dict[ModelSpec, TextTokenizer] = field(default_factory=dict)
    corpora: dict[str, Corpus] = field(default_factory=dict)  # by CorpusSpec.name
    questions: dict[TaskSpec, Questions] = field(default_factory=dict)
    surveys: dict[str, Survey] = field(default_factory=dict)  # of local texts, by CorpusSpec.name
    left_out: dict[ModelSpec, str] = field(default_factory=dict)  # rungs without weights, each with the reason
    warnings: list[str] = field(default_factory=list)

    def chat(self, cell: Cell, corpus: Corpus) -> Chat | None:
        """The chat template that `cell` reads `corpus` with; None where its rows are not conversations."""
        return chat_of(corpus, cell.train.chat_template, self.models[cell.model], self.tokenizers[cell.model])

    def general_split(self, spec: CorpusSpec) -> str:
        """The split of a general text that is scored: its test split, else all of it, as nothing is trained on it."""
        return "test" if "test" in self.corpora[spec.name].source_splits else "all"


@contextmanager
def collect_problem(recipe: Recipe, key: str, problems: list[Problem]) -> Iterator[None]:
    """Add an OdysseyError of the block to `problems`, at the place of `key` in the recipe."""
    try:
        yield
    except OdysseyError as error:
        problems.append(problem_at(recipe, key, error))


def problem_at(recipe: Recipe, key: str, error: OdysseyError) -> Problem:
    """`error` as a problem at the place of `key` in the recipe."""
    line, column = recipe.place((key,))
    return Problem(recipe.where, line, column, key, error.message, next_step=error.next_step)


def _resolve_models(
    recipe: Recipe, models: dict[ModelSpec, None], sources: Sources, problems: list[Problem], needs_weights: bool
) -> None:
    """Adds `models` to `sources`; of several rungs those without weights are left out, and said."""
    missing: list[MissingWeights] = []
    for model in models:
        with collect_problem(recipe, "model", problems):
            try:
                source = model_source.resolve(model.name, model.revision, model.max_position_embeddings, model.weights)
                if source.folder is not None:
                    manifest.refuse_damaged(source.folder)
            except MissingWeights as error:
                if is_one_of_several(model, models):
                    missing.append(error)
                    sources.left_out[model] = error.message
                    continue
                if needs_weights or not looks_local(model.name):
                    raise
                source = model_source.without_weights(model.name, model.revision)
            sources.models[model] = source
            sources.shapes[model] = shape_from_config(source.config)
            sources.tokenizers[model] = load_tokenizer(source)
    if missing and not sources.models:
        problems.append(problem_at(recipe, "model", missing[0]))
    sources.warnings += [
        f"{model.name} at {model.revision} is left out: {message}" for model, message in sources.left_out.items()
    ]
    keep = {model_name(model.name, recipe.folder) for model in recipe.model if model.equal_rungs == "keep"}
    sources.models, warnings = without_equal_tokens(sources.models, frozenset(keep))
    sources.warnings += warnings


def resolve_sources(recipe: Recipe, cells: list[Cell], problems: list[Problem], needs_weights: bool = True) -> Sources:
    """Everything that `cells` name; what cannot be found or read is added to `problems`."""
    sources = Sources()
    _resolve_models(recipe, dict.fromkeys(cell.model for cell in cells), sources, problems, needs_weights)
    for cell in {cell.domain.name: cell for cell in cells}.values():
        with collect_problem(recipe, "domains", problems):
            corpus = corpus_source.resolve(cell.domain)
            corpus_source.check_objective(corpus, cell.train.objective)
            sources.corpora[cell.domain.name] = corpus
    others = [("general", spec) for spec in {spec.name: spec for cell in cells for spec in cell.general}.values()]
    method_texts = {spec.name: spec for cell in cells for spec in (cell.replay, cell.early_stop_text) if spec}
    others += [("methods", spec) for spec in method_texts.values()]
    if sample := grid.pretraining_text_spec(recipe):
        others.append(("pretraining_text", sample))
    for key, spec in others:
        if key != "methods" or spec.name not in sources.corpora:
            with collect_problem(recipe, key, problems):
                sources.corpora[spec.name] = corpus_source.resolve(spec)
    for task in grid.task_specs(recipe):
        with collect_problem(recipe, "tasks", problems):
            sources.questions[task] = resolve_questions(task)
    return sources
