"""Job: likelihoods of a task's choices under one model, as it stands in memory, committed as a column of their own."""

from __future__ import annotations

from peftodyssey.corpora.multiple_choice import questions, requests
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import Handle
from peftodyssey.measures.multiple_choice.likelihoods import score_choices
from peftodyssey.measures.multiple_choice.plan import Prompts
from peftodyssey.measures.multiple_choice.table import CHOICES, CHOICES_FILE
from peftodyssey.plan.tasks import MeasureTask
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.store import manifest, parquet


def run(task: MeasureTask, handle: Handle, context: JobContext) -> None:
    """Writes `choices.parquet` of `task`: a row for every choice of every prompt, in the task's order."""
    prompts: Prompts = task.options
    tokenizer = handle.tokenizer
    model = handle.adapted().model if task.cell else handle.base()
    examples = questions(prompts.questions)
    name = prompts.questions.spec.name
    options = context.options
    scores = score_choices(
        model,
        [request for example in examples for request in requests(example, tokenizer.backend)],
        ScoreSettings(options.device, prompts.batch_tokens, options.resident_bytes, precision=task.base.precision),
        prefix=tokenizer.prefix_id if prompts.with_prefix else None,
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
    parquet.write_rows(folder / CHOICES_FILE, rows, CHOICES)
    facts = {"task": name, "examples": len(examples), "choices": len(rows), **scores.facts}
    manifest.commit(folder, {"kind": "choices", "identity": task.identity, "status": "done", "facts": facts})
