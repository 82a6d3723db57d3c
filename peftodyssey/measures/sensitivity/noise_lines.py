"""What each shift of the weights costs along a ladder, from the results of noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from peftodyssey.display.result_text import columns_of, grouped
from peftodyssey.measures.noise.collect import SHIFT, NoiseResult
from peftodyssey.measures.sensitivity.lines import Line, difference

Row = dict[str, Any]
LADDER = ("recipe", "model", "arm", "corpus", "scale", "tensors")  # what the rungs of one line have in common


def noise_lines(results: Sequence[NoiseResult]) -> Iterator[Line]:
    """Every shift along its ladder, then full-rank less low-rank noise of equal size.

    An update is followed by method and learning rate; its repetitions are the seeds of its cells, those of noise the
    numbers of its pairs. Only rungs whose pretraining tokens are known and that were scored on the same documents are
    compared.
    """
    lines = list(_lines(results))
    size = columns_of("recipe", "model", "arm", "corpus", "scale", "tensors", "gamma")
    full_rank = {size(line.coordinates): line for line in lines if line.coordinates["kind"] == "gaussian"}
    yield from lines
    for line in lines:
        other = full_rank.get(size(line.coordinates))
        if line.coordinates["kind"] == "low_rank" and other is not None:
            coordinates = {**line.coordinates, "intervention": "gaussian", "minus": line.coordinates["intervention"]}
            if (one := difference(coordinates, other, line)) is not None:
                yield one


def _lines(results: Sequence[NoiseResult]) -> Iterator[Line]:
    shifts = [(result, shift) for result in results if result.entry["pretrain_tokens"] for shift in result.rises]
    who = columns_of(*LADDER, "label", "lr", "domain")
    for (values, shift), members in grouped(shifts, lambda member: (who(member[0].entry), member[1])).items():
        first = members[0][0]
        rises: dict[int, dict[int, np.ndarray]] = {}
        losses: dict[int, dict[int, np.ndarray]] = {}
        for result in (result for result, _ in members if result.is_same_text(first)):
            tokens = result.entry["pretrain_tokens"]
            for pair, rise in result.rises[shift].items():
                number = pair if result.entry.get("seed") is None else result.entry["seed"]
                rises.setdefault(tokens, {})[number] = rise
                losses.setdefault(tokens, {})[number] = rise + result.base
        names = (*LADDER, "label", "lr", "domain", *SHIFT)
        coordinates: Row = dict(zip(names, (*values, *shift), strict=True))
        coordinates |= {"quantity": "noise", "minus": None, "compared_at": None, "newline": None, "budget": None}
        yield Line({**coordinates, "intervention": shift_name(coordinates)}, rises, first.clusters, losses)


def shift_name(shift: Mapping[str, Any]) -> str:
    """A shift in words: gaussian, rank 1, nf4, update of a method."""
    names = {"gaussian": "gaussian", "low_rank": f"rank {shift['rank']}", "quantiser": str(shift["quantiser"])}
    return names.get(shift["kind"]) or f"update of {shift['label']}"
