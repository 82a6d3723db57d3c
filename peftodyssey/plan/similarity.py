"""Whose chunks are read by which bases, where likeness to the pretraining text is measured. Called by `plan.build`. No
torch.

One task for each unquantised base and text: the test part of every domain, and the pretraining sample in two halves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from peftodyssey.corpora.source import text_group
from peftodyssey.errors import InputError
from peftodyssey.model_shape import ModelShape
from peftodyssey.plan.tasks import BaseModelKey, CellTask, HiddenStatesTask, IndexTask
from peftodyssey.recipe import identity
from peftodyssey.recipe.schema_measures import Similarity
from peftodyssey.store import layout


def planned(
    asked: Similarity | None, cells: tuple[CellTask, ...], indexes: Mapping[str, IndexTask]
) -> tuple[tuple[HiddenStatesTask, ...], tuple[CellTask, ...]]:
    """The tasks, each once, and the cells with the folders of theirs in what the plan file says of them."""
    if asked is None:
        return (), cells
    found: dict[str, HiddenStatesTask] = {}
    told = []
    for cell in cells:
        key = replace(cell.base, quant=None)
        folders = {"index": cell.entry["scores"]["test"]["index"], "reference_index": cell.entry["sample_index"]}
        text, sample = (
            _task(asked, key, cell.shape, indexes[folder], halves=name == "reference_index")
            for name, folder in folders.items()
        )
        found |= {text.folder: text, sample.folder: sample}
        said = {
            "text": text.folder,
            "reference": sample.folder,
            "layer": asked.layer,
            "chunks": asked.chunks,
            "chunk_tokens": asked.chunk_tokens,
            "group": text_group(cell.cell.domain),
        }
        told.append(replace(cell, entry={**cell.entry, "similarity": folders | said}))
    return tuple(found.values()), tuple(told)


def problems(asked: Similarity, anatomy: ModelShape, name: str) -> list[InputError]:
    """What is wrong where a model has no such layer, or cannot hold a chunk."""
    wrong = []
    if not -anatomy.layers - 1 <= asked.layer <= anatomy.layers:
        wrong.append(
            InputError(
                f"similarity: {name} has {anatomy.layers} decoder layers, and no layer {asked.layer}",
                "use -1 for the last",
            )
        )
    if asked.chunk_tokens >= anatomy.positions:
        what = f"similarity.chunk_tokens is {asked.chunk_tokens:,}, and {name} has {anatomy.positions:,} positions, one of them for its start token"
        wrong.append(InputError(what, "use 64"))
    return wrong


def _task(
    asked: Similarity, key: BaseModelKey, anatomy: ModelShape, index: IndexTask, *, halves: bool
) -> HiddenStatesTask:
    layer = -1 if asked.layer % (anatomy.layers + 1) == anatomy.layers else asked.layer % (anatomy.layers + 1)
    told: dict[str, Any] = {
        "index": index.identity,
        "model": key.source.fingerprint,
        "precision": key.precision,
        "layer": layer,
        "chunks": asked.chunks,
        "chunk_tokens": asked.chunk_tokens,
        "halves": halves,
    }
    name = layout.slug(index.corpus.name, index.split, key.source.name.rsplit("/", 1)[-1], key.source.revision)
    folder = f"{layout.STATES}/{layout.folder_name(name, identity.digest(told))}"
    return HiddenStatesTask(folder, index.folder, key, layer, asked.chunks, asked.chunk_tokens, halves, told)
