"""How long the trainings of a plan are: tokens of text, steps and epochs of each dataset, before anything runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from peftodyssey.display.counts import format_count
from peftodyssey.plan.tasks import CellTask, IndexTask, Plan
from peftodyssey.plan.time_estimate import training_steps
from peftodyssey.report.sample_size import MOST_BYTES

if TYPE_CHECKING:
    from peftodyssey.models.tokenizer import TextTokenizer


def lengths(plan: Plan) -> tuple[list[str], list[str]]:
    """A line for each dataset and tokenizer: its training split and what a training takes of it; and warnings.

    The tokens are an estimate, of text that is on this computer and small; steps alone where they are not known.
    """
    from peftodyssey.models.tokenizer import load_tokenizer

    indexes = {index.folder: index for index in plan.indexes}
    tokenizers: dict[str, TextTokenizer] = {}
    first = {task.train_index: task for task in reversed(plan.cells) if task.train_index}
    for task in plan.cells:  # of several budgets the largest is shown
        if task.train_index and _steps(plan, task) > _steps(plan, first[task.train_index]):
            first[task.train_index] = task
    several = len({indexes[folder].tokenizer_source.name for folder in first}) > 1
    lines, warnings = [], []
    for folder, task in reversed(first.items()):
        index, source = indexes[folder], indexes[folder].tokenizer_source
        if source.name not in tokenizers:
            tokenizers[source.name] = load_tokenizer(source)
        tokens, seq_len = _train_tokens(index, tokenizers[source.name]), task.cell.train.seq_len
        name = task.cell.domain.display_name + (f" ({source.name})" if several else "")
        if line := _line(task, tokens):
            lines.append(f"{name}: {line}")
        if tokens is not None and tokens < seq_len:
            warnings.append(
                f"{name}, train: about {tokens:,} tokens, less than one sequence of {seq_len:,}; "
                "add text, or set train.seq_len lower"
            )
    return lines, warnings


def budgets(plan: Plan) -> list[str]:
    """A line about several budgets: what they are, and how many steps are trained where they share stems."""
    trained = [task for task in plan.cells if task.train_index]
    names = dict.fromkeys(task.cell.train.budget for task in trained)
    if len(names) < 2:
        return []
    steps = sum(_steps(plan, task) for task in trained)
    shared = sum(round(_steps(plan, task) * task.stem.shared) for task in trained if task.stem)
    ways = (
        f"their stems are trained once: {steps - shared:,} steps in all, {steps:,} without"
        if shared
        else (f"each is trained from its start: {steps:,} steps in all")
    )
    return [f"budgets: {', '.join(names)}; {ways}"]


def _steps(plan: Plan, task: CellTask) -> int:
    return training_steps(plan.indexes, task)


def _train_tokens(index: IndexTask, tokenizer: TextTokenizer) -> int | None:
    """Estimated tokens of a training split; None where reading it would take long."""
    from peftodyssey.corpora.documents import documents
    from peftodyssey.corpora.index import estimate_token_counts

    size = index.corpus.bytes_on_disk
    if size is None or size > MOST_BYTES:
        return None
    read = documents(index.corpus, index.split, index.chat)
    return sum(estimate_token_counts(read, tokenizer, index.max_tokens, index.newline))


def _line(task: CellTask, tokens: int | None) -> str:
    """`about N tokens of text, M steps, K epochs`, as far as it is known."""
    train = task.cell.train
    if train.budget_steps is not None:
        steps: int | None = train.budget_steps
    elif train.budget_tokens is not None:
        steps = math.ceil(train.budget_tokens / train.batch_tokens)
    elif tokens is not None and train.budget_epochs is not None:
        sequences = train.budget_epochs * (tokens // train.seq_len)
        steps = math.ceil(sequences / (train.batch_tokens // train.seq_len))
    else:
        steps = None
    parts = [f"about {format_count(tokens)} tokens of text"] if tokens is not None else []
    epochs: float | None = train.budget_epochs
    if steps is not None:
        steps = max(1, steps)
        parts.append(_counted(f"{steps:,}", "step"))
        epochs = steps * train.batch_tokens / tokens if epochs is None and tokens else epochs
    if epochs is not None:
        parts.append(_counted(f"{epochs:.2g}", "epoch"))
    return ", ".join(parts)


def _counted(number: str, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != '1')}"
