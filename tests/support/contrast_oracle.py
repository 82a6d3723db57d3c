"""Differences between methods, computed from the files of a run by plain loops: shares no code with the package.

`python tests/support/contrast_oracle.py DIR METHOD MINUS` prints them for a directory with one text and base.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.interpolate import PchipInterpolator


def cells_of(folder: Path) -> list[dict]:
    return [
        cell for path in sorted((folder / "plans").glob("*.json")) for cell in json.loads(path.read_text())["cells"]
    ]


def cluster_losses(folder: Path, text: dict, kind: str) -> dict[str, tuple[float, int]]:
    """Nats and scored tokens of each cluster."""
    name = text[kind] or text["before"]
    losses = pq.read_table(folder / name / "nll.parquet")["nll_nats"].to_pylist()
    document = pq.read_table(folder / text["index"] / "index.parquet")["document"].to_pylist()
    clusters = pq.read_table(folder / text["index"] / "documents.parquet")["cluster"].to_pylist()
    sums: dict[str, tuple[float, int]] = {}
    for loss, number in zip(losses, document, strict=True):
        if loss == loss:
            nats, tokens = sums.get(clusters[number], (0.0, 0))
            sums[clusters[number]] = (nats + loss, tokens + 1)
    return sums


def losses_of(folder: Path, cell: dict, split: str, kind: str) -> list[tuple[float, int]]:
    texts = cell["scores"]["general"] if split == "general" else [cell["scores"][split]]
    return [sums[name] for text in texts for sums in [cluster_losses(folder, text, kind)] for name in sorted(sums)]


class Run:
    """All columns of a run as lists of (nats, tokens) of clusters, and means over drawn clusters."""

    def __init__(self, folder: Path) -> None:
        self.cells = {}
        for cell in cells_of(folder):
            own = cell["coordinates"]
            budget = float((own.get("budget") or "0k").split("k")[0])
            self.cells[own["label"], own["lr"], own["seed"], budget] = {
                (split, kind): np.array(losses_of(folder, cell, split, kind))
                for split in ("test", "valid", "general")
                for kind in ("before", "quantised", "after")
            }
        first = next(iter(self.cells.values()))
        self.clusters = {split: len(first[split, "before"]) for split in ("test", "valid", "general")}

    def differences(self, method: str, minus: str, drawn=None, levels=None) -> dict:
        """Estimates of every seed: (quantity, at, share, budget) -> list over seeds; `levels` fixed where given."""
        drawn = drawn or {split: np.arange(n) for split, n in self.clusters.items()}

        def mean(key, split, kind):
            nats, tokens = self.cells[key][split, kind][drawn[split]].sum(0)
            return nats / tokens

        seeds = sorted({seed for label, _, seed, _ in self.cells if label == method})
        budgets = sorted({budget for *_, budget in self.cells})
        best, path, origin, points = {}, {}, {}, {}
        for label in (method, minus):
            rates = sorted({lr for name, lr, *_ in self.cells if name == label})
            key = (label, rates[0], seeds[0], budgets[0])
            origin[label] = tuple(
                sign * (mean(key, split, "quantised") - mean(key, split, "before"))
                for split, sign in (("test", -1), ("general", 1))
            )
            for budget in budgets:
                valid = [np.mean([mean((label, lr, seed, budget), "valid", "after") for seed in seeds]) for lr in rates]
                best[label, budget] = rates[int(np.argmin(valid))]
                for seed in seeds:
                    for lr in rates:
                        cell = label, lr, seed, budget
                        points[cell] = (
                            mean(key, "test", "before") - mean(cell, "test", "after"),
                            mean(cell, "general", "after") - mean(key, "general", "before"),
                        )
            for seed in seeds:  # the ends: every rate of the only budget, or each budget at its best rate
                alone = [points[label, lr, seed, budgets[0]] for lr in rates]
                several = [points[label, best[label, budget], seed, budget] for budget in budgets]
                path[label, seed] = alone if len(budgets) == 1 else several
        found = {
            (name, "own best rate", None, budget): [
                points[method, best[method, budget], seed, budget][axis]
                - points[minus, best[minus, budget], seed, budget][axis]
                for seed in seeds
            ]
            for axis, name in enumerate(("learning", "forgetting"))
            for budget in budgets
        }
        reach = min(max(x for x, _ in ends) for ends in path.values())
        start = max(0.0, origin[method][0], origin[minus][0])
        levels = levels or {share: start + share * (reach - start) for share in (0.25, 0.5, 0.75)}
        for share, level in levels.items():
            found["forgetting", "equal learning", share, None] = [
                at(path[method, seed], origin[method], level) - at(path[minus, seed], origin[minus], level)
                for seed in seeds
            ]
        of_levels = [found["forgetting", "equal learning", share, None] for share in levels]
        found["forgetting", "equal learning", None, None] = list(np.mean(of_levels, axis=0))
        return {"values": found, "levels": levels, "best": best}


def at(cells, origin, level: float) -> float:
    """Forgetting at a level of learning on the curve through the origin and the cells that none surpasses."""
    kept = [(x, y) for x, y in cells if x > origin[0] and not any(other > x and less <= y for other, less in cells)]
    x, y = zip(origin, *sorted(kept), strict=True)
    curve = PchipInterpolator(x, y)
    if level > x[-1]:
        return float(y[-1] + curve.derivative()(x[-1]) * (level - x[-1]))
    return float(curve(level))


def standard_errors(run: Run, method: str, minus: str, draws: int = 200) -> dict:
    """Standard error over clusters of the mean over seeds, by resampling; the levels stay those of the text itself."""
    rng = np.random.default_rng(12345)
    levels = run.differences(method, minus)["levels"]
    means: dict = {}
    for _ in range(draws):
        drawn = {split: rng.integers(0, n, n) for split, n in run.clusters.items()}
        for key, values in run.differences(method, minus, drawn, levels)["values"].items():
            means.setdefault(key, []).append(np.mean(values))
    return {key: float(np.std(values)) for key, values in means.items()}


if __name__ == "__main__":
    for key, values in Run(Path(sys.argv[1])).differences(*sys.argv[2:4])["values"].items():
        print(*key, f"{np.mean(values):+.6f}")
