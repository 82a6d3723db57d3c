"""Which chunks of text are read by which base models, where similarity to the pretraining text is measured. No torch.

One task per unquantised base model and text: the test split of every domain, and the pretraining sample in two halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peftodyssey.corpora.source import text_group
from peftodyssey.errors import InputError
from peftodyssey.model_shape import ModelShape
from peftodyssey.plan.tasks import CellTask, HiddenStatesTask, IndexTask
from peftodyssey.recipe import identity
from peftodyssey.recipe.schema_measures import Similarity
from peftodyssey.store import layout


def planned(
    settings: Similarity | None, cells: tuple[CellTask, ...], indexes: Mapping[str, IndexTask]
) -> tuple[tuple[HiddenStatesTask, ...], tuple[CellTask, ...]]:
    """The tasks, each once, and the cells with the folders of their tasks in the plan file."""
    if settings is None:
        return (), cells
    tasks: dict[str, HiddenStatesTask] = {}
    with_entries = []
    for cell in cells:
        text_index, sample_index = cell.entry["scores"]["test"]["index"], cell.entry["sample_index"]
        text = _task(settings, cell, indexes[text_index], halves=False)
        sample = _task(settings, cell, indexes[sample_index], halves=True)
        tasks |= {text.folder: text, sample.folder: sample}
        entry = {
            "index": text_index,
            "reference_index": sample_index,
            "text": text.folder,
            "reference": sample.folder,
            "layer": settings.layer,
            "chunks": settings.chunks,
            "chunk_tokens": settings.chunk_tokens,
            "group": text_group(cell.cell.domain),
        }
        with_entries.append(replace(cell, entry={**cell.entry, "similarity": entry}))
    return tuple(tasks.values()), tuple(with_entries)


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


def _task(settings: Similarity, cell: CellTask, index: IndexTask, *, halves: bool) -> HiddenStatesTask:
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
    folder = f"{layout.STATES}/{layout.folder_name(name, identity.digest(facts))}"
    return HiddenStatesTask(
        folder=folder,
        index=index.folder,
        base=key,
        layer=facts["layer"],
        chunks=settings.chunks,
        chunk_tokens=settings.chunk_tokens,
        halves=halves,
        identity=facts,
    )
