"""The learning curve of a cell: held-out NLL at the shares of `eval_at`, kept on disk so that a resume has them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.jobs import score
from peftodyssey.jobs.context import JobContext
from peftodyssey.plan.tasks import CellTask, ScoreTask
from peftodyssey.store import atomic, layout, manifest, parquet, tables
from peftodyssey.training.settings import TrainResult

if TYPE_CHECKING:
    from torch import nn

LEARNING_CURVES = "learning_curves.parquet"
EVALS_FILE = "evals.json"  # inside the checkpoint folder, which outlives an interruption


class EvalCallback:
    """The `on_eval` callback of a training: scores validation and general text and writes the result at once."""

    def __init__(self, task: CellTask, model: nn.Module, prefix: int | None, context: JobContext) -> None:
        self.task, self.model, self.prefix, self.context = task, model, prefix, context
        self.path = context.root / task.folder / layout.CHECKPOINT / EVALS_FILE

    def __call__(self, index: int, step: int, tokens: int) -> None:
        """Scores the model after `step` steps and `tokens` trained tokens; `index` counts the evaluations from 0."""
        evals = {key: rows for key, rows in read_evals(self.path).items() if int(key) < step}
        evals[str(step)] = [self._score(column, index, step, tokens) for column in eval_columns(self.task)]
        atomic.write_text(self.path, json.dumps(evals))

    def _score(self, column: ScoreTask, index: int, step: int, tokens: int) -> dict[str, Any]:
        result = score.scored(column, self.model, self.prefix, self.context)
        mean = score.mean_nats(result.nll_nats)
        name, split = name_and_split(self.context.root, column)
        share = sorted(share for share in self.task.cell.train.eval_at if share < 1)[index]
        self.context.callbacks.evaluated(share, f"{name} {split}", mean)
        scored = {"nll_nats": mean, "tokens": int((result.rank > 0).sum())}
        return _row(self.task, tokens, step) | {"corpus": name, "split": split, **scored}


def eval_columns(task: CellTask) -> list[ScoreTask]:
    """The columns that every evaluation scores: validation and general text, never test."""
    indexes = {task.valid_index, *task.general_indexes}
    return [column for column in task.scores if column.index in indexes]


def write(folder: Path, task: CellTask, root: Path, result: TrainResult | None) -> None:
    """Writes `learning_curves.parquet` of a cell: its evaluations, and its end from the finished columns."""
    tokens, step = (result.tokens, result.steps) if result else (0, 0)
    evals = read_evals(folder / layout.CHECKPOINT / EVALS_FILE)
    earlier = sorted(int(at) for at in evals if int(at) < step)  # an early stop goes back to an earlier step
    rows = [row for at in earlier for row in evals[str(at)]]
    for column in task.scores:
        facts = (manifest.read(root / column.folder) or {})["facts"]
        name, split = name_and_split(root, column)
        scored = {"nll_nats": facts["nll_nats_mean"], "tokens": facts["tokens"]}
        rows.append(_row(task, tokens, step) | {"corpus": name, "split": split, **scored})
    parquet.write_rows(folder / LEARNING_CURVES, rows, tables.LEARNING_CURVES)


def read_evals(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows of the evaluations so far, by step."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def validation(root: Path, task: CellTask) -> list[float]:
    """Mean validation NLL of a cell's evaluations so far, nats per token, by step; a finished cell's end included."""
    folder = root / task.folder
    if manifest.read(folder) is not None:
        rows = parquet.read(folder / LEARNING_CURVES).to_pylist()
    else:
        rows = [row for rows in read_evals(folder / layout.CHECKPOINT / EVALS_FILE).values() for row in rows]
    by_step = sorted((row["step"], row["nll_nats"]) for row in rows if row["split"] == "valid")
    return [nll_nats for _, nll_nats in by_step]


def name_and_split(root: Path, column: ScoreTask) -> tuple[str, str]:
    """The name and the split of the text that a column scores."""
    facts = (manifest.read(root / column.index) or {})["facts"]
    return facts["name"], facts["split"]


def _row(task: CellTask, tokens_seen: int, step: int) -> dict[str, Any]:
    return {"cell": task.short_hash, "tokens_seen": tokens_seen, "step": step}
