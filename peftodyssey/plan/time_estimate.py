"""How long a grid will take, from what probes measured; unknown where a shape was never tried on this machine. No
torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from peftodyssey.memory.probes import Probe
from peftodyssey.plan import probe_results
from peftodyssey.plan.tasks import CellTask, NoiseTask, Plan

BAND = 0.15  # at least: clocks, temperatures and lengths of real text differ from a probe's
EPOCH_BAND = 0.5
BYTES_PER_TOKEN = 4  # of English text, about
UNKNOWN_TEXT_BYTES = 4_000_000
UNCAPPED_TOKENS = 1_000_000  # scored where the recipe sets no cap
SEARCH_PASSES = 10  # over a text, for a critical step
GRADIENT_PASSES = 3  # that a gradient takes the time of


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds of the whole grid: the middle and its band; or how many shapes are not known."""

    seconds: float | None
    low_seconds: float | None
    high_seconds: float | None
    unknown_cells: int


def estimate_time(plan: Plan) -> TimeEstimate:
    """What the grid takes from nothing to the report, without downloads and without tasks of prompts."""
    found = {task.hash: probe_results.load(task, plan.device) for task in plan.cells}
    unknown = sum(probe is None for probe in found.values())
    if unknown:
        return TimeEstimate(None, None, None, unknown)
    middle, low, high = 0.0, 0.0, 0.0
    bases: set[tuple[str, str, str]] = set()
    raced, faster = _halving_share(plan), _faster(plan)
    for task in plan.cells:
        probe = found[task.hash]
        assert probe is not None
        training, band = _training(plan, task, probe)
        steps, ends = raced.get(task.hash, (1.0, 1.0))
        training *= steps / faster.get(task.hash, 1.0)
        other = ends * (_scoring(task, probe) + probe.save_seconds)
        other += sum(map(_shifting, task.update_noise)) / probe.scored_tokens_per_second
        if task.base.identifier not in bases:
            bases.add(task.base.identifier)
            other += probe.load_seconds
        middle += training + other
        low += training * (1 - band) + other * (1 - BAND)
        high += training * (1 + band) + other * (1 + BAND)
    rate = min(probe.scored_tokens_per_second for probe in found.values() if probe is not None)
    columns = (sum(_tokens(task.settings.tokens) for task in plan.base_scores) + sum(map(_shifting, plan.noise))) / rate
    return TimeEstimate(middle + columns, low + columns * (1 - BAND), high + columns * (1 + BAND), 0)


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
    points = sum(share < 1 for share in task.cell.train.eval_at)
    stop = task.cell.method.options.get("early_stop")
    columns = (
        len(task.columns) + points + len(task.wise_ft_scores) + (stop["num_evals"] / 2 if stop else 0)
    )  # a look is at half the cap
    return columns * _tokens(task.cell.score.tokens) / probe.scored_tokens_per_second


def _shifting(task: NoiseTask) -> int:
    """Tokens scored while one base's weights are shifted, or along one update."""
    asked = task.noise
    if task.score.cell:
        passes = 1 + len(asked.gammas) + SEARCH_PASSES
    else:
        ranks = 1 + len({rank for rank in asked.ranks if rank})
        passes = 1 + 2 * asked.pairs * len(asked.gammas) * ranks + len(asked.quantisers)
        passes += (SEARCH_PASSES + GRADIENT_PASSES) * asked.sharpness
    openings = asked.documents * task.score.settings.context
    return passes * min(openings, _tokens(task.score.settings.tokens))


def _halving_share(plan: Plan) -> dict[str, tuple[float, float]]:
    """Of cells of which some are stopped early: the share of a cell's steps and of its columns that is done, on the
    mean of its contest.
    """
    groups: dict[str, list[CellTask]] = {}
    for task in plan.cells:
        if task.train_index and task.cell.method.tuned and task.cell.train.halving:
            groups.setdefault(task.entry["group"], []).append(task)
    found = {}
    for group in groups.values():
        train, going, steps, last = group[0].cell.train, len(group), 0.0, 0.0
        for share in (share for share in train.eval_at if share < 1):
            steps, last = steps + going * (share - last), share
            going = math.ceil(going / (train.halving or 1))
        share = (steps + going * (1 - last)) / len(group)
        found |= {task.hash: (share, going / len(group)) for task in group}
    return found


def _faster(plan: Plan) -> dict[str, float]:
    """How many times as fast the cells of a fleet train than alone, where that was tried."""
    found = {}
    for key, groups in probe_results.groups_by_key(plan).items():
        times = probe_results.multi_lora_result(probe_results.load_multi_lora(key), groups, plan.device).speedup
        found |= {task.hash: times for group in groups for task in group if times}
    return found


def _tokens(cap: int | None) -> int:
    return cap if cap is not None else UNCAPPED_TOKENS
