"""Which cells of a plan train together, and which alone and why, in a few lines. `check` and `plan` print them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from peftodyssey.plan import probe_results
from peftodyssey.plan.multi_lora_groups import group_cells, why_not_batched
from peftodyssey.plan.probe_results import MultiLoraProbeResult
from peftodyssey.plan.tasks import Plan

EVEN = 0.05  # a fleet that is faster or slower by no more neither pays nor costs


def side_by_side(plan: Plan) -> Iterator[str]:
    """A line of the fleets, and one of LoRA cells that train alone; nothing where no two cells could share a base."""
    groups = group_cells(plan, plan.cells)
    if groups:
        sizes = Counter((len(group), group[0].cell.method.method) for group in groups)
        told = ", ".join(
            f"{many} {'multi_lora' if many == 1 else 'fleets'} of {size} {method} cells"
            for (size, method), many in sizes.items()
        )
        yield (
            f"side by side over one base: {told} (train.multi_lora: off trains them one by one; the results are "
            f"the same)"
        )
        yield from map(pays, probe_results.multi_lora_results(plan))
    sailing = {task.folder for group in groups for task in group}
    reasons = {
        task.cell.method.label: why_not_batched(task)
        for task in plan.cells
        if task.folder not in sailing and task.cell.method.method in ("lora", "qlora") and why_not_batched(task)
    }
    if reasons:
        yield "alone: " + "; ".join(f"{label} ({why})" for label, why in reasons.items())


def pays(tried: MultiLoraProbeResult) -> str:
    """Whether a fleet that was tried on this machine pays, and by how much."""
    if tried.probe is None:
        return f"a fleet cannot be done here: {tried.reason}"
    joint, ratio = tried.probe.step_seconds[-1], tried.speedup
    told = f"{tried.probe.what}: a joint step takes {joint:.3g} s"
    if ratio is None:
        return told
    verdict = (
        "the fleet pays"
        if ratio > 1 + EVEN
        else "train.multi_lora: off is faster here"
        if ratio < 1 - EVEN
        else "neither is faster"
    )
    return (
        f"{told}, their own steps one after the other {tried.separate_seconds:.3g} s; {verdict} ({ratio:.2f} "
        f"times as fast)"
    )
