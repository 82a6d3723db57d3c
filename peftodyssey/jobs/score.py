"""Job: score one model, as it stands in memory, on one index and commit the column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftodyssey.errors import Interrupted
from peftodyssey.jobs.callbacks import Events, How
from peftodyssey.jobs.index import opened
from peftodyssey.models import bin_conversion
from peftodyssey.plan.tasks import ScoreTask
from peftodyssey.scoring.nll import ScoreResult, mean_nats, score_adapters
from peftodyssey.store import manifest, parquet

if TYPE_CHECKING:
    from torch import nn

    from peftodyssey.corpora.index import Index


def score_and_write(
    task: ScoreTask, root: Path, model: nn.Module, prefix: int | None, how: How, events: Events
) -> None:
    """Write `nll.parquet` of `task`, row for row with its index."""
    commit(task, root, prefix, scored(task, root, model, prefix, how, events))


def commit(task: ScoreTask, root: Path, prefix: int | None, result: ScoreResult) -> None:
    """Write a column that is scored."""
    folder = manifest.prepare_dir(root / task.folder)
    parquet.write_nll(folder, result.nll_nats, result.rank)
    facts = {"nll_nats_mean": mean_nats(result.nll_nats), "prefix": prefix, **result.facts}
    if task.base.source.pickled:
        facts["base_weights"] = bin_conversion.CONVERSION_NOTE
    manifest.commit(folder, {"kind": "score", "identity": task.identity, "status": "done", "facts": facts})


def scored(task: ScoreTask, root: Path, model: nn.Module, prefix: int | None, how: How, events: Events) -> ScoreResult:
    """The column of `task`, not yet written; Interrupted where the user wants to stop."""
    return score_and_write_adapters(task, 1, root, model, prefix, how, events)[0]


def score_and_write_adapters(
    task: ScoreTask,
    members: int,
    root: Path,
    model: nn.Module,
    prefix: int | None,
    how: How,
    events: Events,
    part: Index | None = None,
) -> list[ScoreResult]:
    """What `scored` gives for each of `members` models in one; `task` is the column of any of them. `part`: in place of
    its index.
    """
    index = opened(root / task.index) if part is None else part
    name = Path(task.index).name

    def progress(done: int, total: int) -> None:
        events.scored(name, done, total)
        if events.should_stop():
            raise Interrupted("stopped while scoring", "start the same command again, it goes on from here")

    precision = task.base.precision
    results = score_adapters(
        model,
        members,
        index,
        task.settings,
        prefix=prefix,
        device=how.device,
        precision=precision,
        on_progress=progress,
        batch_tokens=task.batch_tokens,
        budget_bytes=how.resident_bytes,
    )
    if results[0].facts.get("out_of_memory"):
        went_on = f"{results[0].facts['batch_tokens']:,} tokens a pass"
        events.note(f"scoring {name}: the memory did not hold what was planned; it went on with {went_on}")
    return results if index.trained.all() else [answers_only(result, index.trained) for result in results]


def answers_only(result: ScoreResult, answer: np.ndarray) -> ScoreResult:
    """The column without its prompts, bool [rows] `answer` being False there: they are read, and not judged."""
    nll_nats, rank = np.where(answer, result.nll_nats, np.float32("nan")), np.where(answer, result.rank, np.int32(-1))
    return ScoreResult(nll_nats, rank, {**result.facts, "tokens": int((rank > 0).sum())})
