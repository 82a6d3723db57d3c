"""Job: likelihoods of a task's choices under one model, as it stands in memory, committed as a column of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey.corpora.multiple_choice import questions, requests
from peftodyssey.errors import Interrupted
from peftodyssey.jobs.callbacks import Events, How
from peftodyssey.models.tokenizer import TextTokenizer
from peftodyssey.plan.tasks import ChoiceTask
from peftodyssey.scoring.choices import score_choices
from peftodyssey.store import layout, manifest, parquet, tables

if TYPE_CHECKING:
    from torch import nn


def column(task: ChoiceTask, root: Path, model: nn.Module, tokenizer: TextTokenizer, how: How, events: Events) -> None:
    """Write `choices.parquet` of `task`: a row for every choice of every prompt, in the task's order."""
    asked = questions(task.task)
    made = [requests(question, tokenizer.backend) for question in asked]
    name = task.task.spec.name

    def progress(done: int, total: int) -> None:
        events.scored(name, done, total)
        if events.should_stop():
            raise Interrupted("stopped while scoring a task", "start the same command again, it goes on from here")

    found = score_choices(
        model,
        [request for of_one in made for request in of_one],
        prefix=tokenizer.prefix_id if task.with_prefix else None,
        device=how.device,
        batch_tokens=task.batch_tokens,
        budget_bytes=how.resident_bytes,
        precision=task.base.precision,
        on_progress=progress,
    )
    places = [(number, choice) for number, question in enumerate(asked) for choice in range(len(question.choices))]
    rows = [
        {
            "example": number,
            "choice": choice,
            "loglik_nats": float(nats),
            "tokens": int(tokens),
            "bytes": asked[number].choice_bytes[choice],
            "is_answer": choice == asked[number].answer,
        }
        for (number, choice), nats, tokens in zip(places, found.loglik_nats, found.tokens, strict=True)
    ]
    folder = manifest.prepare_dir(root / task.folder)
    parquet.write_rows(folder / layout.CHOICES, rows, tables.CHOICES)
    facts = {"task": name, "examples": len(asked), "choices": len(rows), **found.facts}
    manifest.commit(folder, {"kind": "choices", "identity": task.identity, "status": "done", "facts": facts})
