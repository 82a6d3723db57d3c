"""Job: likelihoods of a task's choices under one model, as it stands in memory, committed as a column of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.corpora.multiple_choice import questions, requests
from peftodyssey.jobs.context import JobContext
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import ChoiceTask
from peftodyssey.scoring.choices import score_choices
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.store import layout, manifest, parquet, tables

if TYPE_CHECKING:
    from torch import nn


def score_and_write(task: ChoiceTask, model: nn.Module, tokenizer: TextTokenizer, context: JobContext) -> None:
    """Writes `choices.parquet` of `task`: a row for every choice of every prompt, in the task's order."""
    examples = questions(task.task)
    name = task.task.spec.name
    options = context.options
    scores = score_choices(
        model,
        [request for example in examples for request in requests(example, tokenizer.backend)],
        ScoreSettings(options.device, task.batch_tokens, options.resident_bytes, precision=task.base.precision),
        prefix=tokenizer.prefix_id if task.with_prefix else None,
        on_progress=context.scoring_progress(name, "scoring a task"),
    )
    choices = [(number, choice) for number, example in enumerate(examples) for choice in range(len(example.choices))]
    rows = [
        {
            "example": number,
            "choice": choice,
            "loglik_nats": float(nats),
            "tokens": int(tokens),
            "bytes": examples[number].choice_bytes[choice],
            "is_answer": choice == examples[number].answer,
        }
        for (number, choice), nats, tokens in zip(choices, scores.loglik_nats, scores.tokens, strict=True)
    ]
    folder = manifest.prepare_dir(context.root / task.folder)
    parquet.write_rows(folder / layout.CHOICES, rows, tables.CHOICES)
    facts = {"task": name, "examples": len(examples), "choices": len(rows), **scores.facts}
    manifest.commit(folder, {"kind": "choices", "identity": task.identity, "status": "done", "facts": facts})
