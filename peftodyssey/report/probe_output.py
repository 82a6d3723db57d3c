"""What a probe found, as `plan --probe` prints it: planned against measured line by line, and the hours of the grid."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from peftodyssey.display.durations import format_seconds
from peftodyssey.plan.tasks import Plan
from peftodyssey.plan.time_estimate import estimate_time
from peftodyssey.report.console_output import size
from peftodyssey.report.multi_lora_output import speed_line

if TYPE_CHECKING:
    from peftodyssey.plan.probe_results import MultiLoraProbeResult, ProbeResult

LINES = {  # of a probe: the terms of the plan that it is held against
    "weights": ("weights",),
    "adapters": ("adapters",),
    "optimiser states": ("optimiser states",),
    "passing": (
        "weight copies",
        "gradients",
        "batch",
        "activations",
        "attention mask",
        "logits and loss",
        "update buffers",
        "workspace",
    ),
}


def tables(
    plan: Plan, tried: Sequence[ProbeResult], multi_lora_groups: Sequence[MultiLoraProbeResult]
) -> Iterator[Any]:
    """One table a shape, then what failed, whether multi-LoRA is faster, and the time of the whole grid."""
    for one in tried:
        yield from [_failed(one)] if one.probe is None else _one(one)
    yield from map(speed_line, multi_lora_groups)
    yield time_of(plan)


def _failed(one: ProbeResult) -> str:
    return f"{one.task.cell.model.name}, {one.task.cell.method.label}: {one.cells} cells would fail: {one.reason}"


def _one(one: ProbeResult) -> Iterator[Any]:
    probe = one.probe
    assert probe is not None
    yield Text(f"{probe.what}{' (known)' if one.cached else ''}", style="bold")
    table = Table(box=None, pad_edge=False)
    for column in ("", "planned", "measured", "off"):
        table.add_column(column, justify="left" if not column else "right")
    for line, planned, measured in lines(one):
        off = f"{planned / measured - 1:+.1%}" if measured else ""
        table.add_row(line, size(planned), size(measured), off)
    seconds = ", ".join(f"{value:.3g}" for value in probe.step_seconds)
    yield table
    yield (
        f"steps {seconds or '-'} s; scoring {probe.scored_tokens_per_second:,.0f} tokens/s; "
        f"load {probe.load_seconds:.1f} s; "
        f"saved {size(probe.saved_bytes)} in {probe.save_seconds:.1f} s and read back"
    )


def lines(one: ProbeResult) -> list[tuple[str, int, int]]:
    """(line, planned bytes, measured bytes) of a shape, the sums last; resident memory has no lines, only a sum."""
    assert one.probe is not None
    memory = one.task.memory
    if one.task.step.device == "cpu":
        return [("peak resident", memory.peak_reserved_bytes, one.probe.peak_reserved_bytes)]
    terms = {term.name: term.size_bytes for term in memory.terms}
    found = [
        (line, sum(terms.get(name, 0) for name in names), one.probe.measured[line]) for line, names in LINES.items()
    ]
    found.append(("peak allocated", memory.peak_allocated_bytes, one.probe.peak_allocated_bytes))
    found.append(("peak reserved", memory.peak_reserved_bytes, one.probe.peak_reserved_bytes))
    return found


def time_of(plan: Plan) -> str:
    """The time of the grid with its band, or why it is not known."""
    found = estimate_time(plan)
    if found.seconds is None or found.low_seconds is None or found.high_seconds is None:
        unknown = f"{found.unknown_cells} of {len(plan.cells)} cells"
        return f"time: unknown for {unknown} on this device; `peftodyssey plan RECIPE --probe` measures it"
    low, high = format_seconds(found.low_seconds), format_seconds(found.high_seconds)
    return f"time: {format_seconds(found.seconds)} for the whole grid ({low} to {high})"


def as_json(plan: Plan, tried: Sequence[ProbeResult], multi_lora_groups: Sequence[MultiLoraProbeResult]) -> str:
    """The probes and the time as JSON."""
    shapes = [
        {
            "cell": one.task.short_hash,
            "cells": one.cells,
            "failed": one.reason,
            "cached": one.cached,
            "lines": {
                line: {"planned_bytes": planned, "measured_bytes": measured} for line, planned, measured in lines(one)
            }
            if one.probe
            else {},
            "probe": asdict(one.probe) if one.probe else None,
        }
        for one in tried
    ]
    together = [{**asdict(one), "speedup": one.speedup} for one in multi_lora_groups]
    return json.dumps({"shapes": shapes, "multi_lora": together, "time": asdict(estimate_time(plan))}, indent=1)
