"""The tasks that score prompts with choices: which base models and cells answer which prompts.

What a set of prompts is made of is part of the identity of its own columns, never of a cell's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from peftodyssey.corpora.multiple_choice import Questions
from peftodyssey.memory.search import base_only, scoring_batch
from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext
from peftodyssey.plan.tasks import BaseModelKey, CellTask, MeasureTask
from peftodyssey.plan.text_tasks import model_slug
from peftodyssey.recipe import identity
from peftodyssey.store import layout


@dataclass(frozen=True)
class Prompts:
    """What a job has to know of one set of prompts."""

    questions: Questions
    with_prefix: bool  # every prompt starts with the start token
    batch_tokens: int | None  # of one pass, as the memory allows; None: the default of the device


def plan(options: object, context: PlanContext) -> MeasurePlan:
    """A task for each cell and set of prompts, and one for each base model, which cells share."""
    base_tasks: dict[str, MeasureTask] = {}
    by_cell = {cell.folder: _of_cell(cell, context, base_tasks) for cell in context.cells}
    return MeasurePlan(tuple(base_tasks.values()), by_cell)


def _of_cell(cell: CellTask, context: PlanContext, base_tasks: dict[str, MeasureTask]) -> CellMeasure:
    tasks, entries, required = [], [], []
    for spec in cell.cell.tasks:
        questions = context.sources.questions[spec]
        bases = [replace(cell.base, quant=None), *([cell.base] if cell.base.quant else [])]
        tokens, _ = scoring_batch(
            cell.shape, base_only(cell.step, cell.base.quant), cell.cell.score.context, context.budget_bytes
        )
        folders = []
        for base in bases:
            task = _task(cell, questions, base, None, tokens, context)
            folders.append(base_tasks.setdefault(task.folder, task).folder)
        after = _task(cell, questions, cell.base, cell.hash, cell.pass_tokens, context)
        after = replace(after, needs=tuple(folders))
        tasks.append(after)
        required += folders
        entries.append(
            {
                "name": questions.spec.name,
                "before": folders[0],
                "quantised": folders[1] if len(folders) > 1 else None,
                "after": after.folder,
            }
        )
    return CellMeasure(tasks=tuple(tasks), required=tuple(required), entry=entries)


def _task(
    cell: CellTask,
    questions: Questions,
    base: BaseModelKey,
    cell_hash: str | None,
    tokens: int | None,
    context: PlanContext,
) -> MeasureTask:
    """The task of a base model alone (`cell_hash` None) or of the cell; `tokens` of one pass."""
    spec = cell.cell
    facts: dict[str, Any] = {
        "task": questions.fingerprint,
        "examples": questions.spec.examples,
        "tokenizer": context.sources.tokenizers[spec.model].fingerprint,
        "model": base.source.fingerprint,
        "precision": base.precision,
        "quant": [base.quant.kind, base.quant.double_quant] if base.quant else None,
        "cell": cell_hash,
        "first_token": spec.score.first_token,
    }
    label = spec.method.label if cell_hash else (base.quant.kind if base.quant else "base")
    name = layout.slug(questions.spec.name, "task", model_slug(spec.model), label)
    folder = f"{layout.SCORES}/{layout.folder_name(name, identity.digest(facts))}"
    options = Prompts(questions, spec.score.first_token == "bos", tokens)
    return MeasureTask(
        "multiple_choice",
        folder,
        facts,
        options,
        base,
        cell_hash,
        on="adapted" if cell_hash else "base",
        retrain=True,
    )
