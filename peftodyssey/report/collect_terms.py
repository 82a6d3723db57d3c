"""Domain terms and the rank of the true token at them: `terms.parquet`, `token_ranks.parquet`.

Words are counted in a part of the training text, so what is a term does not depend on the text that is judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.corpora import words
from peftodyssey.report.token_text import Text
from peftodyssey.stats import bootstrap, token_groups
from peftodyssey.stats.terms import RECALLS, Term, domain_terms
from peftodyssey.stats.terms import rank_statistics as rank_statistics
from peftodyssey.store import layout, parquet, tables

COUNTED_CHARACTERS = 2_000_000  # of the training text, by whole documents in the order of their hash

Row = dict[str, Any]
Key = tuple[str, str]  # recipe, domain


def key(cell: Mapping[str, Any]) -> Key:
    """The recipe and the domain of a plan's entry: its cells have one list of terms, whatever their tokenizer."""
    return cell["recipe"], cell["coordinates"]["domain"]


def of_domains(folder: Path, cells: Sequence[Mapping[str, Any]]) -> dict[Key, list[Term] | None]:
    """The terms of each domain of `cells`; None where there is no general text to tell it from.

    Where nothing was trained, words are counted in the validation text.
    """
    found: dict[Key, list[Term] | None] = {}
    trained = {key(cell): cell for cell in reversed(cells) if cell["train_index"]}
    for name, cell in ({key(cell): cell for cell in reversed(cells)} | trained).items():
        general = [text["index"] for text in cell["scores"]["general"]]
        own = cell["train_index"] or cell["scores"]["valid"]["index"]
        found[name] = domain_terms(_counts(folder, [own]), _counts(folder, general)) if general else None
    return dict(sorted(found.items()))


def in_text(terms: Sequence[Term] | None, text: Text) -> np.ndarray | None:
    """Whether each row of `text` stands in a term, bool [rows]; None where no terms are known."""
    if terms is None:
        return None
    known = {term.word for term in terms}
    return np.array([word in known for word in text.words], bool)


def write(folder: Path, found: Mapping[Key, Sequence[Term] | None]) -> None:
    """Write `terms.parquet`."""
    rows = [
        {
            "recipe": recipe,
            "domain": domain,
            "place": place,
            "word": term.word,
            "log_odds": term.log_odds,
            "z": term.z,
            "domain_count": term.domain_count,
            "general_count": term.general_count,
        }
        for (recipe, domain), terms in found.items()
        for place, term in enumerate(terms or ())
    ]
    parquet.write_rows(folder / layout.TERMS, rows, tables.TERMS)


def ranks(folder: Path, paths: Mapping[str, Any], text: Text, is_term: np.ndarray | None) -> Iterator[Row]:
    """Rank statistics before and after at domain terms, where they are known, and at all scored tokens."""
    before, after = (parquet.read_nll(folder / paths[name])[1] for name in ("before", "after"))
    scored = (before >= 1) & (after >= 1)
    term = token_groups.by_class(text.token_class, is_term)
    places = {"domain_term": term.label == term.names.index("domain_term"), "all": np.ones(len(before), bool)}
    for name, where in places.items():
        if (where & scored).any():
            yield {"positions": name, **_ranks(before, after, where & scored, text.document)}


def _ranks(before: np.ndarray, after: np.ndarray, rows: np.ndarray, document: np.ndarray) -> Row:
    found: Row = {"tokens": int(rows.sum())}
    for stage, rank in (("before", before), ("after", after)):
        statistics = rank_statistics(rank[rows])
        found |= {f"median_{stage}": statistics.median, f"trimmed_{stage}": statistics.trimmed_mean}
        found |= {f"recall_{k}_{stage}": statistics.recall[k] for k in RECALLS}
    hits = (after[rows] <= 10).astype(np.float64) - (before[rows] <= 10)
    change = bootstrap.paired_bootstrap(hits, document[rows])
    return {**found, "recall_10_delta": change.estimate, "recall_10_lo": change.lower, "recall_10_hi": change.upper}


def _counts(folder: Path, indexes: Sequence[str]) -> Mapping[str, int]:
    """Words of these indexes' documents, in the order of their hash until enough is counted."""
    table = [row for name in indexes for row in parquet.read(folder / name / layout.DOCUMENTS).to_pylist()]
    taken, characters = [], 0
    for row in sorted(table, key=lambda row: row["sha256"]):
        if characters >= COUNTED_CHARACTERS:
            break
        taken.append(row["text"])
        characters += len(row["text"])
    return words.counts(taken)
