"""Tasks in words, as the screen names them: texts, methods and learning rates, and not the names of folders."""

from __future__ import annotations

from collections.abc import Mapping

from peftodyssey.display.result_text import format_lr
from peftodyssey.plan.tasks import CellTask, MeasureTask, Plan, ScoreTask


def task_names(plan: Plan) -> Mapping[str, str]:
    """Every task of the plan in words, by folder; cells with their columns aligned below each other."""
    indexes = {task.folder: f"{task.corpus.name} ({task.split})" for task in plan.indexes}
    several = len({task.cell.model for task in plan.cells}) > 1
    names = {folder: f"tokenise {text}" for folder, text in indexes.items()}
    for score in plan.base_scores:
        names[score.folder] = f"score {_base(score)} on {indexes.get(score.index, 'a text')}"
    for measure in plan.measures:
        names[measure.folder] = f"measure {measure.measure} of {_base(measure)}"
    return names | _cell_names(plan.cells, several)


def _base(task: ScoreTask | MeasureTask | CellTask, quantised: bool = True) -> str:
    """The base of a task: the last part of its name, its revision and, with `quantised`, its quantisation."""
    source, quant = task.base.source, task.base.quant if quantised else None
    revision = f" @ {source.revision}" if source.revision else ""
    return f"{source.name.rsplit('/', 1)[-1]}{revision}" + (f" in {quant.kind}" if quant else "")


def _cell_names(cells: tuple[CellTask, ...], several_bases: bool) -> dict[str, str]:
    """Text, method, learning rate, and seed, budget and base where they vary."""
    several_seeds = len({task.cell.seed for task in cells}) > 1
    several_budgets = len({task.cell.train.budget for task in cells}) > 1
    rows: dict[str, list[str]] = {}
    for task in cells:
        method, newline = task.cell.method, task.cell.domain.newline
        row = [
            task.cell.domain.display_name if newline == "keep" else f"{task.cell.domain.name}, {newline}",
            method.label,
        ]
        row.append("" if method.lr is None else f"lr {format_lr(method.lr)}")
        row += [f"seed {task.cell.seed}"] * several_seeds + [task.cell.train.budget] * several_budgets
        row += [_base(task, quantised=False)] * several_bases
        rows[task.folder] = row
    widths = [max(len(row[column]) for row in rows.values()) for column in range(len(next(iter(rows.values()), [])))]
    return {
        folder: "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for folder, row in rows.items()
    }
