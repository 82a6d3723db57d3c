"""Job: how far one cell moved each weight of its base, as it stands in memory, in a folder of its own.

Called by `jobs.adapt` after training, and for a finished cell whose weights were kept. It does not enter a cell's
identity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.errors import Interrupted
from peftodyssey.jobs.callbacks import Events
from peftodyssey.methods import svd
from peftodyssey.methods.protocol import AttachedMethod
from peftodyssey.methods.weight_updates import WeightUpdate, base_norm, iter_updates
from peftodyssey.model_shape import ModelShape
from peftodyssey.plan.tasks import CellTask
from peftodyssey.stats import geometry
from peftodyssey.store import layout, manifest, parquet, tables

Row = dict[str, Any]
Decomposed = tuple[Any, Any]  # singular values and left vectors, tensors


def is_missing(task: CellTask, root: Path) -> bool:
    """Whether the recipe asks for the cell's geometry and it is not there."""
    return task.geometry_folder is not None and manifest.read(root / task.geometry_folder) is None


def measure(task: CellTask, root: Path, attached: AttachedMethod, events: Events) -> None:
    """Write `geometry.parquet` of the cell: a row for each weight that moved. Interrupted where the user wants to stop."""
    assert task.geometry_folder is not None, "asked of a cell whose recipe does not measure it"
    import torch

    chosen, layers = decomposed(task.shape)
    rows, refused = [], {}
    for update in iter_updates(attached):
        if events.should_stop():
            raise Interrupted(
                "stopped while the update was measured", "start the same command again, it goes on from here"
            )
        try:
            row = (
                None
                if update.unsupported
                else _with_cpu_fallback(
                    lambda device, one=update: _row(one.to(device) if device else one, one.name in chosen)
                )
            )
        except (
            torch.linalg.LinAlgError,
            np.linalg.LinAlgError,
            MemoryError,
        ) as error:  # must not cost what was trained
            update = WeightUpdate(
                update.name, update.base, unsupported=str(error).splitlines()[0] if str(error) else type(error).__name__
            )
        if update.unsupported:
            refused[update.name] = update.unsupported
        elif row:
            rows.append({"cell": task.short_hash, **row})
    folder = manifest.prepare_dir(root / task.geometry_folder)
    parquet.write_rows(folder / layout.GEOMETRY, rows, tables.GEOMETRY)
    facts = {
        "base_norm": base_norm(attached),
        "top": geometry.TOP_DIRECTIONS,
        "cosine": geometry.INTRUDER_COSINE,
        "layers": list(layers),
        "layers_of": task.shape.layers,
        "refused": refused,
    }
    manifest.commit(folder, {"kind": "geometry", "identity": {"cell": task.hash}, "status": "done", "facts": facts})


def decomposed(anatomy: ModelShape) -> tuple[set[str], tuple[int, ...]]:
    """The weights whose spectra are computed, by name, and their layers: the linear maps of all decoder layers or of a
    sample.
    """
    by_layer: Mapping[int, list[Any]] = {
        layer: [m for m in anatomy.linears if m.layer == layer] for layer in range(anatomy.layers)
    }
    flops = [sum(geometry.svd_flops(m.out_features, m.in_features) for m in found) for found in by_layer.values()]
    layers = geometry.sampled_layers(flops)
    return {f"{m.name}.weight" for layer in layers for m in by_layer[layer]}, layers


def _with_cpu_fallback(act: Callable[[str], Row | None]) -> Row | None:
    """`act` where the weights are, and on the CPU where the card has no room for it."""
    import torch

    try:
        return act("")
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return act("cpu")


def _row(update: WeightUpdate, with_spectrum: bool) -> Row | None:
    """The row of one weight; None where it did not move."""
    product = update.lora_B is not None and update.lora_A is not None
    values = svd.low_rank_singular_values(update.lora_B, update.lora_A).cpu().numpy() if product else None
    change = update.dense
    norm = math.sqrt(float((values**2).sum())) if values is not None else float(change.double().norm())
    if not norm:
        return None
    base = float(update.base.double().norm())
    shape = tuple(change.shape)
    row = {
        "matrix": update.name,
        "rows": shape[0],
        "columns": math.prod(shape[1:]) if len(shape) > 1 else None,
        "update_norm": norm,
        "base_norm": base,
        "relative_norm": norm / base if base else None,
    }
    if not with_spectrum:
        return row
    values = svd.singular_values(change).cpu().numpy() if values is None else values
    before, after = (
        svd.left_singular_vectors(matrix)[1].cpu().numpy() for matrix in (update.base, update.base + change)
    )
    return row | geometry.spectrum(values) | geometry.direction_change(after, before)
