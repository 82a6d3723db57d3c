"""What each shift of the weights costs along a ladder, from the results of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftodyssey.display.result_text import columns_of, grouped
from peftodyssey.measures.noise.collect import SHIFT, NoiseResult
from peftodyssey.measures.sensitivity.compute import Rungs

Row = dict[str, Any]
LADDER = ("recipe", "model", "arm", "corpus", "scale", "tensors")  # what the rungs of one line have in common


@dataclass(frozen=True)
class ShiftLine:
    """One shift along a ladder: coordinates, rises and shifted losses by pretraining tokens, tokens by document."""

    coordinates: Row
    rises: Rungs
    losses: Rungs
    tokens_d: np.ndarray


def shift_lines(results: Sequence[NoiseResult]) -> Iterator[ShiftLine]:
    """Every shift along its ladder; an update is followed by method and learning rate.

    Only rungs whose pretraining tokens are known and that were scored on the same documents are compared.
    """
    shifts = [(result, shift) for result in results if result.entry["pretrain_tokens"] for shift in result.rises]
    who = columns_of(*LADDER, "label", "lr", "domain")
    for (values, shift), members in grouped(shifts, lambda member: (who(member[0].entry), member[1])).items():
        first = members[0][0]
        rises: dict[int, list[np.ndarray]] = {}
        losses: dict[int, list[np.ndarray]] = {}
        for result, _ in members:
            if np.array_equal(result.tokens_d, first.tokens_d):
                rung, rise = result.entry["pretrain_tokens"], result.rises[shift]
                rises.setdefault(rung, []).append(rise)
                losses.setdefault(rung, []).append(rise + result.base_d)
        names = (*LADDER, "label", "lr", "domain", *SHIFT)
        coordinates = dict(zip(names, (*values, *shift), strict=True))
        yield ShiftLine(coordinates, _equal_repetitions(rises), _equal_repetitions(losses), first.tokens_d)


def _equal_repetitions(rungs: Mapping[int, Sequence[np.ndarray]]) -> Rungs:
    """Rungs cut to the smallest number of repetitions."""
    joined = {tokens: np.concatenate(list(parts)) for tokens, parts in rungs.items()}
    fewest = min(len(values) for values in joined.values())
    return {tokens: values[:fewest] for tokens, values in joined.items()}
