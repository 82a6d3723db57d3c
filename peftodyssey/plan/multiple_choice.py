"""The tasks of a recipe as work: which bases and cells answer which prompts, and where it lands. Called by
`plan.build`.

A task is scored beside the texts: what it is made of is in the identity of its own columns, never in a cell's.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from peftodyssey.corpora.multiple_choice import Questions, resolve
from peftodyssey.plan import names
from peftodyssey.plan.tasks import BaseModelKey, ChoiceTask
from peftodyssey.recipe import identity
from peftodyssey.recipe.cell import Cell, TaskSpec
from peftodyssey.store import layout


@dataclass
class Tasks:
    """The tasks that were found, and what the bases do of them."""

    found: dict[TaskSpec, Questions] = field(default_factory=dict)
    base_choices: dict[str, ChoiceTask] = field(default_factory=dict)

    def find(self, point: TaskSpec) -> None:
        """Look for a task. Raises CorpusError where it is not there or cannot be read."""
        self.found[point] = resolve(point)

    def of_cell(
        self, cell: Cell, base: BaseModelKey, tokenizer: str, digest: str, tokens: tuple[int | None, int | None]
    ) -> tuple[tuple[ChoiceTask, ...], dict[str, Any]]:
        """What `cell` answers after adaptation, and what its line of the plan file says of its tasks (nothing without
        one).

        `tokenizer` is a fingerprint; `tokens` of one pass, alone and beside what was trained.
        """
        after: list[ChoiceTask] = []
        lines: list[dict[str, Any]] = []
        for task in (self.found[point] for point in cell.tasks):
            plain = self._base(task, replace(base, quant=None), cell, tokenizer, tokens[0])
            quantised = self._base(task, base, cell, tokenizer, tokens[0]) if base.quant else None
            after.append(_choices(task, base, cell, tokenizer, digest, cell.method.label, tokens[1]))
            line = {
                "name": task.spec.name,
                "before": plain.folder,
                "quantised": quantised and quantised.folder,
                "after": after[-1].folder,
            }
            lines.append(line)
        return tuple(after), {"tasks": lines} if lines else {}

    def _base(self, task: Questions, base: BaseModelKey, cell: Cell, tokenizer: str, tokens: int | None) -> ChoiceTask:
        made = _choices(task, base, cell, tokenizer, None, base.quant.kind if base.quant else "base", tokens)
        return self.base_choices.setdefault(made.folder, made)


def _choices(
    task: Questions, base: BaseModelKey, cell: Cell, tokenizer: str, digest: str | None, label: str, tokens: int | None
) -> ChoiceTask:
    told = {
        "task": task.fingerprint,
        "examples": task.spec.examples,
        "tokenizer": tokenizer,
        "model": base.source.fingerprint,
        "precision": base.precision,
        "quant": [base.quant.kind, base.quant.double_quant] if base.quant else None,
        "cell": digest,
        "first_token": cell.score.first_token,
    }
    name = layout.slug(task.spec.name, "task", names.model(cell.model), label)
    folder = f"{layout.SCORES}/{layout.folder_name(name, identity.digest(told))}"
    return ChoiceTask(folder, task, base, cell.score.first_token == "bos", digest, told, tokens)
