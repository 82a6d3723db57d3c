"""Collects the cost of shifts of the weights (`noise.parquet`) and critical steps (`sharpness.parquet`)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from peftodyssey.display.result_text import columns_of, grouped
from peftodyssey.measures.contrast.column_means import document_clusters
from peftodyssey.measures.contrast.differences import Clusters, too_few
from peftodyssey.measures.noise.spec import SPEC
from peftodyssey.measures.noise.table import SHARPNESS_TABLE, SHIFTS_FILE, TABLE
from peftodyssey.stats.cluster_resampling import ClusterSums, resampled_means, sums_by_cluster
from peftodyssey.stats.contrast import CLUSTERS, ContrastResult, contrasts, parts
from peftodyssey.stats.ladder import MARGIN_NATS
from peftodyssey.store import manifest, parquet, plans
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import StoredRun

UPDATE = ("cell", "label", "lr", "seed")
COORDINATES = ("recipe", "model", "revision", "pretrain_tokens", "arm", "corpus", *UPDATE)
SHIFT = ("kind", "gamma", "rank", "quantiser")
Shift = tuple[Any, ...]  # values of SHIFT
OVER_CLUSTERS = "over clusters alone: an interval over pairs takes three"


@dataclass(frozen=True)
class NoiseResult:
    """One base on one text: the plan's entry, the manifest's facts, and means of NLL with every shift.

    Means are nats per token, float64 [1 + resamples]: of the text itself, then of its resampled clusters.
    """

    entry: Mapping[str, Any]
    facts: Mapping[str, Any]
    documents: int
    clusters: Clusters
    text: tuple[np.ndarray, np.ndarray]  # tokens and cluster of each document: equal where texts are the same
    base: np.ndarray  # without a shift
    rises: Mapping[Shift, Mapping[int, np.ndarray]]  # by the number of the noise pair (0: none), mean of both signs
    norms: Mapping[Shift, tuple[float, float]]  # mean norm, mean relative norm

    def is_same_text(self, other: NoiseResult) -> bool:
        """Whether the same documents were scored, so that their resamples are the same."""
        return all(np.array_equal(own, its) for own, its in zip(self.text, other.text, strict=True))


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The rows of `noise.parquet` (one per shift and text) and of `sharpness.parquet` (one per critical step)."""
    found = results(run)
    return Collected(
        {
            TABLE: _noise_rows(found),
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
            found.append(_result(run, entry, finished["facts"], rows))
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


def _result(run: StoredRun, entry: Mapping[str, Any], facts: Mapping[str, Any], rows: Sequence[Row]) -> NoiseResult:
    by_shift = grouped(rows, columns_of(*SHIFT))
    base = next(group for shift, group in by_shift.items() if shift[0] == "base")
    documents = np.array([row["document"] for row in base])
    tokens = np.array([row["tokens"] for row in base], np.float64)
    # plans of earlier versions do not name the index: every document is a cluster then
    cluster_of = document_clusters(run, entry["index"])[documents] if "index" in entry else documents
    _, cluster = np.unique(cluster_of, return_inverse=True)
    columns = {(shift, 0): _document_nats(base) for shift in by_shift if shift[0] == "base"}
    norms = {}
    for shift, own in by_shift.items():
        if shift[0] != "base":
            by_sign = grouped(own, lambda row: (row["pair"] or 0, row["sign"] or 0))
            sums = {key: _document_nats(group) for key, group in by_sign.items()}
            for pair, keys in grouped(sums, lambda key: key[0]).items():
                columns[shift, pair] = np.mean([sums[key] for key in keys], 0)
            norms[shift] = (
                float(np.mean([group[0]["norm"] for group in by_sign.values()])),
                float(np.mean([group[0]["relative"] for group in by_sign.values()])),
            )
    n = int(cluster.max()) + 1
    summed = [sums_by_cluster(column, cluster, n) for column in columns.values()]
    text = ClusterSums(np.stack(summed, 1), sums_by_cluster(tokens, cluster, n))
    means = dict(zip(columns, resampled_means(text, [0]).T, strict=True))
    base_mean = next(mean for (shift, _), mean in means.items() if shift[0] == "base")
    rises: dict[Shift, dict[int, np.ndarray]] = {}
    for (shift, pair), mean in means.items():
        if shift[0] != "base":
            rises.setdefault(shift, {})[pair] = mean - base_mean
    clusters = Clusters(n, text.effective_clusters)
    return NoiseResult(entry, facts, len(documents), clusters, (tokens, cluster), base_mean, rises, norms)


def _document_nats(rows: Sequence[Row]) -> np.ndarray:
    return np.array([row["nll_sum_nats"] for row in rows])


def _noise_rows(found: Sequence[NoiseResult]) -> list[Row]:
    """One row per shift and result; the variance over pairs is pooled over rungs where they are alike."""
    one_ladder = columns_of("recipe", "model", "arm", "corpus", "label", "lr", "domain")
    shifts = [(result, shift) for result in found for shift in result.rises]
    rows: dict[tuple[int, Shift], Row] = {}
    for group in grouped(shifts, lambda one: (one_ladder(one[0].entry), one[1])).values():
        settings = [
            parts(np.stack(list(result.rises[shift].values()), -1), result.clusters.effective)
            for result, shift in group
        ]
        for (result, shift), rise in zip(group, contrasts(settings, MARGIN_NATS), strict=True):
            rows[id(result), shift] = _noise_row(result, shift, rise)
    return [rows[id(result), shift] for result, shift in shifts]


def _noise_row(result: NoiseResult, values: Shift, rise: ContrastResult) -> Row:
    shift, pairs = dict(zip(SHIFT, values, strict=True)), len(result.rises[values])
    single, base = shift["kind"] in ("update", "quantiser"), float(result.base[0])
    few = too_few(result.clusters)
    return {
        **{name: result.entry.get(name) for name in COORDINATES},
        **shift,
        "rank": shift["rank"] or result.entry.get("rank"),
        "scale": result.entry["scale"],
        "sigma": result.facts["sigma"],
        "pairs": 0 if single else pairs,
        "tensors": result.entry["tensors"],
        "norm": result.norms[values][0],
        "relative": result.norms[values][1],
        "tokens": int(result.text[0].sum()),
        "documents": result.documents,
        "clusters": result.clusters.number,
        "nll_base": base,
        "nll_perturbed": base + rise.estimate,
        "rise_nats": rise.estimate,
        "lo": None if few else rise.lower,
        "hi": None if few else rise.upper,
        "note": "; ".join(few) or (OVER_CLUSTERS if rise.covers == CLUSTERS and not single else None),
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
