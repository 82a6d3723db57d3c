"""The time of a run before it starts and between its starts, in one line: measured, or said to be unknown."""

from __future__ import annotations

import math
import os
from pathlib import Path

from peftodyssey.display.durations import format_seconds
from peftodyssey.execution.clock import CELLS_NEEDED, left_of, stored_rates, stored_works
from peftodyssey.plan.probe_results import key_of
from peftodyssey.plan.tasks import Plan
from peftodyssey.plan.time_estimate import TimeEstimate, estimate_time
from peftodyssey.plan.work import duration, forward, works
from peftodyssey.store import layout, manifest

# What a probe is assumed to take, before anything is measured: operations a second, and seconds beside them.
CPU_CORE_OPERATIONS, GPU_OPERATIONS = 4e10, 2e13
START_SECONDS, SHAPE_SECONDS, READ_BYTES_PER_SECOND = 5.0, 1.0, 5e8


def time_line(plan: Plan, root: Path, recipe: str) -> str:
    """The time of what is missing below `root`: by finished cells there, by probes, or unknown.

    `recipe` is how the user names it.
    """
    if plan.device.named_by:
        return "time: unknown for a GPU that is not here"
    rates = stored_rates(root / layout.TIMES, plan.device.name)
    if rates.cells >= CELLS_NEEDED:
        every = works(plan)
        missing = {task.folder for task in plan.cells if any(_is_left(c.folder, root) for c in task.columns)}
        missing |= {folder for folder in every if _is_left(folder, root)}
        missing -= {task.folder for task in plan.cells if manifest.stop(root / task.folder) is not None}
        if not missing:
            return "time: nothing is missing"
        left = [left_of(folder, every[folder], root) for folder in every if folder in missing]
        found = duration(left, rates)
        if found.seconds is not None:
            missing_part = "what is missing of this round" if plan.searches else "what is missing"
            return f"time: {words(found)} for {missing_part}, by the {rates.cells} cells finished in {root}"
    found = estimate_time(plan)
    if found.seconds is None:
        return f"time: unknown; `peftodyssey plan {recipe} --probe` takes about {_probe_words(plan)}"
    whole = "the cells of this round" if plan.searches else "the whole grid"
    return f"time: {words(found)} for {whole}, by what was measured on this machine"


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
    """Seconds that `--probe` takes, roughly: two steps, two scorings, saving and reading back of each shape."""
    shapes = {key_of(task, plan.device): task for task in plan.cells}
    speed = GPU_OPERATIONS if plan.device.kind == "cuda" else CPU_CORE_OPERATIONS * (os.cpu_count() or 1)
    seconds = START_SECONDS
    for task in shapes.values():
        tokens = 2 * 3 * task.cell.train.batch_tokens + 2 * 4 * task.cell.score.context
        seconds += SHAPE_SECONDS + tokens * forward(task.shape, task.step.seq_len) / speed
    bases = {task.base.identifier: task.shape.parameters for task in shapes.values()}
    seconds += sum(2 * parameters / READ_BYTES_PER_SECOND for parameters in bases.values())
    return format_seconds(10 * math.ceil(seconds / 10))
