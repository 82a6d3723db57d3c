"""A run from a plan to finished cells: lock the directory, record the recipe, execute the tasks."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from rich.console import Console

from peftodyssey.errors import DoesNotFit, InputError
from peftodyssey.execution import interrupt
from peftodyssey.execution.outcome import Outcome
from peftodyssey.execution.pending import forget_damaged, matches
from peftodyssey.execution.progress import ProgressReporter
from peftodyssey.execution.scheduler import execute
from peftodyssey.jobs.context import JobContext, JobOptions, RunMeasure
from peftodyssey.memory.device import return_large_tensors
from peftodyssey.memory.memory_plan import CUDA_CONTEXT_BYTES
from peftodyssey.models.log_filters import quiet
from peftodyssey.plan import host_and_disk
from peftodyssey.plan.tasks import CellTask, Plan
from peftodyssey.store import atomic, layout, lock, plans, survey

LARGE_STEP_BYTES = 1 << 30  # in host memory: what gaps add to smaller steps matters less than the time of fresh pages


@dataclass(frozen=True)
class Options:
    """How a run is done; nothing here changes a result."""

    only: Mapping[str, str] = field(default_factory=dict)
    keep: str = "adapters"  # adapters | best | all
    stop_after_s: float | None = None
    checkpoint_every_s: float = 600.0
    leave_out: frozenset[str] = frozenset()  # folders of cells that are not done
    refresh: bool = False  # do again what other library versions did
    allow_oom: bool = False  # start although the plan says that it does not fit
    memory_bytes: int | None = None  # the user's --memory; caps the GPU
    checkpoint_disk_bytes: int | None = None  # disk that downloaded models share
    self_check: bool = True  # every training checks itself
    verbose: bool = False  # folders on the screen, which else only the log names


def start(plan: Plan, root: Path, options: Options, console: Console, measures: Mapping[str, RunMeasure]) -> Outcome:
    """Do what is missing of `plan` below `root`.

    Raises InputError where the plan is for a device that is not here or `--only` names no cell, DoesNotFit before
    anything starts that cannot finish.
    """
    if plan.device.named_by:
        raise InputError(
            f"this plan is for {plan.device.name} ({plan.device.named_by}), which was not looked for on this machine",
            "run a plan of `api.plan`, which is made for the device that is here",
        )
    cells = [t for t in plan.cells if matches(t, options.only) and t.folder not in options.leave_out]
    if not cells:
        raise nothing_matches(plan, options.only)
    if not options.allow_oom:
        refuse_too_large([task for task in cells if not task.fits(plan.budget_bytes)], plan)
        refuse_without_room(plan, root, cells, options)
    stop = interrupt.Stop(options.stop_after_s)
    held_bytes = options.memory_bytes
    if held_bytes is None and plan.device.kind == "cpu" and not options.allow_oom:
        held_bytes = plan.budget_bytes  # what was free when the run was planned
    job_options = JobOptions(
        plan.device.kind,
        options.checkpoint_every_s,
        options.keep,
        held_bytes,
        options.self_check,
        options.checkpoint_disk_bytes,
    )
    progress = ProgressReporter(console, stop, root / layout.RUN_LOG, options.verbose)
    with lock.exclusive(root):
        survey.sweep(root)
        for path in plans.set_aside_damaged(root):
            progress.note(f"a damaged plan was set aside as {path}; if it was another recipe's, run that one again")
        record(plan, root)
        for line in forget_damaged(cells, root):
            progress.note(line)
        limit_memory(plan, options.memory_bytes)
        context = JobContext(root, job_options, progress, measures)
        with interrupt.listening(stop, progress.say), quiet():
            return execute(plan, cells, context, progress, options.refresh)


def nothing_matches(plan: Plan, only: Mapping[str, str]) -> InputError:
    """The error where `--only` names no cell, with the values that each of its columns has."""
    coordinates = [task.entry["coordinates"] for task in plan.cells]
    values = {key: sorted({str(c[key]) for c in coordinates if c.get(key) is not None}) for key in only}
    listed = "; ".join(f"{key}: {', '.join(known) or 'not set before a run'}" for key, known in values.items())
    filters = ",".join(f"{key}={value}" for key, value in only.items())
    return InputError(f"--only {filters} matches none of the {len(plan.cells)} cells", f"values there are: {listed}")


def refuse_too_large(tasks: list[CellTask], plan: Plan) -> None:
    """DoesNotFit with the largest of `tasks`, what it needs and what would help."""
    if not tasks:
        return
    worst = max(tasks, key=lambda task: max(task.memory.device_bytes, task.scoring_bytes))
    train_gib, score_gib, budget_gib = (
        n / 2**30 for n in (worst.memory.device_bytes, worst.scoring_bytes, plan.budget_bytes)
    )
    if score_gib > train_gib:
        needs = f"needs {score_gib:.2f} GiB to score one window of {worst.cell.score.context:,} tokens"
    else:
        needs = f"needs {train_gib:.2f} GiB even with one sequence and full gradient checkpointing"
    raise DoesNotFit(
        f"{len(tasks)} of {len(plan.cells)} cells do not fit: {worst.cell.method.label} on {worst.cell.model.name} "
        f"{needs}, the budget is {budget_gib:.2f} GiB",
        "use qlora, a shorter train.seq_len or score.context, or a larger --memory; `peftodyssey plan` shows the terms;"
        " --allow-oom starts anyway",
    )


def refuse_without_room(plan: Plan, root: Path, tasks: list[CellTask], options: Options) -> None:
    """DoesNotFit where the host's free memory or the disk cannot hold what `tasks` take of them."""
    if problems := host_and_disk.problems(plan, root, tasks, options.keep, options.checkpoint_disk_bytes):
        raise DoesNotFit(
            "; ".join(problems),
            "close other programs, free the disk or give another --out; `peftodyssey check` shows the terms; "
            "--allow-oom starts anyway",
        )


def record(plan: Plan, root: Path) -> None:
    """Write what was asked and what was understood, before the first task."""
    recipe = plan.recipe
    atomic.write_text(root / layout.RECIPE, recipe.source_text)
    atomic.write_text(root / layout.RESOLVED, resolved(plan))
    plans.write(
        root,
        recipe.name,
        plan.digest,
        {
            "recipe": recipe.name,
            "created": datetime.datetime.now(datetime.UTC).isoformat(),
            "measure": list(recipe.measured),
            "cells": [task.entry for task in plan.cells],
            "measures": plan.measure_entries,
            "searches": dict(plan.searches),
        },
    )


def resolved(plan: Plan) -> str:
    """The recipe as understood, as YAML: every default written out, and what each cell became."""
    cells = [{"folder": task.folder, **task.entry["coordinates"]} for task in plan.cells]
    content = {"recipe": plan.recipe.model_dump(mode="json"), "device": plan.device.kind, "cells": cells}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def limit_memory(plan: Plan, memory_bytes: int | None) -> None:
    """Keep PyTorch's allocator within the budget, so that an overflow raises: Windows and WSL would spill into host
    memory. On a CPU, let large steps return what they free, so that they take what is planned.
    """
    if plan.device.kind != "cuda":
        if max((task.memory.device_bytes for task in plan.cells), default=0) > LARGE_STEP_BYTES:
            return_large_tensors()
        return
    import torch

    total_bytes = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, allocator_bytes(plan, memory_bytes) / total_bytes))


def allocator_bytes(plan: Plan, memory_bytes: int | None) -> int:
    """Bytes that the allocator may reserve: --memory or the budget, less the CUDA context."""
    budget = plan.budget_bytes if memory_bytes is None else memory_bytes
    return max(0, budget - CUDA_CONTEXT_BYTES)
