"""The texts that a training looks at beside its own: what is replayed, and what ends it early. Called by `plan.build`.

Neither may be text that is reported: replay takes a train part, an early stop a validation part, of a text that keeps
its test apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from peftodyssey.corpora.source import Corpus
from peftodyssey.recipe.cell import Cell

if TYPE_CHECKING:
    from peftodyssey.plan.tasks import IndexTask


def problems(cell: Cell, corpora: Mapping[str, Corpus]) -> Iterator[tuple[str, str]]:
    """(message, next step) for every text that has not the part that is needed, or would be trained on and reported."""
    needed = (("replay", cell.replay, "train"), ("early_stop", cell.early_stop_text, "valid"))
    for name, point, split in needed:
        if point is None:
            continue
        corpus = corpora[point.name]
        if split not in corpus.splits:
            other = "name a pretraining_text with one" if name == "replay" else "name a general text with one first"
            yield f"{name} needs the {split} part of {point.name}, which has none", f"{other}, or remove {name}"
        elif any(
            _reported_whole(corpora[general.name]) and _same(corpora[general.name], corpus) for general in cell.general
        ):
            yield (
                f"{name} would use text of {point.name} on which forgetting is reported: it has no test part of its own",
                "give it files or splits for train, valid and test",
            )


def _reported_whole(corpus: Corpus) -> bool:
    return "test" not in corpus.source_splits


def _same(left: Corpus, right: Corpus) -> bool:
    return left.fingerprint == right.fingerprint


def facts(cell: Cell, replay: IndexTask | None, guard: IndexTask | None) -> dict[str, Any]:
    """What of these texts enters the cell's identity: the very rows, and how the one that ends the training is scored."""
    found: dict[str, Any] = {}
    if replay:
        found["replay"] = replay.identity
    if guard:
        score = {name: value for name, value in asdict(cell.score).items() if name != "tokens"}  # which the rows say
        found["early_stop"] = {"text": guard.identity, "score": score}
    return found
