"""Rungs of a ladder that hold the same weights, wholly or in some files, and rungs without weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from peftodyssey.models.known_rungs import known_problems
from peftodyssey.models.ladder import Ladder
from peftodyssey.models.rung_hashes import Hashes, weight_hashes

MAX_NAMES = 6


def examined(ladder: Ladder) -> Ladder:
    """`ladder` with notes about rungs that hold the same bytes, that have no weights, or that are known to be wrong."""
    names = [rung.name for rung in ladder.rungs]
    hashes = weight_hashes(ladder.name, names)
    notes = [*known_problems(ladder.repository or ladder.name, names), *hash_notes(hashes)]
    return replace(ladder, notes=(*ladder.notes, *notes))


def equal_groups(hashes: Mapping[str, Hashes | None]) -> list[tuple[str, ...]]:
    """Groups of rungs whose weight files are all the same bytes, in the order of the ladder."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for rung, files in hashes.items():
        if files:
            groups.setdefault(tuple(sorted(files.items())), []).append(rung)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def shared_shards(hashes: Mapping[str, Hashes | None]) -> list[tuple[str, tuple[str, ...]]]:
    """(file, rungs) where several rungs have the same bytes in one file and differ in others."""
    groups: dict[tuple[str, str], list[str]] = {}
    for rung, files in hashes.items():
        for file, sha256 in (files or {}).items():
            groups.setdefault((file, sha256), []).append(rung)
    whole = [set(group) for group in equal_groups(hashes)]
    return [
        (file, tuple(rungs))
        for (file, _), rungs in groups.items()
        if len(rungs) > 1 and not any(set(rungs) <= group for group in whole)
    ]


def hash_notes(hashes: Mapping[str, Hashes | None]) -> Iterator[str]:
    """A sentence for each group of equal rungs, for each file that some share, and for rungs without weights."""
    for group in equal_groups(hashes):
        yield f"{listed(group)} hold the same weights, byte for byte: at most one of them is what its name says"
    for file, rungs in shared_shards(hashes):
        yield f"{listed(rungs)} have the same bytes in {file} and differ in other files: parts of a model are mixed"
    if missing := [rung for rung, files in hashes.items() if files is not None and not files]:
        yield f"{listed(missing)} {'has' if len(missing) == 1 else 'have'} no weights"


def listed(names: Sequence[str]) -> str:
    """Names for a sentence, the middle of a long list left out."""
    if len(names) > MAX_NAMES:
        return f"{', '.join(names[: MAX_NAMES - 2])}, ... and {names[-1]} ({len(names)} rungs)"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
