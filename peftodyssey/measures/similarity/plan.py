"""Which chunks of text are read by which base models, where similarity to the pretraining text is measured. No torch.

One task per unquantised base model and text: the test split of every domain, and the pretraining sample in two halves.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from peftodyssey.corpora.source import text_group
from peftodyssey.errors import InputError
from peftodyssey.measures.similarity.spec import Similarity
from peftodyssey.measures.similarity.table import STATES
from peftodyssey.model_shape import ModelShape
from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext
from peftodyssey.plan.tasks import CellTask, IndexTask, MeasureTask
from peftodyssey.plan.text_tasks import SAMPLE_TOKENS_CAP
from peftodyssey.recipe import identity
from peftodyssey.store import layout


@dataclass(frozen=True)
class Reading:
    """Which chunks are read: at most `chunks` of `chunk_tokens` tokens of an index, or of each half of it."""

    index: str  # folder below the output directory
    layer: int  # whose states are averaged: 0 the embeddings, -1 the last
    chunks: int
    chunk_tokens: int
    halves: bool  # whether the documents are divided at random, as those of the pretraining sample are


def plan(settings: Similarity, context: PlanContext) -> MeasurePlan:
    """The tasks, each once, and the folders that each cell's text is compared in; InputError if a base cannot do it."""
    shapes = context.sources.shapes.items()
    if errors := [error for model, shape in shapes for error in problems(settings, shape, model.name)]:
        raise _joined(errors)
    assert context.sample, "a recipe without pretraining text is refused when it is read"
    tasks: dict[str, MeasureTask] = {}
    by_cell = {}
    for cell in context.cells:
        text_index = context.texts.test_index(cell.cell, cell.cell.domain)
        sample_index = context.texts.index(cell.cell, context.sample, "all", SAMPLE_TOKENS_CAP)
        text, sample = _task(settings, cell, text_index, halves=False), _task(settings, cell, sample_index, halves=True)
        tasks |= {text.folder: text, sample.folder: sample}
        entry = {
            "index": text_index.folder,
            "reference_index": sample_index.folder,
            "text": text.folder,
            "reference": sample.folder,
            "layer": settings.layer,
            "chunks": settings.chunks,
            "chunk_tokens": settings.chunk_tokens,
            "group": text_group(cell.cell.domain),
        }
        by_cell[cell.folder] = CellMeasure(reads=(text.folder, sample.folder, sample_index.folder), entry=entry)
    return MeasurePlan(base_tasks=tuple(tasks.values()), by_cell=by_cell)


def problems(settings: Similarity, shape: ModelShape, name: str) -> list[InputError]:
    """What is wrong where a model has no such layer, or cannot hold a chunk."""
    errors = []
    if not -shape.layers - 1 <= settings.layer <= shape.layers:
        message = f"similarity: {name} has {shape.layers} decoder layers, and no layer {settings.layer}"
        errors.append(InputError(message, "use -1 for the last"))
    if settings.chunk_tokens >= shape.positions:
        message = (
            f"similarity.chunk_tokens is {settings.chunk_tokens:,}, and {name} has {shape.positions:,} positions, one "
            "of them for its start token"
        )
        errors.append(InputError(message, "use 64"))
    return errors


def _joined(errors: Iterable[InputError]) -> InputError:
    """All errors as one, each message and next step once."""
    messages, steps = (dict.fromkeys(texts) for texts in zip(*((e.message, e.next_step) for e in errors), strict=True))
    return InputError("; ".join(messages), "; ".join(steps))


def _task(settings: Similarity, cell: CellTask, index: IndexTask, *, halves: bool) -> MeasureTask:
    key, count = replace(cell.base, quant=None), cell.shape.layers
    layer = settings.layer % (count + 1)  # -1 is the last one, which both names mean
    facts: dict[str, Any] = {
        "index": index.identity,
        "model": key.source.fingerprint,
        "precision": key.precision,
        "layer": -1 if layer == count else layer,
        "chunks": settings.chunks,
        "chunk_tokens": settings.chunk_tokens,
        "halves": halves,
    }
    name = layout.slug(index.corpus.name, index.split, key.source.name.rsplit("/", 1)[-1], key.source.revision)
    return MeasureTask(
        measure="similarity",
        folder=f"{STATES}/{layout.folder_name(name, identity.digest(facts))}",
        identity=facts,
        options=Reading(index.folder, facts["layer"], settings.chunks, settings.chunk_tokens, halves),
        base=key,
        needs=(index.folder,),
        on="base",
    )
