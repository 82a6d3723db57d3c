"""Collects the cost of shifts of the weights (`noise.parquet`) and critical steps (`sharpness.parquet`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.report.result_text import columns_of, grouped
from peftodyssey.stats.sensitivity import Rungs
from peftodyssey.stats.two_way_interval import two_way_interval
from peftodyssey.store import layout, manifest, parquet, plans, tables

Row = dict[str, Any]
LADDER = ("recipe", "model", "arm", "corpus", "scale", "tensors")  # what the rungs of one line have in common
UPDATE = ("cell", "label", "lr", "seed")
COORDINATES = ("recipe", "model", "revision", "pretrain_tokens", "arm", "corpus", *UPDATE)
SHIFT = ("kind", "gamma", "rank", "quantiser")
Shift = tuple[Any, ...]  # values of SHIFT


@dataclass(frozen=True)
class NoiseResult:
    """One base on one text: the plan's entry, the manifest's facts, and sums of NLL by document for every shift."""

    entry: Mapping[str, Any]
    facts: Mapping[str, Any]
    tokens_d: np.ndarray  # float64 [documents]
    base_d: np.ndarray  # nats summed by document, without a shift
    rises: Mapping[Shift, np.ndarray]  # nats summed by noise pair and document, mean of the two signs
    norms: Mapping[Shift, tuple[float, float]]  # mean norm, mean relative norm


@dataclass(frozen=True)
class ShiftLine:
    """One shift along a ladder: coordinates, rises and shifted losses by pretraining tokens, tokens by document."""

    coordinates: Row
    rises: Rungs
    losses: Rungs
    tokens_d: np.ndarray


def write(folder: Path) -> list[NoiseResult]:
    """Write both tables from the finished tasks in `folder`; returns what they are made of."""
    results = list(_read(folder))
    noise = [row for result in results for row in _noise_rows(result)]
    sharpness = [row for result in results for row in _sharpness_rows(result)]
    parquet.write_rows(folder / layout.NOISE_TABLE, noise, tables.NOISE)
    parquet.write_rows(folder / layout.SHARPNESS, sharpness, tables.SHARPNESS)
    return results


def _read(folder: Path) -> Iterator[NoiseResult]:
    """Every finished task of noise, by model, arm, rung and text."""

    def order(entry: Mapping[str, Any]) -> tuple[str, str, int, str]:
        return str(entry["model"]), str(entry["arm"]), entry["pretrain_tokens"] or 0, entry["corpus"]

    for entry in sorted(plans.noise(folder), key=order):
        if (finished := manifest.read(folder / entry["folder"])) is not None:
            rows = parquet.read(folder / entry["folder"] / layout.SHIFTS).to_pylist()
            yield _result(entry, finished["facts"], rows)


def _result(entry: Mapping[str, Any], facts: Mapping[str, Any], rows: Sequence[Row]) -> NoiseResult:
    by_shift = grouped(rows, columns_of(*SHIFT))
    base = next(group for shift, group in by_shift.items() if shift[0] == "base")
    base_d = _document_nats(base)
    rises, norms = {}, {}
    for shift, own in by_shift.items():
        if shift[0] != "base":
            by_sign = grouped(own, lambda row: (row["pair"] or 0, row["sign"] or 0))
            sums = {key: _document_nats(group) for key, group in by_sign.items()}
            pairs = grouped(sums, lambda key: key[0])
            means = [np.mean([sums[key] for key in pairs[pair]], 0) for pair in sorted(pairs)]
            rises[shift] = np.stack(means) - base_d
            norms[shift] = (
                float(np.mean([group[0]["norm"] for group in by_sign.values()])),
                float(np.mean([group[0]["relative"] for group in by_sign.values()])),
            )
    return NoiseResult(entry, facts, np.array([row["tokens"] for row in base], np.float64), base_d, rises, norms)


def _document_nats(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row["nll_sum_nats"] for row in rows])


def _noise_rows(result: NoiseResult) -> Iterator[Row]:
    tokens = float(result.tokens_d.sum())
    base = float(result.base_d.sum()) / tokens
    for values, rise_pd in result.rises.items():
        rise, shift = two_way_interval(rise_pd, result.tokens_d), dict(zip(SHIFT, values, strict=True))
        single = shift["kind"] in ("update", "quantiser")
        yield {
            **{name: result.entry.get(name) for name in COORDINATES},
            **shift,
            "rank": shift["rank"] or result.entry.get("rank"),
            "scale": result.entry["scale"],
            "sigma": result.facts["sigma"],
            "pairs": 0 if single else len(rise_pd),
            "tensors": result.entry["tensors"],
            "norm": result.norms[values][0],
            "relative": result.norms[values][1],
            "tokens": int(tokens),
            "documents": len(result.tokens_d),
            "nll_base": base,
            "nll_perturbed": base + rise.estimate,
            "rise_nats": rise.estimate,
            "lo": rise.lower,
            "hi": rise.upper,
            "note": None if single and rise.lower is not None else rise.note or None,
        }


def _sharpness_rows(result: NoiseResult) -> Iterator[Row]:
    for direction, search in result.facts.get("critical", {}).items():
        lower, upper = search["step_lo"], search["step_hi"]
        step = math.sqrt(lower * upper) if lower and upper else None
        yield {
            **{name: result.entry.get(name) for name in COORDINATES},
            **{name: search[name] for name in ("length", "passes", "step_lo", "step_hi")},
            "direction": direction,
            "sharpness": 2 * search["length"] / step if step else None,
        }


def lines(results: Sequence[NoiseResult]) -> Iterator[ShiftLine]:
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
