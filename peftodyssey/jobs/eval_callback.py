"""The learning path of a cell: held-out NLL at the points of `eval_at`, kept so that an interrupted run has them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.jobs import score
from peftodyssey.jobs.callbacks import Events, How
from peftodyssey.plan.tasks import CellTask, ScoreTask
from peftodyssey.store import atomic, layout, manifest, parquet, tables
from peftodyssey.training.settings import TrainResult

if TYPE_CHECKING:
    from torch import nn

LEARNING_CURVES = "learning_curves.parquet"
SO_FAR = "points.json"  # inside the checkpoint folder, which outlives an interruption


class EvalCallback:
    """Called by the loop at each point: scores validation and general text and writes what it found at once."""

    def __init__(
        self, task: CellTask, root: Path, model: nn.Module, prefix: int | None, how: How, events: Events
    ) -> None:
        self.task, self.root, self.model, self.prefix, self.how, self.events = task, root, model, prefix, how, events
        self.path = root / task.folder / layout.CHECKPOINT / SO_FAR

    def __call__(self, point: int, step: int, tokens: int) -> None:
        """Score the model as it stands after `step` steps and `tokens` trained tokens."""
        found = {key: rows for key, rows in read_so_far(self.path).items() if int(key) < step}
        found[str(step)] = [self._row(column, point, step, tokens) for column in eval_columns(self.task)]
        atomic.write_text(self.path, json.dumps(found))

    def _row(self, column: ScoreTask, point: int, step: int, tokens: int) -> dict[str, Any]:
        result = score.scored(column, self.root, self.model, self.prefix, self.how, self.events)
        mean = score.mean_nats(result.nll_nats)
        name, split = name_and_split(self.root, column)
        share = sorted(share for share in self.task.cell.train.eval_at if share < 1)[point]
        self.events.point(share, f"{name} {split}", mean)
        return _row(self.task, tokens, step, name, split, mean, int((result.rank > 0).sum()))


def eval_columns(task: CellTask) -> list[ScoreTask]:
    """The columns that are scored at every point: validation and general text, never test."""
    wanted = {task.valid_index, *task.general_indexes}
    return [column for column in task.scores if column.index in wanted]


def write(folder: Path, task: CellTask, root: Path, result: TrainResult | None) -> None:
    """`learning_curves.parquet` of a cell: what was recorded on the way, and its end from the finished columns."""
    recorded = read_so_far(folder / layout.CHECKPOINT / SO_FAR)
    tokens, step = (result.tokens, result.steps) if result else (0, 0)
    on_the_way = sorted((int(at), found) for at, found in recorded.items() if int(at) < step)  # an early stop goes back
    rows = [row for _, found in on_the_way for row in found]
    for column in task.scores:
        facts = (manifest.read(root / column.folder) or {})["facts"]
        name, split = name_and_split(root, column)
        rows.append(_row(task, tokens, step, name, split, facts["nll_nats_mean"], facts["tokens"]))
    parquet.write_rows(folder / LEARNING_CURVES, rows, tables.LEARNING_CURVES)


def read_so_far(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows recorded before an interruption, by step."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def validation(root: Path, task: CellTask) -> list[float]:
    """Mean NLL of validation at the points that a cell has passed, nats per token, in their order; its end is one of
    them.
    """
    folder = root / task.folder
    if manifest.read(folder) is not None:
        rows = parquet.read(folder / LEARNING_CURVES).to_pylist()
    else:
        rows = [row for found in read_so_far(folder / layout.CHECKPOINT / SO_FAR).values() for row in found]
    own = sorted((row["step"], row["nll_nats"]) for row in rows if row["split"] == "valid")
    return [nll_nats for _, nll_nats in own]


def name_and_split(root: Path, column: ScoreTask) -> tuple[str, str]:
    """The text and the split that a column scores, as its index says."""
    facts = (manifest.read(root / column.index) or {})["facts"]
    return facts["name"], facts["split"]


def _row(
    task: CellTask, tokens_seen: int, step: int, corpus: str, split: str, nll_nats: float, tokens: int
) -> dict[str, Any]:
    return {
        "cell": task.short_hash,
        "tokens_seen": tokens_seen,
        "step": step,
        "corpus": corpus,
        "split": split,
        "nll_nats": nll_nats,
        "tokens": tokens,
    }
