"""How long a grid takes, from what probes measured on this machine. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from peftodyssey.memory import probes
from peftodyssey.memory.probes import Probe
from peftodyssey.plan import probe_results
from peftodyssey.plan.probe_results import MultiLoraProbe
from peftodyssey.plan.tasks import CellTask, IndexTask, Plan
from peftodyssey.plan.text_tasks import scored_tokens

BAND = 0.15  # relative, at least: clocks, temperatures and lengths of real text differ from a probe's
EPOCH_BAND = 0.5
BYTES_PER_TOKEN = 4  # of English text, about
UNKNOWN_TEXT_BYTES = 4_000_000
KEPT_RATES = 3  # of successive halving: the best and its neighbours continue


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of the whole grid with their band; None where some cells have no probe."""

    seconds: float | None
    low_seconds: float | None
    high_seconds: float | None
    unknown_cells: int

    def times(self, factor: float) -> TimeEstimate:
        """The estimate of so many times the work."""
        if self.seconds is None or self.low_seconds is None or self.high_seconds is None:
            return self
        return TimeEstimate(
            factor * self.seconds, factor * self.low_seconds, factor * self.high_seconds, self.unknown_cells
        )


def estimate_time(plan: Plan) -> TimeEstimate:
    """What the grid takes from nothing to the report, without downloads and without prompts with choices."""
    loaded = [probe_results.load(task, plan.device) for task in plan.cells]
    known = [probe for probe in loaded if probe is not None]
    if len(known) < len(loaded):
        return TimeEstimate(None, None, None, len(loaded) - len(known))
    middle, low, high = 0.0, 0.0, 0.0
    bases: set[tuple[str, str, str]] = set()
    shares, speedups = halving_shares(plan), _speedups(plan)
    for task, probe in zip(plan.cells, known, strict=True):
        training, band = _training(plan, task, probe)
        steps, columns = shares.get(task.hash, (1.0, 1.0))
        training *= steps / speedups.get(task.hash, 1.0)
        other = columns * (_scoring(task, probe) + probe.save_seconds)
        other += columns * sum(one.scored_tokens for one in task.measures) / probe.scored_tokens_per_second
        if task.base.identifier not in bases:
            bases.add(task.base.identifier)
            other += probe.load_seconds
        middle += training + other
        low += training * (1 - band) + other * (1 - BAND)
        high += training * (1 + band) + other * (1 + BAND)
    rate = min(probe.scored_tokens_per_second for probe in known)
    base_tokens = sum(scored_tokens(task.settings.tokens) for task in plan.base_scores)
    base_tokens += sum(task.scored_tokens for task in plan.measures)
    seconds = base_tokens / rate
    return TimeEstimate(middle + seconds, low + seconds * (1 - BAND), high + seconds * (1 + BAND), 0)


def _training(plan: Plan, task: CellTask, probe: Probe) -> tuple[float, float]:
    """Seconds of the cell's steps, and their relative band: wider where epochs are counted by the size of the text."""
    if not probe.step_seconds:
        return 0.0, 0.0
    band = BAND if task.cell.train.budget_epochs is None else EPOCH_BAND
    replayed = task.cell.method.options.get("replay", 0.0)  # a probe's step has none
    shared = task.stem.shared if task.stem else 0.0
    steps = training_steps(plan.indexes, task) * (1 - shared)
    return steps * probe.steady_seconds / (1 - replayed), band


def training_steps(indexes: Iterable[IndexTask], task: CellTask) -> int:
    """Optimiser steps of a cell's budget, those of a shared stem included."""
    train = task.cell.train
    if train.budget_steps is not None:
        return train.budget_steps
    tokens: float = train.budget_tokens or 0
    if train.budget_epochs is not None:
        corpus = next(index.corpus for index in indexes if index.folder == task.train_index)
        tokens = train.budget_epochs * (corpus.bytes_on_disk or UNKNOWN_TEXT_BYTES) / BYTES_PER_TOKEN
    return max(1, math.ceil(tokens / train.batch_tokens))


def _scoring(task: CellTask, probe: Probe) -> float:
    return scored_columns(task) * scored_tokens(task.cell.score.tokens) / probe.scored_tokens_per_second


def scored_columns(task: CellTask) -> float:
    """How many columns of at most `score.tokens` tokens a cell scores, evaluations during training included."""
    points = sum(share < 1 for share in task.cell.train.eval_at)
    early_stop = task.cell.method.options.get("early_stop")
    early_stop_columns = early_stop["num_evals"] / 2 if early_stop else 0  # an evaluation scores half the cap
    return len(task.columns) + points + early_stop_columns


def halving_shares(plan: Plan) -> dict[str, tuple[float, float]]:
    """By cell that successive halving may stop: the mean share of steps, and of final columns, in its group."""
    groups: dict[str, list[CellTask]] = {}
    for task in plan.cells:
        if task.train_index and task.cell.method.tuned and task.cell.train.halving:
            groups.setdefault(task.entry["group"], []).append(task)
    shares: dict[str, tuple[float, float]] = {}
    for group in groups.values():
        train, steps, last = group[0].cell.train, 0.0, 0.0
        continuing = rates = len({task.cell.method.lr for task in group})
        for point in train.halving_points.values():
            steps, last = steps + continuing * (point - last), point
            continuing = max(math.ceil(continuing / (train.halving or 1)), min(continuing, KEPT_RATES))
        mean_steps = (steps + continuing * (1 - last)) / rates
        shares |= {task.hash: (mean_steps, continuing / rates) for task in group}
    return shares


def _speedups(plan: Plan) -> dict[str, float]:
    """How many times as fast cells train together as alone, by cell, where a probe measured it."""
    speedups: dict[str, float] = {}
    for key, groups in probe_results.groups_by_key(plan).items():
        result = probe_results.multi_lora_result(probes.load(key, MultiLoraProbe), groups, plan.device)
        if result.speedup:
            speedups |= {task.hash: result.speedup for group in groups for task in group}
    return speedups
