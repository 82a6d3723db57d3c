"""What values of a recipe may be together, and names that must exist.
Called by `recipe.load` after the schema.

Each check yields `Finding`s; one is dropped when a path it depends on was already found wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from peftodyssey.recipe.checks_constraints import check_constraints
from peftodyssey.recipe.checks_names import check_corpora, check_models, check_tasks
from peftodyssey.recipe.corpus_names import corpus_name
from peftodyssey.recipe.finding import Finding
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_methods import Lora, Qlora, Saved

FEWEST_CHUNK_TOKENS = 16  # of `measure: similarity`


def findings(recipe: Recipe) -> Iterator[Finding]:
    """Everything that the checks of this file find in `recipe`."""
    for check in CHECKS:
        yield from check(recipe)


def step_tokens(recipe: Recipe) -> int:
    """Tokens of one optimiser step: `batch_tokens` taken to the nearest multiple of `seq_len`, at least one block."""
    length = recipe.train.seq_len
    return max(1, round(recipe.train.batch_tokens / length)) * length


def _batch(recipe: Recipe) -> Iterator[Finding]:
    path, length, asked = ("train", "batch_tokens"), recipe.train.seq_len, recipe.train.batch_tokens
    needs = (path, ("train", "seq_len"))
    written = (
        recipe.data.get("train", {}).get("batch_tokens", "4k")
        if isinstance(recipe.data.get("train", {}), dict)
        else "4k"
    )
    rounded = isinstance(written, str) and written.strip()[-1:].isalpha()
    below, above = asked // length * length, -(-asked // length) * length
    if asked < length:
        yield Finding(
            path,
            "a step is shorter than one block",
            str(written),
            f"at least seq_len ({length})",
            f"write {length}",
            needs=needs,
        )
    elif asked % length and not (rounded and abs(step_tokens(recipe) - asked) <= 0.05 * asked):
        yield Finding(
            path,
            f"not a multiple of seq_len ({length})",
            str(written),
            f"whole blocks of {length} tokens",
            f"write {below} or {above}",
            needs=needs,
        )


def _windows(recipe: Recipe) -> Iterator[Finding]:
    score, path = recipe.score, ("score", "stride")
    context = score.context or recipe.train.seq_len
    needs = (path, ("score", "context"), ("score", "mode"), ("train", "seq_len"))
    if score.stride is not None and score.stride > context:
        yield Finding(
            path,
            "a stride longer than the context leaves tokens unscored",
            str(score.stride),
            f"1 to {context}",
            needs=needs,
        )
    elif score.mode == "stream" and score.stride not in (None, context):
        yield Finding(
            path,
            "a stream is scored in disjoint windows",
            str(score.stride),
            f"{context}, the context",
            "remove the line",
            needs=needs,
        )


def _lengths(recipe: Recipe) -> Iterator[Finding]:
    context = recipe.score.context or recipe.train.seq_len
    for index, model in enumerate(recipe.model):
        longest = model.max_position_embeddings
        for path, length in ((("train", "seq_len"), recipe.train.seq_len), (("score", "context"), context)):
            if longest is not None and length > longest:
                yield Finding(
                    path,
                    f"longer than model {model.name} goes",
                    str(length),
                    f"up to {longest} tokens",
                    needs=(path, ("train", "seq_len"), ("model", index), ("model", "max_position_embeddings")),
                )


def _rates(recipe: Recipe) -> Iterator[Finding]:
    for index, method in enumerate(recipe.methods):
        rates = getattr(method, "lr", None)
        if rates is None:
            continue
        path = ("methods", index, "lr")
        if rates.tune is not None and len(set(rates.tune)) == 1:
            yield Finding(
                path,
                "one learning rate is nothing to choose among",
                f"{rates.tune[0]:g}",
                next_step="add a second, or write lr without tune",
                severity="warning",
                needs=(path,),
            )
        for rate in {*(rates.tune or ()), *(rates.fixed or ())}:
            if rate >= 1:
                yield Finding(
                    path,
                    "an unusually large learning rate",
                    f"{rate:g}",
                    next_step="is an exponent missing, as in 1e-3?",
                    severity="warning",
                    needs=(path,),
                )


def _low_rank(recipe: Recipe) -> Iterator[Finding]:
    for index, method in enumerate(recipe.methods):
        if not isinstance(method, (Lora, Qlora)):
            continue
        here, quants = ("methods", index), method.quant or ()
        needs = tuple((*here, key) for key in ("quant", "init", "rank", "double_quant"))
        if "double_quant" in method.model_fields_set and not set(quants) & {"nf4", "fp4"}:
            yield Finding(
                (*here, "double_quant"),
                "only a base in 4 bits has scales to quantise again",
                allowed="quant: nf4 or fp4",
                next_step="add quant: nf4, or remove the key",
                needs=needs,
            )
        for start in method.init:
            if quants and start not in ("default", "gaussian"):
                yield Finding(
                    (*here, "init"),
                    "this start changes or reads the frozen weights, which are quantised here",
                    start,
                    "default or gaussian with quant",
                    needs=needs,
                )
            if start == "orthogonal" and any(rank % 2 for rank in method.rank):
                yield Finding(
                    (*here, "rank"),
                    "the orthogonal start needs even ranks",
                    str(list(method.rank)),
                    "2, 4, 6, ...",
                    needs=needs,
                )


def _measures(recipe: Recipe) -> Iterator[Finding]:
    if "forgetting" in recipe.measured and not recipe.general:
        yield Finding(
            ("general",),
            "forgetting is measured on general text, and there is none",
            next_step="add general: [bundled/wiki_general], or remove forgetting from measure",
            needs=(("general",), ("measure",)),
        )
    yield from _similarity(recipe)
    scored = {
        (corpus_name(corpus), "keep" if how == "mismatch" else how)
        for corpus in recipe.domains
        for how in corpus.newline
    }
    if "transfer" in recipe.measured and len(scored) < 2:
        yield Finding(
            ("measure",),
            "transfer is what adapting to one text does to the others, and there is only one text",
            next_step="add a text to domains, or remove transfer from measure",
            severity="warning",
            needs=(("measure",), ("domains",)),
        )
    for key, values in (("measure", list(recipe.measured)), ("seeds", list(recipe.seeds))):
        if len(set(values)) < len(values):
            yield Finding(
                (key,),
                "a value is there twice",
                str(values),
                next_step="once is enough",
                severity="warning",
                needs=((key,),),
            )


def _similarity(recipe: Recipe) -> Iterator[Finding]:
    asked, needs = recipe.similarity, (("measure",), ("pretraining_text",))
    if asked and recipe.pretraining_text is None:
        yield Finding(
            ("measure",),
            "similarity is measured against the pretraining text, and there is none",
            next_step="add pretraining_text: a sample of what the base was pretrained on (bundled/pretrain_sample for "
            "bundled/odyssey-3m), or remove similarity from measure",
            needs=needs,
        )
    if asked and asked.chunk_tokens < FEWEST_CHUNK_TOKENS:
        yield Finding(
            ("measure",),
            "chunks are too short to say what text they are of",
            f"chunk_tokens: {asked.chunk_tokens}",
            f"{FEWEST_CHUNK_TOKENS} tokens or more",
            needs=needs,
        )


def _saved_only(recipe: Recipe) -> Iterator[Finding]:
    if "train" in recipe.data and all(isinstance(method, Saved) for method in recipe.methods):
        yield Finding(
            ("train",),
            "nothing is trained: every method is `saved`",
            next_step="remove train",
            severity="warning",
            needs=(("methods",),),
        )


def _half_precision(recipe: Recipe) -> Iterator[Finding]:
    for index, method in enumerate(recipe.methods):
        if "bf16" in getattr(method, "master_weights", ()) and recipe.train.precision == "fp16":
            path = ("methods", index, "master_weights")
            yield Finding(
                path,
                "fp16 weights are too coarse to be stepped on",
                "same",
                "fp32 with precision: fp16",
                needs=(path, ("train", "precision")),
            )


def _answers_only(recipe: Recipe) -> Iterator[Finding]:
    for key in ("too_long", "chat_template"):
        if key in recipe.train.model_fields_set and recipe.train.objective != "sft":
            path = ("train", key)
            yield Finding(
                path,
                "only examples with answers are learnt so",
                str(getattr(recipe.train, key)),
                next_step="add objective: sft, or remove the key",
                needs=(path, ("train", "objective")),
            )


def _engine(recipe: Recipe) -> Iterator[Finding]:
    if recipe.train.engine == "trl" and recipe.train.optimizer == "adamw8bit":
        path = ("train", "optimizer")
        yield Finding(
            path,
            "TRL's trainer is run with torch's AdamW, to compare it on the same batches",
            "adamw8bit",
            "adamw with engine: trl",
            needs=(path, ("train", "engine")),
        )


def _select(recipe: Recipe) -> Iterator[Finding]:
    path, train = ("train", "select"), recipe.train
    if train.select is None:
        return
    needs = (path, ("train", "eval_at"), ("train", "engine"))
    if all(share >= 1 for share in train.eval_at):
        yield Finding(
            path,
            "cells are compared at the points of eval_at before the end, and there is none",
            next_step="add train.eval_at: [25%, 50%, 100%], or remove select",
            needs=needs,
        )
    if train.engine == "trl":
        yield Finding(
            path, "TRL's trainer cannot stop on the way and go on", allowed="engine: native with select", needs=needs
        )
    if not any(getattr(getattr(method, "lr", None), "tune", None) for method in recipe.methods):
        yield Finding(
            path,
            "no method has learning rates to choose among, so nothing is stopped",
            next_step="write lr: {tune: [...]} at a method, or remove select",
            severity="warning",
            needs=(*needs, ("methods",)),
        )


CHECKS: tuple[Callable[[Recipe], Iterator[Finding]], ...] = (
    _batch,
    _windows,
    _lengths,
    _rates,
    _low_rank,
    check_corpora,
    check_tasks,
    check_models,
    _measures,
    _saved_only,
    _half_precision,
    _engine,
    _select,
    _answers_only,
    check_constraints,
)
