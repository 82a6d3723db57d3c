"""The time of a run before it starts and between its starts, in one line: measured, or said to be unknown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from peftodyssey.display.durations import format_seconds
from peftodyssey.execution import rate_cache
from peftodyssey.execution.clock import CELLS_NEEDED, left_of, stored_rates, stored_works
from peftodyssey.memory.probes import STEPS
from peftodyssey.plan.probe_results import key_of
from peftodyssey.plan.tasks import Plan
from peftodyssey.plan.time_estimate import TimeEstimate, estimate_time, training_steps
from peftodyssey.plan.work import Work, duration, forward, similar, with_earlier, works
from peftodyssey.store import layout, manifest

PROBE_SCORINGS, SCORED_CONTEXTS = 2, 4  # of a shape by a probe: before it is saved and after, windows of each


def time_line(plan: Plan, root: Path, recipe: str) -> str:
    """The time of what is missing below `root`: by finished cells there, by probes, by earlier runs, or unknown.

    `recipe` is how the user names it.
    """
    if plan.device.named_by:
        return "time: unknown for a GPU that is not here"
    left = work_left(plan, root)
    if not left:
        return "time: nothing is missing"
    found, source = expected(plan, root, left)
    if found.seconds is None:
        return f"time: unknown; `peftodyssey plan {recipe} --probe` {_probe_words(plan)}"
    missing = "what is missing of this round" if plan.searches else "what is missing"
    return f"time: {words(found)} for {missing}, by {source}"


def work_left(plan: Plan, root: Path) -> list[Work]:
    """The work of what is missing below `root`."""
    every = works(plan)
    missing = {task.folder for task in plan.cells if any(_is_left(column.folder, root) for column in task.columns)}
    missing |= {folder for folder in every if _is_left(folder, root)}
    missing -= {task.folder for task in plan.cells if manifest.stop(root / task.folder) is not None}
    return [left_of(folder, every[folder], root) for folder in every if folder in missing]


def whole_work(plan: Plan) -> list[Work]:
    """The work of the grid from nothing to its end, what budgets share counted once."""
    return [replace(work, training=work.training * (1 - work.shared)) for work in works(plan).values()]


def expected(plan: Plan, root: Path, left: Sequence[Work]) -> tuple[TimeEstimate, str]:
    """The time of `left`, and by what it is known; its seconds are None where nothing measured says it."""
    rates, earlier = stored_rates(root / layout.TIMES, plan.device.name), rate_cache.read(plan.device.name)
    if rates.cells >= CELLS_NEEDED:
        return duration(left, with_earlier(rates, earlier)), f"the {rates.cells} cells finished in {root}"
    probed = estimate_time(plan)
    if probed.seconds is not None:
        share = _operations(left) / max(_operations(whole_work(plan)), 1.0)
        return probed.times(share), "probes on this machine"
    if all(not work.training or similar(earlier.training, work.kind) for work in left):
        return duration(left, earlier), "earlier runs on this machine"
    return TimeEstimate(None, None, None, len(plan.cells)), ""


def _operations(left: Iterable[Work]) -> float:
    return sum(work.training + work.other for work in left)


def status_line(folder: Path) -> str:
    """The time of the tasks that the last start of a run left, by the cells that are finished there."""
    every, rates = stored_works(folder / layout.TIMES)
    left = [left_of(task, work, folder) for task, work in every.items() if _is_left(task, folder)]
    if not every or rates.cells < CELLS_NEEDED:
        return "time: unknown before two cells are finished; `peftodyssey plan RECIPE --probe` measures it"
    found = duration(left, rates)
    if found.seconds is None:
        return f"time: unknown for {found.unknown_cells} tasks of another kind than those that are finished"
    return f"time: {words(found)} for what is missing" if left else "time: nothing is missing"


def words(found: TimeEstimate) -> str:
    """An estimate with its band."""
    assert found.seconds is not None
    assert found.low_seconds is not None
    assert found.high_seconds is not None
    low, high = format_seconds(found.low_seconds), format_seconds(found.high_seconds)
    return f"about {format_seconds(found.seconds)} ({low} to {high})"


def _is_left(folder: str, root: Path) -> bool:
    return manifest.read(root / folder) is None and manifest.stop(root / folder) is None


def _probe_words(plan: Plan) -> str:
    """How long `--probe` takes, where rates of earlier runs say it: its steps and scorings of every shape."""
    rates = rate_cache.read(plan.device.name)
    shapes = {key_of(task, plan.device): task for task in plan.cells}
    every, probed = works(plan), []
    for task in shapes.values():
        work, score = every[task.folder], task.cell.score
        scored = PROBE_SCORINGS * SCORED_CONTEXTS * (score.context or task.step.seq_len)
        steps = STEPS / training_steps(plan.indexes, task) if task.train_index else 0.0
        probed.append(replace(work, training=steps * work.training, other=scored * forward(task.shape, score.context)))
    found = duration(probed, rates)
    known = all(not work.training or similar(rates.training, work.kind) for work in probed)
    return f"takes about {format_seconds(found.seconds)}" if known and found.seconds is not None else "measures it"
