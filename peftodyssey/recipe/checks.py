"""What values of a recipe may be together, and names that must exist. Called by `recipe.load` after the schema.

Each check yields `Finding`s; one is dropped when a path it depends on was already found wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from peftodyssey.recipe.corpus_names import corpus_name, corpus_source
from peftodyssey.recipe.explain import nearest
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_methods import Lora, Qlora, Saved
from peftodyssey.recipe.yaml_tree import Path


@dataclass(frozen=True)
class Finding:
    """One thing wrong between values: its place, the words, and the paths it looked at."""

    path: Path
    what: str
    got: str = ""
    allowed: str = ""
    next_step: str = ""
    severity: str = "error"
    needs: tuple[Path, ...] = ()


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
    written = recipe.data.get("train", {}).get("batch_tokens", "4k") if isinstance(recipe.data.get("train", {}), dict) else "4k"
    rounded = isinstance(written, str) and written.strip()[-1:].isalpha()
    below, above = asked // length * length, -(-asked // length) * length
    if asked < length:
        yield Finding(path, "a step is shorter than one block", str(written), f"at least seq_len ({length})", f"write {length}", needs=needs)
    elif asked % length and not (rounded and abs(step_tokens(recipe) - asked) <= 0.05 * asked):
        yield Finding(
            path, f"not a multiple of seq_len ({length})", str(written), f"whole blocks of {length} tokens", f"write {below} or {above}", needs=needs
        )


def _windows(recipe: Recipe) -> Iterator[Finding]:
    score, path = recipe.score, ("score", "stride")
    context = score.context or recipe.train.seq_len
    needs = (path, ("score", "context"), ("score", "mode"), ("train", "seq_len"))
    if score.stride is not None and score.stride > context:
        yield Finding(path, "a stride longer than the context leaves tokens unscored", str(score.stride), f"1 to {context}", needs=needs)
    elif score.mode == "stream" and score.stride not in (None, context):
        yield Finding(path, "a stream is scored in disjoint windows", str(score.stride), f"{context}, the context", "remove the line", needs=needs)


def _lengths(recipe: Recipe) -> Iterator[Finding]:
    context = recipe.score.context or recipe.train.seq_len
    for index, model in enumerate(recipe.model):
        longest = model.max_position_embeddings
        for path, length in ((("train", "seq_len"), recipe.train.seq_len), (("score", "context"), context)):
            if longest is not None and length > longest:
                yield Finding(
                    path, f"longer than model {model.name} goes", str(length), f"up to {longest} tokens",
                    needs=(path, ("train", "seq_len"), ("model", index), ("model", "max_position_embeddings")),
                )  # fmt: skip


def _rates(recipe: Recipe) -> Iterator[Finding]:
    for index, method in enumerate(recipe.methods):
        rates = getattr(method, "lr", None)
        if rates is None:
            continue
        path = ("methods", index, "lr")
        if rates.tune is not None and len(set(rates.tune)) == 1:
            yield Finding(path, "one learning rate is nothing to choose among", f"{rates.tune[0]:g}", next_step="add a second, or write lr without tune", severity="warning", needs=(path,))
        for rate in {*(rates.tune or ()), *(rates.fixed or ())}:
            if rate >= 1:
                yield Finding(path, "an unusually large learning rate", f"{rate:g}", next_step="is an exponent missing, as in 1e-3?", severity="warning", needs=(path,))


def _low_rank(recipe: Recipe) -> Iterator[Finding]:
    for index, method in enumerate(recipe.methods):
        if not isinstance(method, (Lora, Qlora)):
            continue
        here, quants = ("methods", index), method.quant or ()
        needs = tuple((*here, key) for key in ("quant", "init", "rank", "double_quant"))
        if "double_quant" in method.model_fields_set and not set(quants) & {"nf4", "fp4"}:
            yield Finding((*here, "double_quant"), "only a base in 4 bits has scales to quantise again", allowed="quant: nf4 or fp4", next_step="add quant: nf4, or remove the key", needs=needs)
        for start in method.init:
            if quants and start not in ("default", "gaussian"):
                yield Finding((*here, "init"), "this start changes or reads the frozen weights, which are quantised here", start, "default or gaussian with quant", needs=needs)
            if start == "orthogonal" and any(rank % 2 for rank in method.rank):
                yield Finding((*here, "rank"), "the orthogonal start needs even ranks", str(list(method.rank)), "2, 4, 6, ...", needs=needs)


def _corpora(recipe: Recipe) -> Iterator[Finding]:
    seen: dict[str, tuple[Path, str]] = {}
    for key in ("domains", "general"):
        for index, corpus in enumerate(getattr(recipe, key)):
            path = (key, index) if isinstance(recipe.data.get(key), list) else (key,)
            if (corpus.source is None) == (corpus.path is None):
                yield Finding(path, "a text has one of `source` and `path`", next_step="write `path: data/*.jsonl` or `source: bundled/<name>`", needs=(path,))
                continue
            yield from _split(corpus, path)
            name, source = corpus_name(corpus), corpus_source(corpus)
            first = seen.setdefault(name, (path, repr(corpus)))
            if first[0] != path and (first[1] != repr(corpus) or first[0][0] == key):
                yield Finding(path, f"two texts are called {name}", source, next_step="give one of them another `name:`", needs=(path, first[0]))
            yield from _bundled_corpus(source, path)


def _split(corpus: Any, path: Path) -> Iterator[Finding]:
    split = corpus.split
    shares = [s for s in (split.valid, split.test) if isinstance(s, float)] if split else []
    if sum(shares) >= 1:
        yield Finding((*path, "split"), "nothing is left to train on", f"{sum(shares):.0%} held out", "less than 100% in total", needs=((*path, "split"),))
    if shares and split.train is not None:
        yield Finding((*path, "split"), "shares part the whole text, so train cannot be a name", split.train, next_step="remove train, or name all three", needs=((*path, "split"),))


def _bundled_corpus(source: str, path: Path) -> Iterator[Finding]:
    if not source.startswith("bundled/"):
        return
    from peftodyssey import assets

    name = source.removeprefix("bundled/")
    usable = [n for n in assets.corpora() if assets.corpus_kind(n) != "task"]
    if name not in usable:
        yield Finding(path, "no such bundled text", source, ", ".join(f"bundled/{n}" for n in usable), nearest(source, [f"bundled/{n}" for n in usable]), needs=(path,))


def _bundled_models(recipe: Recipe) -> Iterator[Finding]:
    for index, model in enumerate(recipe.model):
        path = ("model", index) if isinstance(recipe.data.get("model"), list) else ("model",)
        if model.name.startswith("bundled/"):
            from peftodyssey import assets

            known = [f"bundled/{name}" for name in assets.models()]
            if model.name not in known:
                place = (*path, "name")
                yield Finding(place, "no such bundled model", model.name, ", ".join(known), nearest(model.name, known), needs=(place,))
        if model.max_position_embeddings and not model.name.startswith("random/"):
            place = (*path, "max_position_embeddings")
            yield Finding(place, "only random/ shapes can be given another length", model.name, next_step="remove the line", needs=(place,))


def _measures(recipe: Recipe) -> Iterator[Finding]:
    if "forgetting" in recipe.measure and not recipe.general:
        yield Finding(("general",), "forgetting is measured on general text, and there is none", next_step="add general: [bundled/wiki_general], or remove forgetting from measure", needs=(("general",), ("measure",)))
    for key in ("measure", "seeds"):
        values = list(getattr(recipe, key))
        if len(set(values)) < len(values):
            yield Finding((key,), "a value is there twice", str(values), next_step="once is enough", severity="warning", needs=((key,),))


def _saved_only(recipe: Recipe) -> Iterator[Finding]:
    if "train" in recipe.data and all(isinstance(method, Saved) for method in recipe.methods):
        yield Finding(("train",), "nothing is trained: every method is `saved`", next_step="remove train", severity="warning", needs=(("methods",),))


def _half_precision(recipe: Recipe) -> Iterator[Finding]:
    for index, method in enumerate(recipe.methods):
        if "same" in getattr(method, "master_weights", ()) and recipe.train.precision == "fp16":
            path = ("methods", index, "master_weights")
            yield Finding(path, "fp16 weights are too coarse to be stepped on", "same", "fp32 with precision: fp16", needs=(path, ("train", "precision")))


CHECKS: tuple[Callable[[Recipe], Iterator[Finding]], ...] = (
    _batch, _windows, _lengths, _rates, _low_rank, _corpora, _bundled_models, _measures, _saved_only, _half_precision,
)  # fmt: skip
