"""Job: how far one cell moved each weight of its base, in a folder of its own; not part of the cell's identity."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import Handle
from peftodyssey.measures.geometry import compute as geometry
from peftodyssey.measures.geometry.table import FILE, GEOMETRY
from peftodyssey.methods import svd
from peftodyssey.methods.weight_updates import WeightUpdate, base_norm, iter_updates
from peftodyssey.model_shape import ModelShape
from peftodyssey.plan.tasks import MeasureTask
from peftodyssey.store import manifest, parquet

Row = dict[str, Any]


def run(task: MeasureTask, handle: Handle, context: JobContext) -> None:
    """Writes `geometry.parquet` of a cell: a row for each weight that moved. Interrupted where the user stops."""
    attached, shape = handle.adapted(), task.options
    with_spectrum, layers = decomposed(shape)
    rows, refused = [], {}
    for update in iter_updates(attached):
        context.stop_if_asked("measuring the update")
        row, reason = _measure_or_refuse(update, update.name in with_spectrum)
        if reason:
            refused[update.name] = reason
        elif row:
            rows.append({"cell": str(task.cell)[:16], **row})
    folder = manifest.prepare_dir(context.root / task.folder)
    parquet.write_rows(folder / FILE, rows, GEOMETRY)
    facts = {
        "base_norm": base_norm(attached),
        "top": geometry.TOP_DIRECTIONS,
        "cosine": geometry.INTRUDER_COSINE,
        "layers": list(layers),
        "layers_of": shape.layers,
        "refused": refused,
    }
    manifest.commit(folder, {"kind": "geometry", "identity": task.identity, "status": "done", "facts": facts})


def decomposed(shape: ModelShape) -> tuple[set[str], tuple[int, ...]]:
    """The names of the weights whose spectra are computed, and their layers: all decoder layers or a sample."""
    by_layer: Mapping[int, list[Any]] = {
        layer: [m for m in shape.linears if m.layer == layer] for layer in range(shape.layers)
    }
    flops = [sum(geometry.svd_flops(m.out_features, m.in_features) for m in linears) for linears in by_layer.values()]
    layers = geometry.sampled_layers(flops)
    return {f"{m.name}.weight" for layer in layers for m in by_layer[layer]}, layers


def _measure_or_refuse(update: WeightUpdate, with_spectrum: bool) -> tuple[Row | None, str]:
    """The row of one weight, None where it did not move; and why it could not be measured, "" where it could."""
    import torch

    if update.unsupported:
        return None, update.unsupported
    try:
        return _with_cpu_fallback(lambda device: _row(update.to(device) if device else update, with_spectrum)), ""
    except (torch.linalg.LinAlgError, np.linalg.LinAlgError, MemoryError) as error:  # must not fail the whole cell
        return None, str(error).splitlines()[0] if str(error) else type(error).__name__


def _with_cpu_fallback(act: Callable[[str], Row | None]) -> Row | None:
    """`act` on the weights' device, and on the CPU where the GPU has no memory for it."""
    import torch

    try:
        return act("")
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        return act("cpu")


def _row(update: WeightUpdate, with_spectrum: bool) -> Row | None:
    """The row of one weight; None where it did not move."""
    values = None
    if update.lora_A is not None and update.lora_B is not None:
        values = svd.low_rank_singular_values(update.lora_B, update.lora_A).cpu().numpy()
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
        svd.left_singular_vectors(weight)[1].cpu().numpy() for weight in (update.base, update.base + change)
    )
    return row | geometry.spectrum(values) | geometry.direction_change(after, before)
