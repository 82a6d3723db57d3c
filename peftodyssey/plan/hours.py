"""How long a grid will take, from what probes measured; unknown where a shape was never tried on this machine. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from peftodyssey.plan import probes
from peftodyssey.plan.graph import CellTask, Plan
from peftodyssey.plan.probes import Probe

BAND = 0.15  # at least: clocks, temperatures and lengths of real text differ from a probe's
EPOCH_BAND = 0.5
BYTES_PER_TOKEN = 4  # of English text, about
UNKNOWN_TEXT_BYTES = 4_000_000
UNCAPPED_TOKENS = 1_000_000  # scored where the recipe sets no cap


@dataclass(frozen=True)
class Hours:
    """Seconds of the whole grid: the middle and its band; or how many shapes are not known."""

    seconds: float | None
    low_seconds: float | None
    high_seconds: float | None
    unknown_cells: int


def hours(plan: Plan) -> Hours:
    """What the grid takes from nothing to the report, without downloads."""
    found = {task.hash: probes.of(task, plan.device) for task in plan.cells}
    unknown = sum(probe is None for probe in found.values())
    if unknown:
        return Hours(None, None, None, unknown)
    middle, low, high = 0.0, 0.0, 0.0
    bases: set[tuple[str, str, str]] = set()
    for task in plan.cells:
        probe = found[task.hash]
        assert probe is not None
        training, band = _training(plan, task, probe)
        other = _scoring(task, probe) + probe.save_seconds
        if task.base.name not in bases:
            bases.add(task.base.name)
            other += probe.load_seconds
        middle += training + other
        low += training * (1 - band) + other * (1 - BAND)
        high += training * (1 + band) + other * (1 + BAND)
    rate = min(probe.scored_tokens_per_second for probe in found.values() if probe is not None)
    columns = sum(_tokens(task.settings.tokens) for task in plan.base_scores) / rate
    return Hours(middle + columns, low + columns * (1 - BAND), high + columns * (1 + BAND), 0)


def _training(plan: Plan, task: CellTask, probe: Probe) -> tuple[float, float]:
    """Seconds of the cell's steps, and their relative band: wider where epochs are counted by the size of the text."""
    if not probe.step_seconds:
        return 0.0, 0.0
    band = BAND if task.cell.train.budget_epochs is None else EPOCH_BAND
    replayed = task.cell.method.options.get("replay", 0.0)  # a probe's step has none
    return _steps(plan, task) * probe.step_seconds[-1] / (1 - replayed), band


def _steps(plan: Plan, task: CellTask) -> int:
    """Optimiser steps of a cell's budget."""
    train = task.cell.train
    if train.budget_steps is not None:
        return train.budget_steps
    tokens: float = train.budget_tokens or 0
    if train.budget_epochs is not None:
        corpus = next(index.corpus for index in plan.indexes if index.folder == task.train_index)
        tokens = train.budget_epochs * (corpus.bytes_on_disk or UNKNOWN_TEXT_BYTES) / BYTES_PER_TOKEN
    return max(1, math.ceil(tokens / train.batch_tokens))


def _scoring(task: CellTask, probe: Probe) -> float:
    points = sum(share < 1 for share in task.cell.train.score_at)
    stop = task.cell.method.options.get("early_stop")
    columns = len(task.columns) + points + len(task.wise) + (stop["looks"] / 2 if stop else 0)  # a look is at half the cap
    return columns * _tokens(task.cell.score.tokens) / probe.scored_tokens_per_second


def _tokens(cap: int | None) -> int:
    return cap if cap is not None else UNCAPPED_TOKENS
