"""The tasks that score prompts with choices: which base models and cells answer which prompts.

What a set of prompts is made of is part of the identity of its own columns, never of a cell's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from peftodyssey.corpora.multiple_choice import Questions
from peftodyssey.memory.search import base_only, scoring_batch
from peftodyssey.plan.sources import Sources
from peftodyssey.plan.tasks import BaseModelKey, ChoiceTask
from peftodyssey.plan.text_tasks import TrainedCell, model_slug
from peftodyssey.recipe import identity
from peftodyssey.store import layout


@dataclass(frozen=True)
class ChoiceColumns:
    """One set of prompts, and the tasks that answer it before and after training."""

    name: str
    before: ChoiceTask
    quantised: ChoiceTask | None
    after: ChoiceTask

    @property
    def entry(self) -> dict[str, str | None]:
        """What the plan file says of it."""
        return {
            "name": self.name,
            "before": self.before.folder,
            "quantised": self.quantised.folder if self.quantised else None,
            "after": self.after.folder,
        }


class ChoiceTasks:
    """The choice tasks of a grid; those of base models are shared between cells."""

    def __init__(self, sources: Sources, budget_bytes: int) -> None:
        self.sources, self.budget_bytes = sources, budget_bytes
        self.base_choices: dict[str, ChoiceTask] = {}

    def columns(self, trained: TrainedCell) -> list[ChoiceColumns]:
        """What the cell and its base model answer of each set of prompts."""
        result = []
        for spec in trained.cell.tasks:
            questions = self.sources.questions[spec]
            before = self._base_choices(trained, questions, replace(trained.base, quant=None))
            quantised = self._base_choices(trained, questions, trained.base) if trained.base.quant else None
            after = self._task(trained, questions, trained.base, trained.hash, trained.pass_tokens)
            result.append(ChoiceColumns(questions.spec.name, before, quantised, after))
        return result

    def _base_choices(self, trained: TrainedCell, questions: Questions, base: BaseModelKey) -> ChoiceTask:
        cell, step = trained.cell, base_only(trained.step, trained.base.quant)
        tokens, _ = scoring_batch(self.sources.shapes[cell.model], step, cell.score.context, self.budget_bytes)
        task = self._task(trained, questions, base, None, tokens)
        return self.base_choices.setdefault(task.folder, task)

    def _task(
        self, trained: TrainedCell, questions: Questions, base: BaseModelKey, cell_hash: str | None, tokens: int | None
    ) -> ChoiceTask:
        """The task of a base model alone (`cell_hash` None) or of the cell; `tokens` of one pass."""
        cell = trained.cell
        facts = {
            "task": questions.fingerprint,
            "examples": questions.spec.examples,
            "tokenizer": self.sources.tokenizers[cell.model].fingerprint,
            "model": base.source.fingerprint,
            "precision": base.precision,
            "quant": [base.quant.kind, base.quant.double_quant] if base.quant else None,
            "cell": cell_hash,
            "first_token": cell.score.first_token,
        }
        label = cell.method.label if cell_hash else (base.quant.kind if base.quant else "base")
        name = layout.slug(questions.spec.name, "task", model_slug(cell.model), label)
        folder = f"{layout.SCORES}/{layout.folder_name(name, identity.digest(facts))}"
        return ChoiceTask(folder, questions, base, cell.score.first_token == "bos", cell_hash, facts, tokens)
