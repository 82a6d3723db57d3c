"""What `check` counts of texts that stand in each other: bounded by the caps on tokens, without an index."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.overlap import WARNED_SHARE, Overlap, Reference, first_characters, sentence
from peftodyssey.corpora.source import Corpus
from peftodyssey.plan.tasks import IndexTask, Plan
from peftodyssey.recipe import grid

CHARACTERS_PER_TOKEN = 5  # of a capped split; a little above that of English
SCORED_TOKENS, TRAINED_TOKENS = 200_000, 1_000_000  # at most so many are looked at of a held-out, of a training split


def overlaps(plan: Plan) -> Iterator[tuple[str, str, Overlap]]:
    """(text, text in which it was looked for, what was found), of texts on this computer of which one is the user's.

    Validation and test in the training split, test in validation, general text in the training split, and scored text
    in the sample of pretraining text. Bundled texts have no documents in common.
    """
    by_folder = {index.folder: index for index in plan.indexes}
    spec = grid.pretraining_text_spec(plan.recipe)
    sample = next((index for index in plan.indexes if spec and index.corpus.name == spec.name), None)
    for domain in dict.fromkeys(task.cell.domain.name for task in plan.cells):
        tasks = [task for task in plan.cells if task.cell.domain.name == domain]
        first = next((task for task in tasks if task.train_index), None)
        scored = [by_folder[column.index] for task in tasks for column in task.scores if column.index in by_folder]
        held_out = list({(index.corpus.name, index.split): index for index in scored}.values())
        if first is not None:
            train = by_folder[str(first.train_index)]
            yield from _in(train, TRAINED_TOKENS, held_out)
        if sample is not None:
            yield from _in(sample, SCORED_TOKENS, held_out)
        valid = [index for index in held_out if index.corpus.name == domain and index.split == "valid"]
        test = [index for index in held_out if index.corpus.name == domain and index.split == "test"]
        for index in valid:
            yield from _in(index, SCORED_TOKENS, test)


def _in(reference: IndexTask, tokens: int, others: Sequence[IndexTask]) -> Iterator[tuple[str, str, Overlap]]:
    compared = [
        other
        for other in others
        if {reference.corpus.kind, other.corpus.kind} <= {"local", "bundled"}
        and "local" in (reference.corpus.kind, other.corpus.kind)
    ]
    if not compared:
        return
    held = Reference(_texts(reference, tokens))
    for other in compared:
        found = held.overlap(_texts(other, min(other.max_tokens or SCORED_TOKENS, SCORED_TOKENS)))
        yield _name(other.corpus, other.split), _name(reference.corpus, reference.split), found


def _texts(index: IndexTask, tokens: int) -> Iterator[tuple[str, str]]:
    read = ((document.key, document.text) for document in documents(index.corpus, index.split, index.chat))
    return first_characters(read, tokens * CHARACTERS_PER_TOKEN)


def _name(corpus: Corpus, split: str) -> str:
    return f"{corpus.name}, {split}"


def overlap_lines(plan: Plan) -> Iterator[str]:
    """One line for all that was compared, and a warning for each share above WARNED_SHARE."""
    found = list(overlaps(plan))
    if not found:
        return
    above = [one for one in found if one[2].share > WARNED_SHARE]
    clean = [f"{text} in {other}" for text, other, overlap in found if overlap.share <= WARNED_SHARE]
    if clean:
        yield f"overlap: at most {WARNED_SHARE:.0%} of the documents stand in another text ({'; '.join(clean)})"
    for text, other, overlap in above:
        yield f"warning: {sentence(text, other, overlap)}{_way_out(plan, text, other)}"


def _way_out(plan: Plan, text: str, other: str) -> str:
    """What takes the documents out, or does already; only the splits of a domain can be kept apart."""
    domains = {task.cell.domain.name: task.cell.domain for task in plan.cells}
    name = text.rpartition(", ")[0]
    if name not in domains or other != f"{name}, train":
        return ""
    chosen = domains[name].dedupe
    if chosen != "off":
        return f"; `dedupe: {chosen}` leaves them out of {'training' if chosen == 'train' else 'this split'}"
    return "; `dedupe: test` leaves them out of this split, `dedupe: train` out of training"
