"""A look at the first rows of a text before it is used: how it is read, rows without text, rows that cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from peftodyssey.corpora.chat import Chat
from peftodyssey.corpora.documents import read_split
from peftodyssey.corpora.local import is_plain
from peftodyssey.corpora.source import Corpus
from peftodyssey.errors import CorpusError, RowError

SURVEYED_DOCUMENTS = 2_000  # of each split of a source
CHARACTERS_PER_TOKEN = 4  # of English, about


@dataclass(frozen=True)
class Survey:
    """The first documents of a text: how many there are, rows that were left out by reason, and whether it is all."""

    documents: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    longest: int = 0  # characters of a document
    complete: bool = True


def survey(corpus: Corpus, chat: Chat | None = None) -> Survey:
    """The first SURVEYED_DOCUMENTS documents of each split. Raises CorpusError for rows that cannot be used, counted.

    With `bad_rows: drop` these are left out instead.
    """
    counts, documents, longest, complete = Counter[str](), 0, 0, True
    lenient = replace(corpus, spec=replace(corpus.spec, bad_rows="drop"))
    for split in corpus.source_splits:
        lengths = [len(d.text) for d in islice(read_split(lenient, split, chat, counts), SURVEYED_DOCUMENTS)]
        documents, complete = documents + len(lengths), complete and len(lengths) < SURVEYED_DOCUMENTS
        longest = max([longest, *lengths])
    bad = {reason: count for reason, count in counts.items() if reason not in ("null", "empty")}
    if bad and corpus.spec.bad_rows != "drop":
        read = documents + sum(counts.values())
        for split in corpus.source_splits:
            try:
                for _ in read_split(corpus, split, chat):
                    pass
            except RowError as error:
                raise CorpusError(
                    f"{error.message}; of {'' if complete else 'the first '}{read:,} rows {_listed(bad)}",
                    error.next_step,
                ) from error
    return Survey(documents, counts, longest, complete)


def read_as(corpus: Corpus, found: Survey, objective: str | None = None, cap: int | None = None) -> str:
    """One sentence on how a text is read: its form, its size as far as it was looked at, what was left out.

    With `objective` text it says that prompts are learnt as well; where documents may be longer than the `cap` on
    scored tokens, that they are cut there.
    """
    parts = [f"{corpus.name}: read as {corpus.row_schema.described()}"]
    if corpus.kind == "local":
        parts = [f"{corpus.name}: read as {_form(corpus)}"]
        first = "" if found.complete else "the first "
        parts.append(f"{first}{found.documents:,} {'pieces' if corpus.unit == 'block' else 'documents'}")
        if found.left_out:
            parts.append(f"left out: {_listed(found.left_out)}")
    if cap is not None and found.longest > cap * CHARACTERS_PER_TOKEN:
        parts.append(f"the longest has {found.longest:,} characters: a scored document is cut at score.tokens, {cap:,}")
    if objective == "text" and corpus.row_schema.turns is not None:
        parts.append("prompts are learnt like answers; `train: {objective: sft}` trains on the answers only")
    return "; ".join(parts)


def _form(corpus: Corpus) -> str:
    """The form of a local text, with the number of its files where they are plain text."""
    files = corpus.files
    if not is_plain(files[0]):
        return corpus.row_schema.described()
    if corpus.unit == "document":
        return f"plain text: {len(files):,} files, each a document"
    return f"plain text: {len(files):,} file{'s' * (len(files) != 1)}, cut into pieces at paragraphs"


def _listed(counts: Mapping[str, int]) -> str:
    """`43 null, 23 with "text is int, not text"`, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    named = [reason if reason in ("null", "empty") else f'with "{reason}"' for reason, _ in ordered]
    return ", ".join(f"{count:,} {name}" for name, (_, count) in zip(named, ordered, strict=True))
