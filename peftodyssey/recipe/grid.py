"""A recipe to the points of its grid: the product of its axes, each once, neighbours on one base.

Called by `plan` and `run`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from peftodyssey.recipe.cell import (
    Cell,
    CorpusSpec,
    MethodSpec,
    ModelSpec,
    QuantSpec,
    ScoreSpec,
    TaskSpec,
    TrainSpec,
)
from peftodyssey.recipe.checks import step_tokens
from peftodyssey.recipe.corpus_names import absolute, corpus_name, corpus_source, is_path
from peftodyssey.recipe.identity import canonical, digest, hashed_fields
from peftodyssey.recipe.labels import labelled
from peftodyssey.recipe.numbers import parse_alpha
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_constraints import constraint_grid
from peftodyssey.recipe.schema_methods import (
    AnyMethod,
    Bitfit,
    Full,
    Ia3,
    LastLayers,
    Lora,
    Method,
    Peft,
    Qlora,
    Saved,
)
from peftodyssey.recipe.schema_rungs import Rungs
from peftodyssey.recipe.schema_texts import Corpus

NAMED = ("bundled/", "random/")


def cells(recipe: Recipe) -> list[Cell]:
    """Every cell of `recipe` once, sorted so that neighbours share a base.

    The order: model, revision, quantisation, domain, method, rank, learning rate, seed; the first four and the method
    as they stand in the recipe, the others by size.
    """
    train, score, tasks = train_point(recipe), score_point(recipe), task_points(recipe)
    measured = recipe.general if {"forgetting", "noise"} & {*recipe.measured} else ()
    general = tuple(point for corpus in measured for point in corpus_points(corpus, recipe))
    domains = [point for corpus in recipe.domains for point in corpus_points(corpus, recipe)]
    methods = method_points(recipe)
    crossed = tuple(domains) if "transfer" in recipe.measured else ()
    replay, guard = replay_point(recipe), guard_point(recipe)
    ranked: dict[str, tuple[tuple[Any, ...], Cell]] = {}
    for (m, model), (d, domain), (k, method), seed in product(
        enumerate(model_points(recipe)), enumerate(domains), enumerate(methods), recipe.seeds
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
            early_stop_text=guard if method.options.get("early_stop") else None,
            transfer_texts=crossed,
        )
        key = (
            m,
            _quant_order(method.quant),
            d,
            _first(methods, method),
            method.rank or 0,
            k if method.lr is None else method.lr,
            seed,
        )
        content = _content(cell)
        first = ranked.setdefault(content, (key, cell))
        ranked[content] = (first[0], _scored_as(first[1], cell))
    return [cell for _, cell in sorted(ranked.values(), key=lambda pair: pair[0])]


def _scored_as(cell: Cell, same: Cell) -> Cell:
    """`cell` scored at the shares of its update at which `same`, the same training written twice, is scored too."""
    shares = {*cell.method.options.get("wise_ft", ()), *same.method.options.get("wise_ft", ())}
    if not shares:
        return cell
    return replace(cell, method=replace(cell.method, options={**cell.method.options, "wise_ft": tuple(sorted(shares))}))


def tune_group(cell: Cell) -> str:
    """A key that cells share when they differ only in a tuned learning rate; 16 hex digits."""
    return digest(
        {"content": _content(replace(cell, method=replace(cell.method, lr=None)) if cell.method.tuned else cell)}
    )[:16]


def _content(cell: Cell) -> str:
    """What makes a cell the same as another within one recipe, where sources are known by name only."""
    sources = [f"{c.source} {c.revision}" for c in (cell.domain, *cell.general)]
    named = [cell.model.name, cell.model.revision, sources, cell.method.options.get("path")]
    return canonical([named, hashed_fields(cell)])


def _quant_order(quant: QuantSpec | None) -> tuple[str, bool]:
    return ("", False) if quant is None else (quant.kind, quant.double_quant)


def _first(methods: list[MethodSpec], method: MethodSpec) -> int:
    return next(i for i, other in enumerate(methods) if other.method == method.method)


def model_points(recipe: Recipe) -> list[ModelSpec]:
    """Each model at each of its revisions; a local folder by its absolute path.

    Rungs that are chosen by tokens and have not been looked up (`plan.rungs`) stand as one point that says so.
    """
    return [
        ModelSpec(model_name(model.name, recipe.folder), revision, model.max_position_embeddings, model.weights)
        for model in recipe.model
        for revision in _named(model.revisions)
    ]


def _named(revisions: tuple[str, ...] | Rungs | None) -> tuple[str | None, ...]:
    if isinstance(revisions, Rungs):
        return (f"by {revisions.model_dump_json(exclude_none=True, by_alias=True)}",)
    return revisions or (None,)


def model_name(name: str, folder: str) -> str:
    """A name that starts like a path, or that is a folder beside the recipe, is local; anything else is a Hub id."""
    local = name.startswith(("./", "../", "/", "~/")) or (
        not name.startswith(NAMED) and os.path.isdir(Path(folder) / name)
    )
    return absolute(name, folder) if local else name


def corpus_points(corpus: Corpus, recipe: Recipe) -> Iterator[CorpusSpec]:
    """A text of the recipe with its short name and absolute path, once for each of its newline policies."""
    source = corpus_source(corpus)
    split = corpus.split
    parts = {} if split is None else {"train": split.train, "valid": split.valid, "test": split.test}
    for newline in corpus.newline:
        yield CorpusSpec(
            name=corpus_name(corpus),
            source=absolute(source, recipe.folder) if is_path(corpus) else source,
            field=corpus.field,
            config=corpus.config,
            split={key: value for key, value in parts.items() if value is not None},
            newline=newline,
            revision=corpus.revision,
        )


def task_points(recipe: Recipe) -> tuple[TaskSpec, ...]:
    """The tasks of the recipe with their short names and absolute paths."""
    points = []
    for task in recipe.tasks:
        source = corpus_source(task)
        where = absolute(source, recipe.folder) if is_path(task) else source
        points.append(TaskSpec(corpus_name(task), where, task.split, task.examples, task.config, task.revision))
    return tuple(points)


def sample_point(recipe: Recipe) -> CorpusSpec | None:
    """The sample of pretraining text; None where no measure needs it."""
    if recipe.pretraining_text is None or not {"tokens", "similarity"} & {*recipe.measured}:
        return None
    return next(corpus_points(recipe.pretraining_text, recipe))


def replay_point(recipe: Recipe) -> CorpusSpec | None:
    """The text of `replay`: that of the pretraining, else the first general one; None where there is neither."""
    texts = (recipe.pretraining_text, *recipe.general)
    return next((next(corpus_points(text, recipe)) for text in texts if text is not None), None)


def guard_point(recipe: Recipe) -> CorpusSpec | None:
    """The text of `early_stop`: the first general one; None where there is none."""
    return next((next(corpus_points(text, recipe)) for text in recipe.general), None)


def train_point(recipe: Recipe) -> TrainSpec:
    """How every cell of the recipe is trained."""
    train, budget = recipe.train, recipe.train.budget
    return TrainSpec(
        budget_tokens=round(budget.amount) if budget.unit == "tokens" else None,
        budget_epochs=budget.amount if budget.unit == "epochs" else None,
        budget_steps=round(budget.amount) if budget.unit == "steps" else None,
        seq_len=train.seq_len,
        batch_tokens=step_tokens(recipe),
        schedule=train.schedule,
        warmup=train.warmup,
        weight_decay=train.weight_decay,
        grad_clip=train.grad_clip,
        betas=train.betas,
        objective=train.objective,
        eval_at=tuple(sorted({*train.eval_at, 1.0})),
        precision=train.precision,
        optimizer=train.optimizer,
        engine=train.engine,
        too_long=train.too_long if train.objective == "sft" else None,
        chat_template=_template(train.chat_template, recipe.folder),
        multi_lora=train.multi_lora,
        halving=train.select.halving if train.select else None,
    )


def _template(named: str | None, folder: str) -> str | None:
    return named if named in (None, "plain") else absolute(str(named), folder)


def score_point(recipe: Recipe) -> ScoreSpec:
    """How every text of the recipe is scored."""
    score = recipe.score
    context = score.context or recipe.train.seq_len
    stride = score.stride or (context if score.mode == "stream" else max(1, context // 2))
    return ScoreSpec(context, stride, score.tokens, score.first_token, score.mode)


def method_points(recipe: Recipe) -> list[MethodSpec]:
    """Each method at each value of its axes, labelled, in the recipe's order."""
    points = [point for method in recipe.methods for point in _expand(method, recipe.folder)]
    return labelled(points)


def _expand(method: AnyMethod, folder: str) -> Iterator[MethodSpec]:
    if isinstance(method, Saved):
        yield MethodSpec("saved", method.label or "", options={"path": absolute(method.path, folder)})
        return
    for values, constraints in product(AXES[type(method)](method), constraint_grid(method)):
        for rate in method.lr.tune or method.lr.fixed or ():
            yield MethodSpec(
                **{
                    "method": method.method,
                    "label": method.label or "",
                    "lr": rate,
                    "tuned": len(set(method.lr.tune or ())) > 1,
                    **values,
                    "options": {**values.get("options", {}), **constraints},
                }
            )


def _low_rank_axes(method: Lora | Qlora) -> Iterator[dict[str, Any]]:
    for quant, double, rank, alpha, targets, dropout, rslora, dora, init in product(
        method.quant or (None,),
        method.double_quant,
        method.rank,
        method.alpha,
        method.targets,
        method.dropout,
        method.rslora,
        method.dora,
        method.init,
    ):
        four_bits = quant in ("nf4", "fp4")
        yield {
            "method": "qlora" if four_bits else "lora",
            "quant": QuantSpec(quant, double if four_bits else False) if quant else None,
            "rank": rank,
            "alpha": parse_alpha(alpha, rank),
            "targets": targets,
            "dropout": dropout,
            "options": {"rslora": rslora, "dora": dora, "init": init},
        }


AXES: dict[type[Method], Callable[[Any], Iterator[dict[str, Any]]]] = {
    Full: lambda m: ({"options": {"master_weights": weights}} for weights in m.master_weights),
    Lora: _low_rank_axes,
    Qlora: _low_rank_axes,
    Bitfit: lambda m: iter([{}]),
    LastLayers: lambda m: ({"options": {"layers": layers}} for layers in m.layers),
    Ia3: lambda m: ({"targets": targets} for targets in m.targets or (None,)),
    Peft: lambda m: iter([{"options": {"peft_type": m.peft_type, "config": m.config}}]),
}
