"""Multiple-choice tasks: found, read and checked, and tokenised as pairs of prompt and choice.

A row has `prompt`, `choices` (a list of two or more texts) and `answer`: the index of the right choice, from 0, or its
text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey import assets
from peftodyssey.corpora import fingerprint, hub, local
from peftodyssey.corpora.documents import text_key
from peftodyssey.corpora.json_values import json_rows
from peftodyssey.corpora.splits import did_you_mean, match_splits
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec, TaskSpec

if TYPE_CHECKING:
    from tokenizers import Tokenizer

FORMAT = 'a row is {"prompt": "2 + 2 =", "choices": ["3", "4"], "answer": 1}'
ANSWER_FIELDS = ("answer", "gold", "completion")  # fields that may name the right choice; the first present counts
COLUMNS = ["id", "prompt", "choices", *ANSWER_FIELDS]


@dataclass(frozen=True)
class Questions:
    """A task that exists, before it is read."""

    spec: TaskSpec
    fingerprint: str  # sha256 hex of the content and of the split
    sources: tuple[Any, ...]  # files, or the name of the split
    commit: str | None = None  # of a Hub dataset


@dataclass(frozen=True)
class Question:
    """One prompt; each choice is what follows it, the space between them included."""

    id: str
    prompt: str
    choices: tuple[str, ...]
    answer: int  # index of the right one

    @property
    def choice_bytes(self) -> tuple[int, ...]:
        """UTF-8 bytes of every choice without the white space around it: what likelihoods are normalised by."""
        return tuple(len(choice.strip().encode()) for choice in self.choices)


@dataclass(frozen=True)
class Request:
    """One choice behind its prompt, as ids."""

    context: list[int]
    choice: list[int]


def resolve(spec: TaskSpec) -> Questions:
    """The task that `spec` names. Raises CorpusError where it is not there or its first row is not a question."""
    if spec.source.startswith("bundled/"):
        task = _bundled(spec)
    else:
        task = _hub(spec) if spec.source.startswith("hub:") else _local(spec)
    next(_read(task), None)  # the first row, so that a mistake is reported before anything is trained
    return task


def questions(task: Questions) -> list[Question]:
    """The questions in source order; of more than `examples` those of the smallest hashes. Raises CorpusError."""
    rows = list(_read(task))
    if not rows:
        raise CorpusError(f"{task.spec.source} has no rows", FORMAT)
    by_hash = sorted(range(len(rows)), key=lambda n: text_key(rows[n].prompt + "".join(rows[n].choices)))
    return [rows[n] for n in sorted(by_hash[: task.spec.examples])]


def requests(question: Question, tokenizer: Tokenizer) -> list[Request]:
    """A request for each choice: prompt and choice are encoded together, the prompt's own tokens are the context.

    White space at the prompt's end goes to the choice, as in lm-eval's harness (`TemplateLM._encode_pair`). Raises
    CorpusError where a choice adds no token.
    """
    prompt = question.prompt.rstrip()
    gap = question.prompt[len(prompt) :]
    texts = [prompt, *(prompt + gap + choice for choice in question.choices)]
    context, *sequences = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
    pairs = [Request(ids[: len(context)], ids[len(context) :]) for ids in sequences]
    if not all(request.choice for request in pairs):
        raise CorpusError(f"{question.id}: a choice adds no token to its prompt", "write the choices as separate words")
    return pairs


def _bundled(spec: TaskSpec) -> Questions:
    name = spec.source.removeprefix("bundled/")
    known = [n for n in assets.corpora() if assets.corpus_kind(n) == "task"]
    if name not in known:
        raise CorpusError(
            f"there is no bundled task {name!r}", f"{did_you_mean(name, known)}there are: {', '.join(known)}"
        )
    split = spec.split or "test"
    if split not in assets.splits(name):
        raise CorpusError(f"{spec.source} has no split {split!r}", f"it has {', '.join(assets.splits(name))}")
    return Questions(spec, assets.sha256(name, split), (split,))


def _local(spec: TaskSpec) -> Questions:
    by_split = local.find_splits(spec.source, {})
    split = spec.split or ("test" if "test" in by_split else None)
    if split is not None and split not in by_split:
        raise CorpusError(f"{spec.source} has no split {split!r}", f"it has {', '.join(by_split)}")
    files = tuple(path for name, paths in by_split.items() if split in (None, name) for path in paths)
    digest = fingerprint.of_splits({"rows": [fingerprint.of_file(path) for path in files]}, task=True)
    return Questions(spec, digest, files)


def _hub(spec: TaskSpec) -> Questions:
    dataset = _dataset(spec)
    commit = hub.commit_of(dataset)
    names = hub.split_names(dataset, commit)
    split = spec.split or match_splits(names, {}, spec.source).get("test", names[0])
    if split not in names:
        raise CorpusError(f"{spec.source} has no split {split!r}", f"set split: to one of {', '.join(names)}")
    return Questions(spec, fingerprint.of_splits({split: [commit, str(spec.config)]}, task=True), (split,), commit)


def _dataset(spec: TaskSpec) -> CorpusSpec:
    return CorpusSpec(spec.name, spec.source, config=spec.config, revision=spec.revision)


def _read(task: Questions) -> Iterator[Question]:
    return (_question(place, row) for place, row in _rows(task))


def _rows(task: Questions) -> Iterator[tuple[str, Mapping[str, Any]]]:
    spec = task.spec
    if spec.source.startswith("bundled/"):
        name, split = spec.source.removeprefix("bundled/"), task.sources[0]
        yield from json_rows(assets.open_corpus(name, split), f"{spec.source}:{split}")
    elif task.commit is not None:
        yield from hub.rows(_dataset(spec), task.commit, task.sources[0], COLUMNS)
    else:
        for path in task.sources:
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
    question = Question(str(name) if isinstance(name, str | int) else Path(place).name, prompt, tuple(choices), answer)
    return replace(question, choices=tuple(c if prompt[-1].isspace() or c[0].isspace() else f" {c}" for c in choices))


def _answer(place: str, row: Mapping[str, Any], choices: list[str]) -> int:
    answer = next((row[name] for name in ANSWER_FIELDS if row.get(name) is not None), None)
    if isinstance(answer, int) and not isinstance(answer, bool) and 0 <= answer < len(choices):
        return answer
    texts = [choice.strip() for choice in choices]
    if isinstance(answer, str) and answer.strip() in texts:
        return texts.index(answer.strip())
    raise CorpusError(
        f"{place}: `answer` is {answer!r}, neither the index of a choice (0 to {len(choices) - 1}) nor the text of one",
        FORMAT,
    )
