"""Measures this CPU's speed in bf16 where a run or `doctor` needs it, and keeps it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peftodyssey.errors import OdysseyError
from peftodyssey.memory import cpu_bf16
from peftodyssey.memory.device import Device, detect
from peftodyssey.models.source import ModelSource, resolve
from peftodyssey.plan import cpu_precision
from peftodyssey.plan.tasks import Plan

MODEL = "bundled/odyssey-3m"  # whose shapes `doctor` measures


def plan_in_precision(build: Callable[[Device], Plan], device: Device, root: Path, measure: bool) -> Plan:
    """The plan of a run below `root`, in the precision that `auto` is there.

    With `measure`, where that is open, this CPU's speed in bf16 is measured with the shapes of the plan's first model.
    """
    planned = build(cpu_precision.of_run(device, root))
    if not measure or not cpu_precision.must_be_measured(planned, root):
        return planned
    task = planned.cells[0]
    return build(detect("cpu")) if _measure(task.base.source, task.shape.parameters) else planned


def doctor_line() -> str:
    """What is known of bf16 on this CPU, measured where it is not known yet."""
    if not cpu_bf16.has_instructions():
        return "bf16           this CPU has no instructions for it, as far as it can be told: precision auto is fp32"
    if cpu_bf16.read() is None:
        _measure(resolve(MODEL), 0)
    measured = cpu_bf16.read()
    if measured is None:
        return "bf16           could not be measured: precision auto is fp32"
    auto = "bf16" if measured.is_fast else "fp32"
    return (
        f"bf16           a training step is {measured.speedup:.2f} times as fast as in fp32: precision auto is {auto}"
    )


def _measure(source: ModelSource, parameters: int) -> bool:
    from peftodyssey.jobs.measure_cpu_bf16 import measure
    from peftodyssey.models.log_filters import quiet

    try:
        with quiet():
            cpu_bf16.keep(measure(source, parameters))
    except (OdysseyError, RuntimeError):  # a model that cannot be trained is told so when it is
        return False
    return True
