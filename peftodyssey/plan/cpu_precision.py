"""What `precision: auto` is on a CPU: what the folder of a run says, else what was measured, else fp32."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from peftodyssey.memory import cpu_bf16
from peftodyssey.memory.device import Device
from peftodyssey.plan.tasks import Plan
from peftodyssey.store import layout


def of_run(device: Device, root: Path) -> Device:
    """The device as a run below `root` uses it: on a CPU a begun run keeps its precision, whatever was measured since.

    Precision is part of a cell's identity, so another one would train every cell again.
    """
    recorded = recorded_precision(root) if device.kind == "cpu" else None
    return replace(device, bf16=recorded == "bf16") if recorded else device


def recorded_precision(root: Path) -> str | None:
    """What `precision: auto` was on the CPU on which the run below `root` was begun; None where none was."""
    try:
        text = (root / layout.RESOLVED).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    asked, _, cells = text.partition("\ncells:")
    if not re.search(r"^device: cpu$", asked, re.MULTILINE) or not re.search(
        r"^ +precision: auto$", asked, re.MULTILINE
    ):
        return None
    found = re.search(r"^  precision: (fp32|bf16)$", cells, re.MULTILINE)
    return found[1] if found else None


def must_be_measured(plan: Plan, root: Path) -> bool:
    """Whether a run below `root` has to measure bf16 first."""
    is_open = plan.device.kind == "cpu" and plan.recipe.train.precision == "auto" and recorded_precision(root) is None
    return is_open and cpu_bf16.has_instructions() and cpu_bf16.read() is None


def line(plan: Plan, root: Path) -> str | None:
    """The precision of a run on a CPU and why, as a line; None on a GPU and where the recipe names it."""
    if plan.device.kind != "cpu" or plan.recipe.train.precision != "auto":
        return None
    precision, measured = "bf16" if plan.device.bf16 else "fp32", cpu_bf16.read()
    if recorded_precision(root):
        why = "as this run was begun"
    elif not cpu_bf16.has_instructions():
        why = "this processor has no instructions for bf16, as far as it can be told"
    elif measured is None:
        why = "whether bf16 is faster on this processor was not measured; `run` and `doctor` measure it"
    else:
        why = f"a training step in bf16 is {measured.speedup:.2f} times as fast as in fp32 on this processor"
    return f"precision: {precision} ({why})"
