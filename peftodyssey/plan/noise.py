"""Which base models are scored with noise on which texts, and along which cells' updates. No torch.

One task per base model and text, and one per cell and text; texts are the general ones and each domain's test split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftodyssey.errors import InputError
from peftodyssey.memory.search import base_only, scoring_batch
from peftodyssey.methods.weight_updates import is_additive
from peftodyssey.plan.tasks import BaseModelKey, CellTask, IndexTask, NoiseTask, ScoreTask
from peftodyssey.recipe import identity
from peftodyssey.recipe.cell import Cell
from peftodyssey.recipe.schema_measures import Noise
from peftodyssey.store import layout

# The options that change the numbers of a base model's task, and those of an update's.
BASE_OPTIONS = ("gammas", "pairs", "scale", "ranks", "tensors", "quantisers", "sharpness", "documents")
UPDATE_OPTIONS = ("gammas", "scale", "tensors", "documents")
BASE_COORDINATES = ("model", "revision", "pretrain_tokens", "arm")
CELL_COORDINATES = ("label", "method", "rank", "lr", "domain", "seed")


def planned(
    noise: Noise | None,
    cells: tuple[CellTask, ...],
    texts_of: Callable[[Cell], Sequence[tuple[str, IndexTask]]],
    budget_bytes: int,
) -> tuple[tuple[NoiseTask, ...], tuple[CellTask, ...]]:
    """The tasks of the base models, each once, and the cells with those of their updates.

    None, and the cells as they are, where noise is not measured. `texts_of` gives the texts of a cell by name.
    """
    if noise is None:
        return (), cells
    planner = _Planner(noise, _earliest(cells) if noise.scale == "earliest_rung" else {}, budget_bytes)
    base_tasks: dict[str, NoiseTask] = {}
    with_updates = []
    for cell in cells:
        texts = texts_of(cell.cell)
        for name, index in texts:
            task = planner.task(cell, name, index, along_update=False)
            base_tasks.setdefault(task.folder, task)
        if noise.updates and cell.train_index and is_additive(cell.cell.method):
            tasks = tuple(planner.task(cell, name, index, along_update=True) for name, index in texts)
            cell = replace(cell, update_noise=tasks, entry={**cell.entry, "updates": [task.entry for task in tasks]})
        with_updates.append(cell)
    return tuple(base_tasks.values()), tuple(with_updates)


def _earliest(cells: Sequence[CellTask]) -> dict[str, BaseModelKey]:
    """The rung of each model that has seen the fewest tokens. Raises InputError where tokens are not known."""
    earliest: dict[str, BaseModelKey] = {}
    for key in (replace(cell.base, quant=None) for cell in cells):
        source = key.source
        if source.pretrain_tokens is None:
            raise InputError(
                f"noise: how many tokens {source.name} ({source.revision}) was pretrained on is not known, so no rung "
                "is the earliest",
                "set scale of noise to initializer or fan_in",
            )
        known = earliest.setdefault(source.name, key)
        if source.pretrain_tokens < (known.source.pretrain_tokens or 0):
            earliest[source.name] = key
    return earliest


@dataclass(frozen=True)
class _Planner:
    noise: Noise
    earliest: Mapping[str, BaseModelKey]  # by model name; empty where the scale is not that of the earliest rung
    budget_bytes: int

    def task(self, cell: CellTask, name: str, index: IndexTask, *, along_update: bool) -> NoiseTask:
        """Noise of the cell's base model on one text, or shifts along the cell's update."""
        key, noise, settings = replace(cell.base, quant=None), self.noise, cell.cell.score
        earliest = self.earliest.get(key.source.name)
        options = UPDATE_OPTIONS if along_update else BASE_OPTIONS
        cell_hash = cell.hash if along_update else None
        facts: dict[str, Any] = {
            "index": index.identity,
            "model": key.source.fingerprint,
            "precision": key.precision,
            "cell": cell_hash,
            "earliest": earliest.source.fingerprint if earliest else None,
            "context": settings.context,
            "stride": settings.stride,
            "first_token": settings.first_token,
            "mode": settings.mode,
            "noise": {option: _plain(getattr(noise, option)) for option in options},
        }
        base = layout.slug(key.source.name.rsplit("/", 1)[-1], key.source.revision)
        slug = layout.slug(cell.folder.split("/", 1)[1], name) if along_update else layout.slug(name, base)
        folder = f"{layout.NOISE}/{layout.folder_name(slug, identity.digest(facts))}"
        tokens, _ = scoring_batch(cell.shape, base_only(cell.step, None), settings.context, self.budget_bytes)
        score = ScoreTask(folder, index.folder, key, settings, cell_hash, facts, tokens)
        coordinates = cell.entry["coordinates"]
        entry = {
            "folder": folder,
            "corpus": name,
            "scale": noise.scale,
            "tensors": ",".join(noise.tensors),
            **{field: coordinates[field] for field in BASE_COORDINATES},
        }
        if along_update:
            entry |= {field: coordinates[field] for field in CELL_COORDINATES} | {"cell": cell.short_hash}
        return NoiseTask(score, noise, earliest, entry)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
