"""Which cells of a plan train together, and which alone and why, in a few lines. `check` and `plan` print them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from peftodyssey.plan.fleets import fleets, why_alone
from peftodyssey.plan.graph import Plan


def side_by_side(plan: Plan) -> Iterator[str]:
    """A line of the fleets, and one of LoRA cells that train alone; nothing where no two cells could share a base."""
    groups = fleets(plan, plan.cells)
    if groups:
        sizes = Counter((len(group), group[0].cell.method.method) for group in groups)
        told = ", ".join(f"{many} {'fleet' if many == 1 else 'fleets'} of {size} {method} cells" for (size, method), many in sizes.items())
        yield f"side by side over one base: {told} (train.fleet: off trains them one by one; the results are the same)"
    sailing = {task.folder for group in groups for task in group}
    reasons = {
        task.cell.method.label: why_alone(task)
        for task in plan.cells
        if task.folder not in sailing and task.cell.method.method in ("lora", "qlora") and why_alone(task)
    }
    if reasons:
        yield "alone: " + "; ".join(f"{label} ({why})" for label, why in reasons.items())
