"""Collects `terms.parquet` (the terms of each domain) and rows of `token_ranks.parquet` (rank of the true token).

Words are counted in a part of the training text, so what is a term does not depend on the text that is scored.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from peftodyssey.corpora import words
from peftodyssey.display.token_text import Text
from peftodyssey.measures.tokens import groups as token_groups
from peftodyssey.measures.tokens.terms import RECALLS, Term, WordCounts, domain_terms, rank_statistics, word_counts
from peftodyssey.stats import bootstrap
from peftodyssey.store import layout, parquet
from peftodyssey.store.stored_run import Cell, StoredRun

COUNTED_CHARACTERS = 2_000_000  # of the training text, by whole documents in the order of their hash

Row = dict[str, Any]
Key = tuple[str, str]  # recipe, domain


def key(cell: Cell) -> Key:
    """Recipe and domain of a plan's entry: its cells share the terms, whatever their tokenizer."""
    return cell["recipe"], cell["coordinates"]["domain"]


def of_domains(run: StoredRun, cells: Sequence[Cell]) -> dict[Key, list[Term] | None]:
    """The terms of each domain of `cells`; None without general text to compare with.

    Where nothing was trained, words are counted in the validation text.
    """
    first = {key(cell): cell for cell in reversed(cells)}
    first |= {key(cell): cell for cell in reversed(cells) if cell["train_index"]}
    terms: dict[Key, list[Term] | None] = {}
    for domain, cell in sorted(first.items()):
        general = [text["index"] for text in cell["scores"]["general"]]
        own = cell["train_index"] or cell["scores"]["valid"]["index"]
        terms[domain] = domain_terms(_word_counts(run, [own]), _word_counts(run, general)) if general else None
    return terms


def in_text(terms: Sequence[Term] | None, text: Text) -> np.ndarray | None:
    """Whether each row of `text` is part of a term, bool [rows]; None if no terms are known."""
    if terms is None:
        return None
    known = {term.word for term in terms}
    return np.array([word in known for word in text.words], bool)


def term_rows(terms_of: Mapping[Key, Sequence[Term] | None]) -> list[Row]:
    """The rows of `terms.parquet`."""
    return [
        {"recipe": recipe, "domain": domain, "place": place, **dataclasses.asdict(term)}
        for (recipe, domain), terms in terms_of.items()
        for place, term in enumerate(terms or ())
    ]


def ranks(run: StoredRun, paths: Mapping[str, Any], text: Text, is_term: np.ndarray | None) -> Iterator[Row]:
    """Rank statistics before and after at domain terms, if these are known, and at all scored tokens."""
    before, after = (run.read(paths[stage], "rank") for stage in ("before", "after"))
    scored = (before >= 1) & (after >= 1)
    classes = token_groups.by_class(text.token_class, is_term)
    at_terms = classes.label == classes.names.index("domain_term")
    for positions, where in (("domain_term", at_terms & scored), ("all", scored)):
        if where.any():
            yield {"positions": positions, **_rank_columns(before[where], after[where], text.document[where])}


def _rank_columns(before: np.ndarray, after: np.ndarray, document: np.ndarray) -> Row:
    row: Row = {"tokens": len(before)}
    for stage, rank in (("before", before), ("after", after)):
        statistics = rank_statistics(rank)
        row |= {f"median_{stage}": statistics.median, f"trimmed_{stage}": statistics.trimmed_mean}
        row |= {f"recall_{k}_{stage}": statistics.recall[k] for k in RECALLS}
    change = bootstrap.paired_bootstrap((after <= 10).astype(np.float64) - (before <= 10), document)
    return {**row, "recall_10_delta": change.estimate, **change.ends("recall_10")}


def _word_counts(run: StoredRun, indexes: Sequence[str]) -> WordCounts:
    """Words of these indexes' documents by cluster, in the order of the documents' hash, up to COUNTED_CHARACTERS."""
    clusters: dict[tuple[str, Any], list[str]] = {}
    characters = 0
    documents = [
        (row, (name, row.get("cluster") or row["id"]))
        for name in indexes
        for row in parquet.read(run.folder / name / layout.DOCUMENTS).to_pylist()
    ]
    for row, cluster in sorted(documents, key=lambda one: one[0]["sha256"]):
        if characters >= COUNTED_CHARACTERS:
            break
        clusters.setdefault(cluster, []).append(row["text"])
        characters += len(row["text"])
    return word_counts([words.counts(texts) for texts in clusters.values()])
