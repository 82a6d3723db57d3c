"""What values of a recipe may be together, and names that must exist.

Each check yields `Problem`s with the paths of the values that it looked at: where one of these is wrong by itself, the
problem is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from peftodyssey.errors import Problem
from peftodyssey.recipe.checks_constraints import check_constraints
from peftodyssey.recipe.checks_learning_rates import check_halving, check_learning_rates
from peftodyssey.recipe.checks_names import check_corpora, check_models, check_tasks
from peftodyssey.recipe.checks_training import check_batch, check_budgets, check_select
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_constraints import constraint_grid
from peftodyssey.recipe.schema_methods import Full, Lora, Qlora, Saved, Truncate


def problems(recipe: Recipe) -> Iterator[Problem]:
    """What is wrong between the values of `recipe`."""
    for check in CHECKS:
        yield from check(recipe)


def _windows(recipe: Recipe) -> Iterator[Problem]:
    score, path = recipe.score, ("score", "stride")
    context = score.context or recipe.train.seq_len
    depends_on = (("score", "context"), ("score", "mode"), ("train", "seq_len"))
    if score.stride is not None and score.stride > context:
        what = "a stride longer than the context leaves tokens unscored"
        yield recipe.problem(path, what, got=str(score.stride), allowed=f"1 to {context}", depends_on=depends_on)
    elif score.mode == "stream" and score.stride not in (None, context):
        yield recipe.problem(
            path,
            "a stream is scored in disjoint windows",
            got=str(score.stride),
            allowed=f"{context}, the context",
            next_step="remove the line",
            depends_on=depends_on,
        )


def _lengths(recipe: Recipe) -> Iterator[Problem]:
    context = recipe.score.context or recipe.train.seq_len
    for index, model in enumerate(recipe.model):
        longest = model.max_position_embeddings
        for path, length in ((("train", "seq_len"), recipe.train.seq_len), (("score", "context"), context)):
            if longest is not None and length > longest:
                yield recipe.problem(
                    path,
                    f"longer than the max_position_embeddings of {model.name}",
                    got=str(length),
                    allowed=f"up to {longest} tokens",
                    depends_on=(("train", "seq_len"), ("model", index), ("model", "max_position_embeddings")),
                )


def _low_rank(recipe: Recipe) -> Iterator[Problem]:
    for index, method in enumerate(recipe.methods):
        if not isinstance(method, (Lora, Qlora)):
            continue
        here, quants = ("methods", index), method.quant or ()
        depends_on = tuple((*here, key) for key in ("quant", "init", "rank", "double_quant"))
        if "double_quant" in method.model_fields_set and not set(quants) & {"nf4", "fp4"}:
            yield recipe.problem(
                (*here, "double_quant"),
                "only a base in 4 bits has scales to quantise again",
                allowed="quant: nf4 or fp4",
                next_step="add quant: nf4, or remove the key",
                depends_on=depends_on,
            )
        for init in method.init:
            if quants and init not in ("default", "gaussian"):
                yield recipe.problem(
                    (*here, "init"),
                    "this initialisation changes or reads the base's weights, which are quantised here",
                    got=init,
                    allowed="default or gaussian with quant",
                    depends_on=depends_on,
                )
            if init == "orthogonal" and any(rank % 2 for rank in method.rank):
                yield recipe.problem(
                    (*here, "rank"),
                    "orthogonal initialisation needs even ranks",
                    got=str(list(method.rank)),
                    allowed="2, 4, 6, ...",
                    depends_on=depends_on,
                )


def _measures(recipe: Recipe) -> Iterator[Problem]:
    for spec in recipe.specs:
        yield from spec.problems(recipe)
    for key, values in (("measure", list(recipe.measured)), ("seeds", list(recipe.seeds))):
        if len(set(values)) < len(values):
            yield recipe.problem(
                (key,), "a value is there twice", got=str(values), next_step="remove one", severity="warning"
            )


def _truncated(recipe: Recipe) -> Iterator[Problem]:
    full = [method for method in recipe.methods if isinstance(method, Full)]
    plain = any(constraints.keys() <= {"wise_ft"} for method in full for constraints in constraint_grid(method))
    for index, method in enumerate(recipe.methods):
        if isinstance(method, Truncate) and not plain:
            yield recipe.problem(
                ("methods", index),
                "truncate cuts the update of full fine-tuning, and the recipe has no `full` without constraints",
                next_step="add {method: full, lr: ...}",
                depends_on=(("methods",),),
            )


def _saved_only(recipe: Recipe) -> Iterator[Problem]:
    if "train" in recipe.data and all(isinstance(method, Saved) for method in recipe.methods):
        what = "nothing is trained: every method is `saved`"
        yield recipe.problem(("train",), what, next_step="remove train", severity="warning", depends_on=(("methods",),))


def _master_weights(recipe: Recipe) -> Iterator[Problem]:
    precision = recipe.train.precision
    for index, method in enumerate(recipe.methods):
        if "bf16" in getattr(method, "master_weights", ()) and precision in ("fp16", "fp32"):
            yield recipe.problem(
                ("methods", index, "master_weights"),
                f"weights that are trained in bf16 need bf16 arithmetic, and train.precision is {precision}",
                got="bf16",
                allowed="fp32, or bf16 with train.precision: bf16",
                next_step="set train.precision to bf16, or master_weights to fp32",
                depends_on=(("train", "precision"),),
            )


def _sft_only(recipe: Recipe) -> Iterator[Problem]:
    if "too_long" in recipe.train.model_fields_set and recipe.train.objective != "sft":
        yield recipe.problem(
            ("train", "too_long"),
            "this applies only to examples with answers",
            got=str(recipe.train.too_long),
            next_step="add objective: sft, or remove the key",
            depends_on=(("train", "objective"),),
        )


def _engine(recipe: Recipe) -> Iterator[Problem]:
    if recipe.train.engine == "trl" and recipe.train.optimizer == "adamw8bit":
        yield recipe.problem(
            ("train", "optimizer"),
            "TRL's trainer is run with torch's AdamW, to compare it on the same batches",
            got="adamw8bit",
            allowed="adamw with engine: trl",
            depends_on=(("train", "engine"),),
        )


CHECKS: tuple[Callable[[Recipe], Iterator[Problem]], ...] = (
    check_batch,
    check_budgets,
    _windows,
    _lengths,
    check_learning_rates,
    _low_rank,
    check_corpora,
    check_tasks,
    check_models,
    _measures,
    _saved_only,
    _truncated,
    _master_weights,
    _engine,
    check_select,
    check_halving,
    _sft_only,
    check_constraints,
)
