"""Job: one text under a cell's base and under the cell, and at a small share of its update both ways."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from peftodyssey.jobs import score
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import Handle
from peftodyssey.jobs.index import opened
from peftodyssey.measures.divergence.plan import DivergenceJob
from peftodyssey.methods import wise_ft
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.without_update import without_update
from peftodyssey.plan.tasks import MeasureTask
from peftodyssey.scoring.divergence import divergence
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.store import manifest


def run(task: MeasureTask, handle: Handle, context: JobContext) -> None:
    """Commits the means over tokens of a text. Interrupted where the user stops."""
    job: DivergenceJob = task.options
    attached, options = handle.adapted(), context.options
    index, prefix = opened(context.root / job.score.index), handle.tokenizer.prefix_id
    settings = ScoreSettings(
        options.device, job.score.batch_tokens, options.resident_bytes, precision=task.base.precision
    )
    found = divergence(
        attached.model,
        partial(without_update, attached),
        index,
        job.score.settings,
        settings,
        prefix=prefix,
        on_progress=context.scoring_progress(task.folder, "comparing with the base"),
    )
    facts: dict[str, Any] = {
        "kl_nats": float(np.nanmean(found.kl_nats, dtype=np.float64)),
        "changed": float(np.nanmean(found.changed, dtype=np.float64)),
        "tokens": int((~np.isnan(found.kl_nats)).sum()),
    }
    if job.share is not None:
        facts |= _slope_and_curvature(job, job.share, attached, prefix, context)
    folder = manifest.prepare_dir(context.root / task.folder)
    manifest.commit(folder, {"kind": "divergence", "identity": task.identity, "status": "done", "facts": facts})


def _slope_and_curvature(
    job: DivergenceJob, share: float, attached: AttachedMethod, prefix: int | None, context: JobContext
) -> dict[str, float]:
    """Both terms of the loss to second order in the whole update, by central differences."""
    with wise_ft.scaled_update(attached) as set_share:

        def loss(part: float) -> float:
            set_share(part)
            return score.mean_nats(score.scored(job.score, attached.model, prefix, context).nll_nats)

        back, base, forth = loss(-share), loss(0.0), loss(share)
    return {"slope": (forth - back) / (2 * share), "curvature": (forth - 2 * base + back) / (2 * share**2)}
