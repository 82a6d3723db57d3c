"""What the command line prints of ladders: their rungs, and the plan of a ladder to be trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from peftodyssey.models.ladder import Ladder
    from peftodyssey.plan.ladder import LadderPlan

STATE_BYTES = 12  # a parameter's weight and AdamW's two means, in a checkpoint


def ladder(found: Ladder) -> Iterator[Any]:
    """Rungs with tokens, tokens per parameter, the learning rate that is known of each, and arm; then what is odd."""
    parameters = found.parameters()
    table = _table("rung", "tokens", "per parameter", "learning rate", "arm")
    for rung in found.rungs:
        share = "-" if rung.tokens is None or not parameters else f"{rung.tokens / parameters:,.1f}"
        rate = "-" if rung.learning_rate is None else f"{rung.learning_rate:.3g}"
        table.add_row(
            rung.name, "not known" if rung.tokens is None else f"{rung.tokens:,}", share, rate, rung.arm or "-"
        )
    yield table
    known = "parameters not known" if not parameters else f"{parameters:,} parameters"
    yield Text(f"{found.name}: {len(found.rungs)} rungs, {known}")
    yield from (Text(f"note: {remark}") for remark in found.notes)


def plan(asked: LadderPlan) -> Iterator[Any]:
    """The rungs that a ladder will have, what they cost in steps, its memory and disk, and every warning."""
    train = asked.recipe.train
    yield Text(
        f"{asked.recipe.where}: valid, a ladder of {len(asked.rungs)} rungs on {asked.device.name}, "
        f"{asked.parameters:,} parameters"
    )
    table = _table("rung", "tokens", "steps", "per parameter", "trained for it alone")
    for phase in sorted(asked.rungs, key=lambda phase: (phase.stop, phase.arm)):
        tokens = phase.stop * train.batch_tokens
        own = f"{phase.steps:,} steps" if phase.arm == "annealed" else "-"
        table.add_row(phase.rung, f"{tokens:,}", f"{phase.stop:,}", f"{tokens / asked.parameters:,.1f}", own)
    yield table
    tokens = asked.trained_steps * train.batch_tokens
    compiled = ", compiled" if asked.compiled else ""
    yield Text(
        f"in all {asked.trained_steps:,} steps, {tokens:,} tokens; {asked.precision}{compiled}, "
        f"{asked.micro_batch_size} blocks a pass"
    )
    width = {"bf16": 2, "fp32": 4}[asked.recipe.rungs.save_as]
    disk = asked.parameters * (width * (len(asked.rungs) + 1) + 4 * STATE_BYTES)
    yield Text(f"disk: up to {disk / (1 << 20):,.0f} MiB of rungs and checkpoints, and the text as tokens")
    yield from (Text(f"warning: {warning}") for warning in asked.warnings)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
