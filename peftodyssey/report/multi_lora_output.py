"""Which cells of a plan train together, and which alone and why, in a few lines. `check` and `plan` print them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from peftodyssey.plan import probe_results
from peftodyssey.plan.multi_lora_groups import group_cells, left_over, why_not_batched
from peftodyssey.plan.probe_results import MultiLoraProbeResult
from peftodyssey.plan.tasks import Plan

EQUAL_SPEED = 0.05  # speeds that differ by no more than this share are called equal


def group_lines(plan: Plan) -> Iterator[str]:
    """A line of the groups, and one of LoRA cells that train alone; nothing where no two cells share a base."""
    groups = group_cells(plan, plan.cells)
    if groups:
        sizes = Counter((len(group), group[0].cell.method.method) for group in groups)
        listed = ", ".join(
            f"{count} {'group' if count == 1 else 'groups'} of {size} {method} cells"
            for (size, method), count in sizes.items()
        )
        alone = left_over(plan.cells, groups)
        labels = ", ".join(dict.fromkeys(task.cell.method.label for task in alone))
        rest = f"; {len(alone)} more train{'s' * (len(alone) == 1)} alone ({labels})" if alone else ""
        yield (
            f"multi-LoRA: {listed} train together{rest} "
            "(train.multi_lora: off trains them one by one, with equal results)"
        )
        yield from map(speed_line, probe_results.multi_lora_results(plan))
    together = {task.folder for group in groups for task in group}
    reasons = {
        task.cell.method.label: why_not_batched(task)
        for task in plan.cells
        if task.folder not in together and task.cell.method.method in ("lora", "qlora") and why_not_batched(task)
    }
    if reasons:
        yield "trained alone: " + "; ".join(f"{label} ({why})" for label, why in reasons.items())


def speed_line(result: MultiLoraProbeResult) -> str:
    """How fast a group that was probed on this machine trains beside its members alone."""
    if result.probe is None:
        return f"multi-LoRA cannot be used here: {result.reason}"
    joint, ratio = result.probe.steady_seconds, result.speedup
    measured = f"{result.probe.what}: a joint step takes {joint:.3g} s"
    if ratio is None:
        return measured
    verdict = (
        "multi-LoRA is faster"
        if ratio > 1 + EQUAL_SPEED
        else "train.multi_lora: off is faster"
        if ratio < 1 - EQUAL_SPEED
        else "neither is faster"
    )
    return (
        f"{measured}, the members one by one {result.separate_seconds:.3g} s; {verdict} ({ratio:.2f} times the speed)"
    )
