"""What the command line prints: checks, status, scores. Imports no torch and no chart library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from peftodyssey.display.counts import format_count
from peftodyssey.display.result_text import format_lr
from peftodyssey.plan import cpu_precision, host_and_disk
from peftodyssey.plan.tasks import CellTask, Plan
from peftodyssey.plan.text_overlap import overlap_lines
from peftodyssey.report import sample_size
from peftodyssey.report.multi_lora_output import group_lines
from peftodyssey.report.search_output import search_lines
from peftodyssey.report.training_length import budgets, lengths

GRID_ROWS = 60
STEP_LEGEND = "step: sequences x tokens of each; by N: micro-batches of N sequences"


def check(plan: Plan, root: Path) -> Iterator[Any]:
    """The grid with memory per cell, the host memory and disk that a run below `root` will take, and every warning."""
    budget = f"{size(plan.budget_bytes)} budget"
    yield f"{plan.recipe.where}: valid, {len(plan.cells)} cells on {plan.device.name} ({budget})"
    yield from _grids(plan.cells)
    yield STEP_LEGEND
    lines, short = lengths(plan)
    yield from map(Text, (*lines, *budgets(plan)))
    yield from group_lines(plan)
    yield from map(Text, search_lines(plan))
    if precision := cpu_precision.line(plan, root):
        yield Text(precision)
    yield _host(plan)
    yield _disk(plan)
    yield from map(Text, plan.notes)
    yield from map(Text, overlap_lines(plan))
    yield from map(Text, _answers(plan))
    yield from map(Text, _control_tokens(plan))
    for warning in (*(str(problem) for problem in plan.recipe.warnings), *plan.warnings):
        yield Text(f"warning: {warning}")
    yield from (Text(f"warning: {warning}") for warning in (*short, *sample_size.too_small(plan)))
    for task in plan.too_large:
        needed = size(max(task.memory.device_bytes, task.scoring_bytes))
        yield Text(f"does not fit: {task.cell.domain.display_name}, {task.cell.method.label}: {needed}")
    for problem in host_and_disk.problems(plan, root):
        yield Text(f"does not fit: {problem}")


def _grids(cells: Sequence[CellTask]) -> Iterator[Table]:
    """One table a base: a row per text and method, with its learning rates and seeds."""
    for (model, revision), on_base in groupby(cells, key=lambda t: (t.cell.model.name, t.cell.model.revision)):
        table = plain_table("text", "method", "lr", "seeds", "trainable", "step", "memory")
        table.title, table.title_justify = model_words(model, revision), "left"
        rows: dict[tuple[str, str], list[CellTask]] = {}
        for task in on_base:
            rows.setdefault((task.cell.domain.display_name, task.cell.method.label), []).append(task)
        for (text, method), tasks in list(rows.items())[:GRID_ROWS]:
            table.add_row(text, method, *_row(tasks))
        if len(rows) > GRID_ROWS:
            table.caption = f"and {len(rows) - GRID_ROWS} rows more"
        yield table


def _row(tasks: Sequence[CellTask]) -> tuple[str, ...]:
    rates = dict.fromkeys("-" if t.cell.method.lr is None else format_lr(t.cell.method.lr) for t in tasks)
    seeds = dict.fromkeys(str(task.cell.seed) for task in tasks)
    first = tasks[0]
    blocks = f"{first.cell.train.batch_tokens // first.step.seq_len}x{first.step.seq_len}"
    parts = (
        ""
        if first.step.micro_batch_size * first.step.seq_len == first.cell.train.batch_tokens
        else f" by {first.step.micro_batch_size}"
    )
    largest = max(task.memory.device_bytes for task in tasks)
    return " ".join(rates), " ".join(seeds), format_count(first.trainable), blocks + parts, size(largest)


def model_words(name: str, revision: str | None) -> str:
    return f"{name} @ {revision}" if revision else name


def _host(plan: Plan) -> str:
    """Host memory of the cell that takes most."""
    found = host_and_disk.largest_host_plan(plan)
    terms = ", ".join(f"{size(term.size_bytes)} {term.name}" for term in found.terms if term.size_bytes >= 1 << 20)
    free = plan.device.host_free_bytes
    return f"host memory: {size(found.peak_bytes)} ({terms})" + ("" if free is None else f", {size(free)} free")


def _disk(plan: Plan) -> str:
    """Downloads, and the most that is written."""
    disk = host_and_disk.disk_plan(plan)
    terms = ", ".join(f"{size(term.size_bytes)} {term.name}" for term in disk.terms if term.size_bytes >= 1 << 20)
    return f"disk: {size(disk.download_bytes)} to download, up to {size(disk.output_bytes)} written" + (
        f" ({terms})" if terms else ""
    )


def documents(plan: Plan, count: int) -> Iterator[Text]:
    """The first documents of every domain as tokens: boundaries marked, trained tokens coloured, prompts dimmed."""
    if not count:
        return
    from peftodyssey.corpora.tokenizer_checks import preview
    from peftodyssey.models.tokenizer import load_tokenizer

    shown = set()
    for task in plan.cells:
        if task.cell.domain.display_name in shown:
            continue
        shown.add(task.cell.domain.display_name)
        index = next(index for index in plan.indexes if index.folder == task.valid_index)
        corpus = replace(index.corpus, spec=task.cell.domain)  # one source may be read under several newline policies
        tokenizer = load_tokenizer(task.base.source)
        for place, pieces in enumerate(preview(corpus, tokenizer, count, task.cell.train.objective, chat=index.chat)):
            yield Text(f"{task.cell.domain.display_name}, document {place + 1}:", style="bold")
            yield _coloured(pieces)


def _answers(plan: Plan) -> Iterator[str]:
    """What is learnt of every text with answers."""
    from peftodyssey.corpora.tokenizer_checks import answers
    from peftodyssey.models.tokenizer import load_tokenizer

    first = {(t.cell.domain.display_name, t.cell.model.name): t for t in reversed(plan.cells) if t.cell.train.too_long}
    for task in reversed(first.values()):
        index = next(index for index in plan.indexes if index.folder == task.valid_index)
        corpus, train = replace(index.corpus, spec=task.cell.domain), task.cell.train
        yield answers(corpus, load_tokenizer(task.base.source), train.seq_len, str(train.too_long), index.chat)


def _control_tokens(plan: Plan) -> Iterator[str]:
    """How many places of every text spell a control token, and how they are read."""
    from peftodyssey.corpora.control_tokens import control_token_note
    from peftodyssey.models.tokenizer import load_tokenizer

    first = {(t.cell.domain.name, t.cell.model.name): t for t in reversed(plan.cells)}
    for task in reversed(first.values()):
        index = next(index for index in plan.indexes if index.folder == task.valid_index)
        if note := control_token_note(index.corpus, load_tokenizer(task.base.source).backend):
            yield note


def _coloured(pieces: Sequence[tuple[str, bool]]) -> Text:
    text = Text()
    for place, (piece, trained) in enumerate(pieces):
        style = ("black on green" if place % 2 else "black on bright_green") if trained else "dim"
        text.append(piece.replace("\n", "⏎\n"), style=style)
    return text


def status(cells: Sequence[Any]) -> Iterator[Text]:
    """How many cells are in each state, then one line per cell: its state, its name, a remark."""
    counts = {
        state: sum(cell.state == state for cell in cells)
        for state in ("done", "damaged", "failed", "stopped", "started", "pending")
    }
    yield Text(", ".join(f"{count} {state}" for state, count in counts.items() if count))
    for cell in cells:
        yield Text(f"{cell.state:<8} {cell.folder.split('/', 1)[1]}" + (f"  {cell.remark}" if cell.remark else ""))


def scored(answer: Any) -> Iterator[Any]:
    """Before and after of a text, one line an adapter."""
    yield f"{answer.corpus}: {answer.tokens:,} tokens of {answer.documents:,} documents, context {answer.context}"
    table = plain_table("model", "nats/token", "perplexity", "bits/byte", "change", "95 % interval")
    for row in answer.rows:
        table.add_row(
            Text(_last(row.name, answer.rows)),
            f"{row.nll_nats:.5f}",
            f"{row.perplexity:.3f}",
            f"{row.bits_per_byte:.4f}",
            "" if row.delta is None else f"{row.delta:+.5f}",
            row.interval,
        )
    yield table


def _last(name: str, rows: Sequence[Any]) -> str:
    """The last part of a name where that tells it from the others."""
    last = name.rstrip("/").rsplit("/", 1)[-1]
    return last if sum(row.name.rstrip("/").endswith(last) for row in rows) == 1 else name


def plain_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def size(count: int | float) -> str:
    """Bytes as people read them: 512 MiB, 4.6 GiB."""
    for unit, width in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if abs(count) >= 1 << width:
            return f"{count / (1 << width):.2f} {unit}" if unit == "GiB" else f"{count / (1 << width):.0f} {unit}"
    return f"{count:.0f} B"
