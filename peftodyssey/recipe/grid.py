"""The cells of a recipe: the product of its axes, each point once, cells with the same base next to each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from peftodyssey.recipe.cell import (
    Cell,
    CorpusSpec,
    ModelSpec,
    QuantSpec,
    ScoreSpec,
    TaskSpec,
    TrainSpec,
)
from peftodyssey.recipe.checks_training import step_tokens, steps_of
from peftodyssey.recipe.corpus_names import absolute, absolute_source, corpus_name
from peftodyssey.recipe.document import RecipeDocument
from peftodyssey.recipe.identity import canonical, digest, hashed_fields
from peftodyssey.recipe.method_grid import method_specs
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_rungs import Rungs
from peftodyssey.recipe.schema_texts import Corpus
from peftodyssey.recipe.schema_training import Budget

NAMED = ("bundled/", "random/")


def cells(recipe: Recipe, rates_of: Callable[[Cell], Sequence[float]] | None = None) -> list[Cell]:
    """Every cell of `recipe` once, sorted so that neighbours share a base.

    `rates_of` gives the learning rates of a cell whose rate is searched for (`tune: auto`), which else has none.

    The order: model, revision, quantisation, domain, method, rank, learning rate, seed, budget; the first four and the
    method as they stand in the recipe, the others by size.
    """
    trains, score, tasks = train_specs(recipe), score_spec(recipe), task_specs(recipe)
    needs_general = any(spec.needs_general for spec in recipe.asked)
    general = tuple(spec for text in recipe.general if needs_general for spec in corpus_specs(text, recipe))
    domains = domain_specs(recipe)
    methods = method_specs(recipe)
    names = [method.method for method in methods]
    replay, early_stop_text = replay_spec(recipe), early_stop_spec(recipe)
    by_content: dict[str, tuple[tuple[Any, ...], Cell]] = {}
    for (m, model), (d, domain), (k, method), seed, (b, train) in product(
        enumerate(model_specs(recipe)), enumerate(domains), enumerate(methods), recipe.seeds, enumerate(trains)
    ):
        cell = Cell(
            recipe.name,
            model,
            domain,
            general,
            method,
            0 if method.method == "saved" else seed,
            train,
            score,
            tasks,
            replay=replay if method.options.get("replay") else None,
            early_stop_text=early_stop_text if method.options.get("early_stop") else None,
        )
        for one in _at_rates(cell, rates_of):
            rate = k if one.method.lr is None else one.method.lr
            order = (m, _quant_order(method.quant), d, names.index(method.method), method.rank or 0, rate, seed, b)
            order, first = by_content.setdefault(content := _content(one), (order, one))
            by_content[content] = (order, _with_wise_ft_of_both(first, one))
    return [cell for _, cell in sorted(by_content.values(), key=lambda pair: pair[0])]


def _at_rates(cell: Cell, rates_of: Callable[[Cell], Sequence[float]] | None) -> list[Cell]:
    """The cell, or where its rate is searched for the cell at every rate that `rates_of` gives."""
    rates = () if rates_of is None or cell.method.max_cells is None else rates_of(cell)
    return [replace(cell, method=replace(cell.method, lr=rate)) for rate in rates] or [cell]


def _with_wise_ft_of_both(cell: Cell, same: Cell) -> Cell:
    """`cell` scored at its own shares of the update and at those of `same`, the same training written twice."""
    shares = {*cell.method.options.get("wise_ft", ()), *same.method.options.get("wise_ft", ())}
    if not shares:
        return cell
    return replace(cell, method=replace(cell.method, options={**cell.method.options, "wise_ft": tuple(sorted(shares))}))


def tune_group(cell: Cell) -> str:
    """A key that cells share when they differ only in their seed and a tuned learning rate; 16 hex digits."""
    method = replace(cell.method, lr=None) if cell.method.tuned else cell.method
    return digest({"content": _content(replace(cell, seed=0, method=method))})[:16]


def _content(cell: Cell) -> str:
    """What makes a cell the same as another within one recipe, where sources are known by name only."""
    sources = [f"{text.source} {text.revision}" for text in (cell.domain, *cell.general)]
    named = [cell.model.name, cell.model.revision, sources, cell.method.options.get("path")]
    return canonical([named, hashed_fields(cell)])


def _quant_order(quant: QuantSpec | None) -> tuple[str, bool]:
    return ("", False) if quant is None else (quant.kind, quant.double_quant)


def model_specs(recipe: Recipe) -> list[ModelSpec]:
    """Each model at each of its revisions; a local folder by its absolute path.

    Rungs that are chosen by tokens and have not been looked up (`plan.rungs`) are one spec with the choice as revision.
    """
    return [
        ModelSpec(model_name(model.name, recipe.folder), revision, model.max_position_embeddings, model.weights)
        for model in recipe.model
        for revision in _revision_names(model.revisions)
    ]


def _revision_names(revisions: tuple[str, ...] | Rungs | None) -> tuple[str | None, ...]:
    if isinstance(revisions, Rungs):
        return (f"by {revisions.model_dump_json(exclude_none=True, by_alias=True)}",)
    return revisions or (None,)


def model_name(name: str, folder: str) -> str:
    """A name that starts like a path, or that is a folder next to the recipe, is local; anything else is a Hub id."""
    local = name.startswith(("./", "../", "/", "~/")) or (
        not name.startswith(NAMED) and os.path.isdir(Path(folder) / name)
    )
    return absolute(name, folder) if local else name


def corpus_specs(corpus: Corpus, recipe: RecipeDocument) -> Iterator[CorpusSpec]:
    """A text of the recipe with its short name and absolute path, once for each of its newline policies."""
    split = {} if corpus.split is None else corpus.split.model_dump(exclude_none=True)
    for newline in corpus.newline:
        yield CorpusSpec(
            name=corpus_name(corpus),
            source=absolute_source(corpus, recipe.folder),
            field=corpus.field,
            config=corpus.config,
            split=split,
            newline=newline,
            revision=corpus.revision,
            special_tokens=corpus.special_tokens,
            columns={} if corpus.columns is None else corpus.columns.model_dump(exclude_none=True),
            bad_rows=corpus.bad_rows,
            dedupe=corpus.dedupe,
        )


def task_specs(recipe: Recipe) -> tuple[TaskSpec, ...]:
    """The tasks of the recipe with their short names and absolute paths."""
    return tuple(
        TaskSpec(corpus_name(t), absolute_source(t, recipe.folder), t.split, t.examples, t.config, t.revision)
        for t in recipe.tasks
    )


def domain_specs(recipe: Recipe) -> list[CorpusSpec]:
    """The texts to adapt to, one for each newline policy."""
    return [spec for text in recipe.domains for spec in corpus_specs(text, recipe)]


def pretraining_text_spec(recipe: Recipe) -> CorpusSpec | None:
    """The sample of pretraining text; None where no measure needs it."""
    if recipe.pretraining_text is None or not any(spec.needs_pretraining_text for spec in recipe.asked):
        return None
    return next(corpus_specs(recipe.pretraining_text, recipe))


def replay_spec(recipe: Recipe) -> CorpusSpec | None:
    """The text of `replay`: that of the pretraining, else the first general one; None where there is neither."""
    texts = (recipe.pretraining_text, *recipe.general)
    return next((next(corpus_specs(text, recipe)) for text in texts if text is not None), None)


def early_stop_spec(recipe: Recipe) -> CorpusSpec | None:
    """The text of `early_stop`: the first general one; None where there is none."""
    return next((next(corpus_specs(text, recipe)) for text in recipe.general), None)


def train_specs(recipe: Recipe) -> list[TrainSpec]:
    """How the cells of the recipe are trained: one for each budget, ascending."""
    train, template, warmup = recipe.train, recipe.train.chat_template, recipe.train.warmup
    of_every_budget = TrainSpec(
        budget_tokens=None,
        budget_epochs=None,
        budget_steps=None,
        seq_len=train.seq_len,
        batch_tokens=step_tokens(recipe),
        schedule=train.schedule,
        warmup=0.0 if isinstance(warmup, Budget) else warmup,
        weight_decay=train.weight_decay,
        grad_clip=train.grad_clip,
        betas=train.betas,
        objective=train.objective,
        eval_at=tuple(sorted({*train.eval_at, 1.0})),
        precision=train.precision,
        optimizer=train.optimizer,
        engine=train.engine,
        too_long=train.too_long if train.objective == "sft" else None,
        chat_template=template if template in (None, "plain") else absolute(template, recipe.folder),
        multi_lora=train.multi_lora,
        halving=train.select.halving if train.select else None,
        warmup_steps=steps_of(warmup, step_tokens(recipe)) if isinstance(warmup, Budget) else None,
    )
    return [
        replace(
            of_every_budget,
            budget_tokens=round(amount) if unit == "tokens" else None,
            budget_epochs=amount if unit == "epochs" else None,
            budget_steps=round(amount) if unit == "steps" else None,
        )
        for amount, unit in sorted({(budget.amount, budget.unit) for budget in train.budget})
    ]


def score_spec(recipe: Recipe) -> ScoreSpec:
    """How every text of the recipe is scored."""
    score = recipe.score
    context = score.context or recipe.train.seq_len
    stride = score.stride or (context if score.mode == "stream" else max(1, context // 2))
    return ScoreSpec(context, stride, score.tokens, score.first_token, score.mode)
