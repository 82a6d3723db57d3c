"""What `plan` prints: the device, the memory of every distinct step by term, and what would fit. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from peftodyssey.memory.device import Device
from peftodyssey.plan.fitting_changes import fitting_changes, larger_gpu
from peftodyssey.plan.tasks import CellTask, Plan
from peftodyssey.report.console_output import model_words, plain_table, size
from peftodyssey.report.multi_lora_output import group_lines
from peftodyssey.report.search_output import search_lines
from peftodyssey.report.training_length import budgets

if TYPE_CHECKING:
    from peftodyssey.memory.step_estimate import StepPlan
    from peftodyssey.memory.step_spec import StepSpec


def device_line(device: Device, budget_bytes: int) -> Text:
    """What is planned for, how it came to be known, and its budget."""
    if device.kind == "cpu":
        return Text(f"device: CPU of this machine; budget {size(budget_bytes)}")
    origin = f"{device.named_by}; not looked for" if device.named_by else "of this machine"
    capability = ".".join(map(str, device.capability))
    bf16 = "bf16" if device.bf16 else "no bf16, so fp16"
    return Text(
        f"device: {device.name} ({origin}), {bf16}, compute capability {capability}; budget {size(budget_bytes)}"
    )


def dtypes(step: StepSpec) -> str:
    """The types of what a step computes in, of the base and of what is trained."""
    base = "" if step.full else f", base {step.quant.kind if step.quant else step.precision}"
    trained = step.master if step.master == "fp32" else step.precision
    states = " with 8-bit states" if step.optimizer == "adamw8bit" else ""
    what = "" if not step.trainable else f", {'weights' if step.full else 'trained weights'} {trained}{states}"
    return f"computed in {step.precision}{base}{what}"


def plan(plan: Plan) -> Iterator[Any]:
    """The bill of every distinct step of a recipe, term by term."""
    yield device_line(plan.device, plan.budget_bytes)
    shapes = {(t.cell.model, t.cell.method.label, t.step): t for t in plan.cells}
    for task in shapes.values():
        yield from _bill(
            f"{model_words(task.cell.model.name, task.cell.model.revision)}, {task.cell.method.label}, "
            f"{task.step.micro_batch_size} x {task.step.seq_len} tokens, {way(task.step)}, {dtypes(task.step)}",
            task.memory.terms,
            task.memory.device_bytes,
            plan.budget_bytes,
        )
    yield from map(Text, budgets(plan))
    yield from group_lines(plan)
    yield from map(Text, search_lines(plan))
    yield from (Text(f"warning: {warning}") for warning in plan.warnings)
    yield from (Text(line) for line in _ways_to_fit(plan))
    fits = "fits" if not plan.too_large else f"{len(plan.too_large)} cells do not fit"
    yield f"{len(plan.cells)} cells, budget {size(plan.budget_bytes)}: {fits}"


def _ways_to_fit(plan: Plan) -> Iterator[str]:
    """For every distinct step that does not fit: what it needs, and the changes that would make it fit."""
    distinct: dict[Any, CellTask] = {}
    for task in plan.too_large:
        distinct.setdefault((task.cell.model, task.cell.method.label, task.step, task.cell.score.context), task)
    for task in distinct.values():
        scoring = task.memory.fits(plan.budget_bytes)
        needs = size(task.scoring_bytes if scoring else task.memory.device_bytes)
        what = f" to score one window of {task.cell.score.context:,} tokens" if scoring else ""
        yield f"does not fit: {task.cell.method.label} on {task.cell.model.name} needs {needs}{what}"
        yield from (f"  {line}" for line in fitting_changes(task, plan))


def step(answer: StepPlan) -> Iterator[Any]:
    """The bill of one step, and advice."""
    yield device_line(answer.device, answer.budget_bytes)
    yield from _bill(
        f"{answer.what}, {dtypes(answer.step)}", answer.memory.terms, answer.memory.device_bytes, answer.budget_bytes
    )
    if answer.fits:
        yield f"largest micro-batch that fits: {answer.max_micro_batch_size} x {answer.step.seq_len} tokens"
    else:
        yield from map(Text, (*answer.advice, *larger_gpu(answer.memory.device_bytes, answer.device)))


def way(step: StepSpec) -> str:
    """How a step is done, in words."""
    offloads = [
        name
        for name, used in (("activations", step.offload_activations), ("optimiser", step.offload_optimizer))
        if used
    ]
    return f"gradient checkpointing {step.gradient_checkpointing}" + (
        f", {' and '.join(offloads)} in host memory" if offloads else ""
    )


def _bill(title: str, terms: Sequence[Any], total: int, budget: int) -> Iterator[Text | Table]:
    yield Text(title, style="bold")
    table = plain_table("term", "bytes", "share")
    for term in terms:
        if term.size_bytes:
            table.add_row(term.name, size(term.size_bytes), f"{term.size_bytes / total:.0%}")
    table.add_section()
    table.add_row("peak", size(total), "")
    table.add_row("budget", size(budget), "")
    table.add_row("free margin", size(budget - total), "fits" if total <= budget else "does not fit")
    yield table


def plan_json(plan: Plan) -> str:
    """The plan of a recipe as JSON."""
    cells = [
        {
            "cell": task.short_hash,
            "folder": task.folder,
            "micro_batch_size": task.step.micro_batch_size,
            "dtypes": dtypes(task.step),
            "gradient_checkpointing": task.step.gradient_checkpointing,
            "offload_activations": task.step.offload_activations,
            "offload_optimizer": task.step.offload_optimizer,
            "trainable_params": task.trainable,
            "peak_allocated_bytes": task.memory.peak_allocated_bytes,
            "peak_reserved_bytes": task.memory.peak_reserved_bytes,
            "context_bytes": task.memory.context_bytes,
            "terms": {term.name: term.size_bytes for term in task.memory.terms},
            "fits": task.fits(plan.budget_bytes),
            "changes": [] if task.fits(plan.budget_bytes) else fitting_changes(task, plan),
        }
        for task in plan.cells
    ]
    content = {
        "device": _device_json(plan.device),
        "budget_bytes": plan.budget_bytes,
        "fits": not plan.too_large,
        "cells": cells,
    }
    return json.dumps(content, indent=1)


def _device_json(device: Device) -> dict[str, Any]:
    return {
        "kind": device.kind,
        "name": device.name,
        "named_by": device.named_by,
        "total_bytes": device.total_bytes,
        "bf16": device.bf16,
        "compute_capability": list(device.capability),
    }


def step_json(answer: StepPlan) -> str:
    """The plan of one step as JSON."""
    content = {
        "what": answer.what,
        "device": _device_json(answer.device),
        "dtypes": dtypes(answer.step),
        "peak_allocated_bytes": answer.memory.peak_allocated_bytes,
        "peak_reserved_bytes": answer.memory.peak_reserved_bytes,
        "context_bytes": answer.memory.context_bytes,
        "max_micro_batch_size": answer.max_micro_batch_size,
        "budget_bytes": answer.budget_bytes,
        "terms": {term.name: term.size_bytes for term in answer.memory.terms},
        "fits": answer.fits,
        "advice": list(answer.advice),
    }
    return json.dumps(content, indent=1)
