"""The splits train, valid and test: their usual names, and the shares cut from train where one is missing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftodyssey.errors import CorpusError

ALIASES = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "eval": "valid",
    "test": "test",
}
DEFAULT_SHARES = {"valid": 0.05, "test": 0.10}


def split_of_name(name: str) -> str | None:
    """train, valid or test where `name` is one of their usual names, alone or before `-`, `_` or a dot; else None."""
    lowered = name.lower()
    for separator in ("-", "_", "."):
        lowered = lowered.split(separator)[0]
    return ALIASES.get(lowered)


def named_splits(split: Mapping[str, Any]) -> dict[str, str]:
    """The splits for which the recipe names a split of the source: {"test": "validation"}."""
    return {key: name for key, name in split.items() if isinstance(name, str)}


def match_splits(names: Sequence[str], split: Mapping[str, Any], where: str) -> dict[str, str]:
    """{train, valid or test: name in the source} for a source with named splits; a single unknown name is train.

    `split` is the recipe's. Raises CorpusError where a name is missing or no split can be recognised.
    """
    renamed = named_splits(split)
    listed = ", ".join(names) or "none"
    for key, name in renamed.items():
        if name not in names:
            raise CorpusError(f"{where} has no split {name!r}: it has {listed}", f"set split.{key} to one of them")
    by_alias = {split_of_name(name): name for name in reversed(names) if name not in renamed.values()}
    matched = {key: name for key, name in by_alias.items() if key is not None} | renamed
    if not matched and len(names) == 1:
        matched = {"train": names[0]}
    if not matched:
        raise CorpusError(f"{where} has the splits {listed}", f"name the one to train on: split: {{train: {names[0]}}}")
    refuse_shares(split, matched, where)
    return matched


def refuse_shares(split: Mapping[str, Any], existing: Iterable[str], where: str) -> None:
    """Raises CorpusError where the recipe gives a share to a split that the source already has."""
    both = sorted(set(existing) & {key for key, value in split.items() if not isinstance(value, str)})
    if both:
        raise CorpusError(
            f"{where} has a {both[0]} split, but the recipe sets a share for it", f"remove split.{both[0]}"
        )


def shares_of(split: Mapping[str, Any]) -> dict[str, float]:
    """The shares of valid and test, defaults filled in. Raises CorpusError where nothing is left for training."""
    shares = DEFAULT_SHARES | {name: float(value) for name, value in split.items() if isinstance(value, int | float)}
    shares.pop("train", None)
    if sum(shares.values()) >= 1 or min(shares.values()) < 0:
        raise CorpusError(f"split shares {shares} leave nothing to train on", "let them add up to less than 100%")
    return shares


def split_of_key(key: str, shares: Mapping[str, float]) -> str:
    """The split of a document by its hash: the lowest hashes are test, the next valid, the rest train."""
    position = int(key[:16], 16) / 2**64
    for name in ("test", "valid"):
        position -= shares.get(name, 0.0)
        if position < 0:
            return name
    return "train"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean ...? ` for the nearest of `known`, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}? " if near else ""
