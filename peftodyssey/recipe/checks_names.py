"""Whether the texts and models of a recipe have names that exist and differ. Called by `recipe.checks`."""

from __future__ import annotations

from collections.abc import Iterator

from peftodyssey.recipe.corpus_names import corpus_name, corpus_source
from peftodyssey.recipe.finding import Finding
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_texts import Corpus
from peftodyssey.recipe.validation_errors import nearest
from peftodyssey.recipe.yaml_tree import Path


def check_corpora(recipe: Recipe) -> Iterator[Finding]:
    seen: dict[str, tuple[Path, str]] = {}
    named = {"domains": recipe.domains, "general": recipe.general}
    if recipe.pretraining_text is not None:
        named["pretraining_text"] = (recipe.pretraining_text,)
    for key, corpora in named.items():
        for index, corpus in enumerate(corpora):
            path = (key, index) if isinstance(recipe.data.get(key), list) else (key,)
            if (corpus.source is None) == (corpus.path is None):
                yield Finding(
                    path,
                    "a text has one of `source` and `path`",
                    next_step="write `path: data/*.jsonl` or `source: bundled/<name>`",
                    needs=(path,),
                )
                continue
            yield from _split(corpus, path)
            if key != "domains" and len(set(corpus.newline)) > 1:
                yield Finding(
                    (*path, "newline"),
                    "this text is read one way; newline is an axis of domains only",
                    ", ".join(corpus.newline),
                    next_step="name one policy",
                    needs=((*path, "newline"),),
                )
            name, source = corpus_name(corpus), corpus_source(corpus)
            first = seen.setdefault(name, (path, repr(corpus)))
            if first[0] != path and (first[1] != repr(corpus) or first[0][0] == key):
                yield Finding(
                    path,
                    f"two texts are called {name}",
                    source,
                    next_step="give one of them another `name:`",
                    needs=(path, first[0]),
                )
            yield from _bundled_corpus(source, path)


def check_tasks(recipe: Recipe) -> Iterator[Finding]:
    seen: dict[str, Path] = {}
    for index, task in enumerate(recipe.tasks):
        path = ("tasks", index) if isinstance(recipe.data.get("tasks"), list) else ("tasks",)
        if (task.source is None) == (task.path is None):
            next_step = "write `path: questions.jsonl` or `source: bundled/<name>`"
            yield Finding(path, "a task has one of `source` and `path`", next_step=next_step, needs=(path,))
            continue
        name = corpus_name(task)
        if name in seen:
            next_step = "give one of them another `name:`"
            yield Finding(
                path, f"two tasks are called {name}", corpus_source(task), next_step=next_step, needs=(path, seen[name])
            )
        seen.setdefault(name, path)


def _split(corpus: Corpus, path: Path) -> Iterator[Finding]:
    split = corpus.split
    if split is None:
        return
    shares = [s for s in (split.valid, split.test) if isinstance(s, float)]
    if sum(shares) >= 1:
        yield Finding(
            (*path, "split"),
            "nothing is left to train on",
            f"{sum(shares):.0%} held out",
            "less than 100% in total",
            needs=((*path, "split"),),
        )
    if shares and split.train is not None:
        yield Finding(
            (*path, "split"),
            "shares part the whole text, so train cannot be a name",
            split.train,
            next_step="remove train, or name all three",
            needs=((*path, "split"),),
        )


def _bundled_corpus(source: str, path: Path) -> Iterator[Finding]:
    if not source.startswith("bundled/"):
        return
    from peftodyssey import assets

    name = source.removeprefix("bundled/")
    usable = assets.corpora()
    if name not in usable:
        yield Finding(
            path,
            "no such bundled text",
            source,
            ", ".join(f"bundled/{n}" for n in usable),
            nearest(source, [f"bundled/{n}" for n in usable]),
            needs=(path,),
        )


def check_models(recipe: Recipe) -> Iterator[Finding]:
    for index, model in enumerate(recipe.model):
        path = ("model", index) if isinstance(recipe.data.get("model"), list) else ("model",)
        if model.name.startswith("bundled/"):
            from peftodyssey import assets

            known = [f"bundled/{name}" for name in assets.models()]
            if model.name not in known:
                place = (*path, "name")
                yield Finding(
                    place,
                    "no such bundled model",
                    model.name,
                    ", ".join(known),
                    nearest(model.name, known),
                    needs=(place,),
                )
        if model.max_position_embeddings and not model.name.startswith("random/"):
            place = (*path, "max_position_embeddings")
            yield Finding(
                place,
                "only random/ shapes can be given another length",
                model.name,
                next_step="remove the line",
                needs=(place,),
            )
