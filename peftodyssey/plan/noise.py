"""Which bases are shifted and scored on which texts, and along which cells' updates. Called by `plan.build`. No torch.

One task a base and text, and one a cell and text; texts are the recipe's general ones and each domain's test part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from peftodyssey.errors import InputError
from peftodyssey.memory.search import base_only, scoring_batch
from peftodyssey.methods.weight_updates import is_additive
from peftodyssey.plan.tasks import BaseModelKey, CellTask, IndexTask, NoiseTask, ScoreTask
from peftodyssey.recipe import identity
from peftodyssey.recipe.cell import Cell
from peftodyssey.recipe.schema_measures import Noise
from peftodyssey.store import layout

# What of the options changes the numbers of a base's task, and of an update's.
OF_BASE = ("gammas", "pairs", "scale", "ranks", "tensors", "quantisers", "sharpness", "documents")
OF_UPDATE = ("gammas", "scale", "tensors", "documents")
TextsOf = Callable[[Cell], Sequence[tuple[str, IndexTask]]]  # the texts by name


def planned(
    noise: Noise | None, cells: tuple[CellTask, ...], texts_of: TextsOf, budget_bytes: int
) -> tuple[tuple[NoiseTask, ...], tuple[CellTask, ...]]:
    """The tasks of the bases, each once, and the cells with those of their updates; none where noise is not measured."""
    if noise is None:
        return (), cells
    earliest = _earliest(cells) if noise.scale == "earliest_rung" else {}
    bases: dict[str, NoiseTask] = {}
    with_updates = []
    for cell in cells:
        key = replace(cell.base, quant=None)
        rung = earliest.get(key.source.name)
        texts = texts_of(cell.cell)
        made = [_task(noise, cell, key, rung, name, index, budget_bytes, along=False) for name, index in texts]
        for task in made:
            bases.setdefault(task.score.folder, task)
        if noise.updates and cell.train_index and is_additive(cell.cell.method):
            along = tuple(_task(noise, cell, key, rung, name, index, budget_bytes, along=True) for name, index in texts)
            entry = {**cell.entry, "updates": [task.entry for task in along]}
            cell = replace(cell, update_noise=along, entry=entry)
        with_updates.append(cell)
    return tuple(bases.values()), tuple(with_updates)


def _earliest(cells: Sequence[CellTask]) -> dict[str, BaseModelKey]:
    """The rung of each model that has seen the fewest tokens. Raises InputError where tokens are not known."""
    found: dict[str, BaseModelKey] = {}
    for key in (replace(cell.base, quant=None) for cell in cells):
        if key.source.pretrain_tokens is None:
            raise InputError(
                f"noise: the tokens that {key.source.name} ({key.source.revision}) was pretrained on are not known, so no rung is the earliest",
                "set scale of noise to initializer or fan_in",
            )
        held = found.setdefault(key.source.name, key)
        if key.source.pretrain_tokens < (held.source.pretrain_tokens or 0):
            found[key.source.name] = key
    return found


def _task(
    noise: Noise,
    cell: CellTask,
    key: BaseModelKey,
    earliest: BaseModelKey | None,
    name: str,
    index: IndexTask,
    budget_bytes: int,
    *,
    along: bool,
) -> NoiseTask:
    point = cell.cell.score
    told: dict[str, Any] = {
        "index": index.identity,
        "model": key.source.fingerprint,
        "precision": key.precision,
        "cell": cell.hash if along else None,
        "earliest": earliest.source.fingerprint if earliest else None,
        "context": point.context,
        "stride": point.stride,
        "first_token": point.first_token,
        "mode": point.mode,
        "noise": {option: _plain(getattr(noise, option)) for option in (OF_UPDATE if along else OF_BASE)},
    }
    base = layout.slug(key.source.name.rsplit("/", 1)[-1], key.source.revision)
    who = (cell.folder.split("/", 1)[1], name) if along else (name, base)
    folder = f"{layout.NOISE}/{layout.folder_name(layout.slug(*who), identity.digest(told))}"
    tokens, _ = scoring_batch(cell.shape, base_only(cell.step, None), point.context, budget_bytes)
    score = ScoreTask(folder, index.folder, key, point, cell.hash if along else None, told, tokens)
    entry = {
        "folder": folder,
        "corpus": name,
        "scale": noise.scale,
        "tensors": ",".join(noise.tensors),
        **_coordinates(cell, along),
    }
    return NoiseTask(score, noise, earliest, entry)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _coordinates(cell: CellTask, along: bool) -> dict[str, Any]:
    """What the tables say of the base, and of the cell where one's update is followed."""
    of_base = ("model", "revision", "pretrain_tokens", "arm")
    of_cell = ("label", "method", "rank", "lr", "domain", "seed")
    found = cell.entry["coordinates"]
    return {name: found[name] for name in (*of_base, *(of_cell if along else ()))} | (
        {"cell": cell.short_hash} if along else {}
    )
