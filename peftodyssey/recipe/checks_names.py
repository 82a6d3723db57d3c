"""Whether the texts, tasks and models of a recipe have names that exist and differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from peftodyssey import assets
from peftodyssey.errors import Problem
from peftodyssey.recipe.corpus_names import corpus_name, corpus_source
from peftodyssey.recipe.document import RecipeDocument
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_texts import Corpus
from peftodyssey.recipe.validation_errors import nearest
from peftodyssey.recipe.yaml_tree import Path

RENAME = "give one of them another `name:`"


def check_corpora(recipe: Recipe) -> Iterator[Problem]:
    """Each text: where it is, its split, its newline policies, its name."""
    texts = {"domains": recipe.domains, "general": recipe.general}
    if recipe.pretraining_text is not None:
        texts["pretraining_text"] = (recipe.pretraining_text,)
    yield from corpus_problems(recipe, texts)


def corpus_problems(document: RecipeDocument, texts: Mapping[str, Sequence[Corpus]]) -> Iterator[Problem]:
    """Problems of texts, by the key that they are listed under; only those of `domains` have an axis of newlines."""
    seen: dict[str, tuple[Path, Corpus]] = {}
    for key, corpora in texts.items():
        for index, corpus in enumerate(corpora):
            path = (key, index) if isinstance(document.data.get(key), list) else (key,)
            if (corpus.source is None) == (corpus.path is None):
                next_step = "write `path: data/*.jsonl` or `source: bundled/<name>`"
                yield document.problem(path, "a text has one of `source` and `path`", next_step=next_step)
                continue
            yield from _split(document, corpus, path)
            if key != "domains" and len(set(corpus.newline)) > 1:
                yield document.problem(
                    (*path, "newline"),
                    "this text is read one way; newline is an axis of domains only",
                    got=", ".join(corpus.newline),
                    next_step="name one policy",
                )
            if key != "domains" and corpus.dedupe != "off":
                yield document.problem(
                    (*path, "dedupe"),
                    "nothing is trained on this text",
                    got=corpus.dedupe,
                    next_step="write it beside a text of `domains`",
                )
            name, source = corpus_name(corpus), corpus_source(corpus)
            first_path, first = seen.setdefault(name, (path, corpus))
            if first_path != path and (repr(first) != repr(corpus) or first_path[0] == key):
                what = f"two texts are called {name}"
                yield document.problem(path, what, got=source, next_step=RENAME, depends_on=(first_path,))
            yield from _bundled(document, path, source, assets.corpora(), "text")


def check_tasks(recipe: Recipe) -> Iterator[Problem]:
    """Each task: where it is, its name."""
    seen: dict[str, Path] = {}
    for index, task in enumerate(recipe.tasks):
        path = ("tasks", index) if isinstance(recipe.data.get("tasks"), list) else ("tasks",)
        if (task.source is None) == (task.path is None):
            next_step = "write `path: questions.jsonl` or `source: bundled/<name>`"
            yield recipe.problem(path, "a task has one of `source` and `path`", next_step=next_step)
            continue
        name = corpus_name(task)
        if name in seen:
            what, source = f"two tasks are called {name}", corpus_source(task)
            yield recipe.problem(path, what, got=source, next_step=RENAME, depends_on=(seen[name],))
        seen.setdefault(name, path)


def _split(document: RecipeDocument, corpus: Corpus, path: Path) -> Iterator[Problem]:
    split, path = corpus.split, (*path, "split")
    if split is None:
        return
    shares = [share for share in (split.valid, split.test) if isinstance(share, float)]
    if sum(shares) >= 1:
        held_out = f"{sum(shares):.0%} held out"
        yield document.problem(path, "nothing is left to train on", got=held_out, allowed="less than 100% in total")
    if shares and split.train is not None:
        yield document.problem(
            path,
            "shares split the whole text, so train cannot be a name",
            got=split.train,
            next_step="remove train, or name all three",
        )


def _bundled(
    document: RecipeDocument, path: Path, name: str, bundled: Sequence[str], what_it_is: str
) -> Iterator[Problem]:
    known = [f"bundled/{each}" for each in bundled]
    if name.startswith("bundled/") and name not in known:
        what = f"no such bundled {what_it_is}"
        yield document.problem(path, what, got=name, allowed=", ".join(known), next_step=nearest(name, known))


def check_models(recipe: Recipe) -> Iterator[Problem]:
    """Each model: a bundled name exists, and only shapes are given another length."""
    for index, model in enumerate(recipe.model):
        path = ("model", index) if isinstance(recipe.data.get("model"), list) else ("model",)
        yield from _bundled(recipe, (*path, "name"), model.name, assets.models(), "model")
        if model.max_position_embeddings and not model.name.startswith("random/"):
            yield recipe.problem(
                (*path, "max_position_embeddings"),
                "only random/ shapes can be given another length",
                got=model.name,
                next_step="remove the line",
            )
