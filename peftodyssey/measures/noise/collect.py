"""Collects the cost of shifts of the weights (`noise.parquet`) and critical steps (`sharpness.parquet`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftodyssey.display.result_text import columns_of, grouped
from peftodyssey.measures.noise.spec import SPEC
from peftodyssey.measures.noise.table import SHARPNESS_TABLE, SHIFTS_FILE, TABLE
from peftodyssey.stats.two_way_interval import two_way_interval
from peftodyssey.store import manifest, parquet, plans
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import StoredRun

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


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The rows of `noise.parquet` (one per shift and text) and of `sharpness.parquet` (one per critical step)."""
    found = results(run)
    return Collected(
        {
            TABLE: [row for result in found for row in _noise_rows(result)],
            SHARPNESS_TABLE: [row for result in found for row in _sharpness_rows(result)],
        }
    )


def results(run: StoredRun) -> list[NoiseResult]:
    """Every finished task of noise, by model, arm, rung and text."""

    def order(entry: Mapping[str, Any]) -> tuple[str, str, int, str]:
        return str(entry["model"]), str(entry["arm"]), entry["pretrain_tokens"] or 0, entry["corpus"]

    found = []
    for entry in sorted(_entries(run), key=order):
        folder = run.folder / entry["folder"]
        # a task along an update that changed none of the tensors has no rows
        if (finished := manifest.read(folder)) and (rows := parquet.read(folder / SHIFTS_FILE).to_pylist()):
            found.append(_result(entry, finished["facts"], rows))
    return found


def _entries(run: StoredRun) -> list[dict[str, Any]]:
    """The tasks of each recipe's newest plan that has any, on bases and along updates, each folder once."""
    by_folder: dict[str, dict[str, Any]] = {}
    asked = [plan for plan in plans.of_scoring(run.folder, run.scoring) if plan.get("measures", {}).get(SPEC.name)]
    for plan in {plan["recipe"]: plan for plan in asked}.values():
        for said in (plan, *plan["cells"]):  # of base models, then of each cell's update
            for entry in said.get("measures", {}).get(SPEC.name) or ():
                by_folder[entry["folder"]] = {**entry, "recipe": plan["recipe"]}
    return list(by_folder.values())


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
