"""Job: one column under a share of a cell's update (WiSE-FT); the weights are put back afterwards."""

from __future__ import annotations

from peftodyssey.jobs import score
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import Handle
from peftodyssey.measures.wise_ft.plan import SharedUpdate
from peftodyssey.methods import wise_ft
from peftodyssey.plan.tasks import MeasureTask


def run(task: MeasureTask, handle: Handle, context: JobContext) -> None:
    """Scores the text with the share of the update in the weights and commits the column."""
    options: SharedUpdate = task.options
    attached = handle.adapted()
    with wise_ft.scaled_update(attached) as set_share:
        set_share(options.share)
        score.score_and_write(options.score, attached.model, handle.tokenizer.prefix_id, context)
