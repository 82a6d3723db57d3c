"""Prompts with choices: where they are, read and checked, and as pairs of token ids. Called by `plan` and
`jobs.choices`.

A row has `prompt`, `choices` (a list of two or more texts) and `answer`: the place of the right choice, from 0, or its
text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.corpora import fingerprint, hub, local
from peftodyssey.corpora.documents import text_key
from peftodyssey.corpora.readers import json_rows
from peftodyssey.corpora.row_schema import did_you_mean, parts_of_names
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec, TaskSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 'a row is {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}'
ANSWERS = ("answer", "gold", "completion")  # the fields that may name the right choice, the first that is there
WANTED = ["id", "prompt", "choices", *ANSWERS]


@dataclass(frozen=True)
class Questions:
    """A task that exists, before it is read."""

    spec: TaskSpec
    fingerprint: str  # sha256 hex of the content and of the split
    parts: tuple[Any, ...]  # files, or the name of the split
    commit: str | None = None  # of a Hub data set


@dataclass(frozen=True)
class Question:
    """One prompt; each choice is what follows it, the space between them included."""

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: int  # place of the right one

    @property
    def choice_bytes(self) -> tuple[int, ...]:
        """UTF-8 bytes of every choice without the white space around it: what likelihoods are normalised by."""
        return tuple(len(choice.strip().encode()) for choice in self.choices)


@dataclass(frozen=True)
class Request:
    """One choice behind its prompt, as ids."""

    context: list[int]
    choice: list[int]


def resolve(point: TaskSpec) -> Questions:
    """The task that `point` names. Raises CorpusError where it is not there or its first row is none."""
    if point.source.startswith("bundled/"):
        found = _bundled(point)
    elif point.source.startswith("hub:"):
        found = _hub(point)
    else:
        found = _local(point)
    next(_read(found), None)  # its first row, so that a mistake is told before anything is trained
    return found


def questions(task: Questions) -> list[Question]:
    """Its questions in the source's order, at most `examples` of them, those of the smallest hashes. Raises
    CorpusError.
    """
    found = list(_read(task))
    if not found:
        raise CorpusError(f"{task.spec.source} has no rows", FORMAT)
    cap = task.spec.examples
    if cap is None or cap >= len(found):
        return found
    kept = sorted(range(len(found)), key=lambda n: text_key(found[n].prompt + "".join(found[n].choices)))[:cap]
    return [found[n] for n in sorted(kept)]


def requests(question: Question, tokenizer: Tokenizer) -> list[Request]:
    """A request for each choice: prompt and choice are encoded together, the prompt's own tokens are the context.

    White space at the prompt's end goes to the choice, as in lm-eval's harness (`TemplateLM._encode_pair`). Raises
    CorpusError where a choice adds no token.
    """
    prompt = question.prompt.rstrip()
    gap = question.prompt[len(prompt) :]
    texts = [prompt, *(prompt + gap + choice for choice in question.choices)]
    context, *whole = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    made = [Request(ids[: len(context)], ids[len(context) :]) for ids in whole]
    if not all(request.choice for request in made):
        raise CorpusError(
            f"{question.id}: a choice adds no token to its prompt", "write the choices as words of their own"
        )
    return made


def _bundled(point: TaskSpec) -> Questions:
    from peftodyssey import assets

    name = point.source.removeprefix("bundled/")
    known = [n for n in assets.corpora() if assets.corpus_kind(n) == "task"]
    if name not in known:
        raise CorpusError(
            f"there is no bundled task {name!r}", f"{did_you_mean(name, known)}there are: {', '.join(known)}"
        )
    split = point.split or "test"
    if split not in assets.splits(name):
        raise CorpusError(f"{point.source} has no split {split!r}", f"it has {', '.join(assets.splits(name))}")
    return Questions(point, assets.sha256(name, split), (split,))


def _local(point: TaskSpec) -> Questions:
    parts = local.find_parts(point.source, {})
    split = point.split or ("test" if "test" in parts else None)
    if split is not None and split not in parts:
        raise CorpusError(f"{point.source} has no split {split!r}", f"it has {', '.join(parts)}")
    files = tuple(path for name, found in parts.items() if split in (None, name) for path in found)
    digest = fingerprint.of_parts({"rows": [fingerprint.of_file(path) for path in files]}, task=True)
    return Questions(point, digest, files)


def _hub(point: TaskSpec) -> Questions:
    where = CorpusSpec(point.name, point.source, config=point.config, revision=point.revision)
    commit = hub.commit_of(where)
    names = hub.split_names(where, commit)
    split = point.split or parts_of_names(names, {}, point.source).get("test", names[0])
    if split not in names:
        raise CorpusError(f"{point.source} has no split {split!r}", f"set split: to one of {', '.join(names)}")
    return Questions(point, fingerprint.of_parts({split: [commit, str(point.config)]}, task=True), (split,), commit)


def _read(task: Questions) -> Iterator[Question]:
    return (_question(place, row) for place, row in _rows(task))


def _rows(task: Questions) -> Iterator[tuple[str, Mapping[str, Any]]]:
    point = task.spec
    if point.source.startswith("bundled/"):
        from peftodyssey import assets

        name, split = point.source.removeprefix("bundled/"), task.parts[0]
        yield from json_rows(assets.open_corpus(name, split), f"{point.source}:{split}")
    elif task.commit is not None:
        where = CorpusSpec(point.name, point.source, config=point.config, revision=point.revision)
        yield from hub.rows(where, task.commit, task.parts[0], WANTED)
    else:
        for path in task.parts:
            yield from local.rows(Path(path))


def _question(place: str, row: Mapping[str, Any]) -> Question:
    """One row, checked. Raises CorpusError naming file and line."""
    prompt, choices = row.get("prompt"), row.get("choices")
    if not isinstance(prompt, str) or not prompt.strip():
        raise CorpusError(f"{place}: no prompt: the fields are {', '.join(row) or 'none'}", FORMAT)
    if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(c, str) and c.strip() for c in choices):
        raise CorpusError(f"{place}: `choices` must be a list of two or more texts that are not empty", FORMAT)
    if len({choice.strip() for choice in choices}) < len(choices):
        raise CorpusError(f"{place}: two choices are the same", "let every choice be another text")
    answer = _answer(place, row, choices)
    name = row.get("id")
    question = Question(str(name) if isinstance(name, (str, int)) else Path(place).name, prompt, tuple(choices), answer)
    return replace(question, choices=tuple(c if prompt[-1].isspace() or c[0].isspace() else f" {c}" for c in choices))


def _answer(place: str, row: Mapping[str, Any], choices: list[str]) -> int:
    named = next((row[name] for name in ANSWERS if row.get(name) is not None), None)
    if isinstance(named, int) and not isinstance(named, bool) and 0 <= named < len(choices):
        return named
    if isinstance(named, str):
        same = [n for n, choice in enumerate(choices) if choice.strip() == named.strip()]
        if same:
            return same[0]
    raise CorpusError(
        f"{place}: `answer` is {named!r}, not the place of a choice (0 to {len(choices) - 1}) nor the text of one",
        FORMAT,
    )
