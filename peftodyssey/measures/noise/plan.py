"""Which base models are scored with noise on which texts, and along which cells' updates. No torch.

One task per base model and text, and one per cell and text; texts are the general ones and each domain's test split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftodyssey.errors import InputError
from peftodyssey.measures.noise.spec import Noise
from peftodyssey.memory.search import base_only, scoring_batch
from peftodyssey.memory.step_spec import BYTES
from peftodyssey.methods.mmap_copy import MAPPED_COPY_BYTES
from peftodyssey.methods.weight_updates import is_additive
from peftodyssey.plan.host_and_disk import CUDA_RUNTIME_BYTES
from peftodyssey.plan.measure import CellMeasure, MeasurePlan, PlanContext
from peftodyssey.plan.tasks import BaseModelKey, CellTask, IndexTask, MeasureTask, ScoreTask
from peftodyssey.plan.text_tasks import scored_tokens
from peftodyssey.recipe import identity
from peftodyssey.recipe.cell import Cell
from peftodyssey.store import layout

FOLDER = "noise"
# The options that change the numbers of a base model's task, and those of an update's.
BASE_OPTIONS = ("gammas", "pairs", "scale", "ranks", "tensors", "quantisers", "sharpness", "documents")
UPDATE_OPTIONS = ("gammas", "scale", "tensors", "documents")
BASE_COORDINATES = ("model", "revision", "pretrain_tokens", "arm")
CELL_COORDINATES = ("label", "method", "rank", "lr", "domain", "seed")
SEARCH_PASSES = 10  # over a text, to find a critical step
GRADIENT_PASSES = 3  # a gradient takes as long as this many passes


@dataclass(frozen=True)
class NoiseJob:
    """What a task has to know beside its base model."""

    noise: Noise
    score: ScoreTask  # how the text is scored with each change of the weights; no column is written
    earliest: BaseModelKey | None  # the rung whose weights are the scale of the noise


def plan(noise: Noise, context: PlanContext) -> MeasurePlan:
    """The tasks of the base models, each once, and those of the cells' updates."""
    earliest = _earliest(context.cells) if noise.scale == "earliest_rung" else {}
    planner = _Planner(noise, earliest, context)
    base_tasks: dict[str, MeasureTask] = {}
    entries: dict[str, dict[str, Any]] = {}
    by_cell: dict[str, CellMeasure] = {}
    for cell in context.cells:
        texts = _texts(context, cell.cell)
        own = [planner.task(cell, name, index, along_update=False) for name, index in texts]
        for task, entry in own:
            known = base_tasks.setdefault(task.folder, task)
            needed = max(known.host_bytes, task.host_bytes, key=lambda terms: sum(terms.values()))
            base_tasks[task.folder] = replace(known, host_bytes=needed)
            entries.setdefault(task.folder, entry)
        updates = []
        if noise.updates and is_additive(cell.cell.method):
            updates = [planner.task(cell, name, index, along_update=True) for name, index in texts]
        reads = (folder for task, _ in own for folder in (*task.needs, task.folder))
        by_cell[cell.folder] = CellMeasure(
            tasks=tuple(task for task, _ in updates),
            reads=tuple(dict.fromkeys(reads)),
            entry=[entry for _, entry in updates] or None,
        )
    return MeasurePlan(tuple(base_tasks.values()), by_cell, list(entries.values()))


def _texts(context: PlanContext, cell: Cell) -> list[tuple[str, IndexTask]]:
    """The texts that the cell's base is scored on with noise: general ones, and the test split of its domain."""
    texts = [*context.texts.general_indexes(cell), (cell.domain, context.texts.test_index(cell, cell.domain))]
    return [(spec.display_name, index) for spec, index in texts]


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
    context: PlanContext

    def task(
        self, cell: CellTask, name: str, index: IndexTask, *, along_update: bool
    ) -> tuple[MeasureTask, dict[str, Any]]:
        """Noise of the cell's base model on one text, or shifts along the cell's update, and its entry in the plan."""
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
        folder = f"{FOLDER}/{layout.folder_name(slug, identity.digest(facts))}"
        step = base_only(cell.step, None)
        tokens, _ = scoring_batch(cell.shape, step, settings.context, self.context.budget_bytes)
        score = ScoreTask(folder, index.folder, key, settings, cell_hash, facts, tokens)
        task = MeasureTask(
            measure="noise",
            folder=folder,
            identity=facts,
            options=NoiseJob(noise, score, earliest),
            base=key,
            cell=cell_hash,
            needs=(index.folder,),
            on="update" if along_update else "base",
            scored_tokens=_scored_tokens(noise, score),
            host_bytes=_host_bytes(noise, cell, self.context.device.kind, along_update),
        )
        return task, {**_entry(noise, cell, task, name), "index": index.folder}


def _entry(noise: Noise, cell: CellTask, task: MeasureTask, text_name: str) -> dict[str, Any]:
    coordinates = cell.entry["coordinates"]
    entry = {
        "folder": task.folder,
        "corpus": text_name,
        "scale": noise.scale,
        "tensors": ",".join(noise.tensors),
        **{field: coordinates[field] for field in BASE_COORDINATES},
    }
    if task.cell is not None:
        entry |= {field: coordinates[field] for field in CELL_COORDINATES} | {"cell": cell.short_hash}
    return entry


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _scored_tokens(noise: Noise, score: ScoreTask) -> int:
    """Tokens scored while the weights of one base model are shifted, by noise or along one update."""
    if score.cell:
        passes = 1 + len(noise.gammas) + SEARCH_PASSES
    else:
        ranks = 1 + len({rank for rank in noise.ranks if rank})
        passes = 1 + 2 * noise.pairs * len(noise.gammas) * ranks + len(noise.quantisers)
        passes += (SEARCH_PASSES + GRADIENT_PASSES) * noise.sharpness
    first_windows = noise.documents * score.settings.context
    return passes * min(first_windows, scored_tokens(score.settings.tokens))


def _host_bytes(noise: Noise, cell: CellTask, device: str, along_update: bool) -> dict[str, int]:
    """Host memory by term: the copy that restores the base's weights, and the update or gradient that they follow."""
    base_bytes = BYTES[cell.base.precision] * cell.shape.parameters
    kept = {"weights to restore": base_bytes if base_bytes <= MAPPED_COPY_BYTES else 0}
    kept["update or gradient"] = 4 * cell.shape.parameters if along_update or noise.sharpness else 0
    if device == "cuda":
        return {"runtime": CUDA_RUNTIME_BYTES, **kept}
    gradient = 4 * cell.shape.parameters if noise.sharpness and not along_update else 0
    return {"base": base_bytes, "scoring": cell.scoring_bytes, **kept, "gradient of a batch": gradient}
