"""Which stored tensors hold numbers that are not finite: looked for where a base gives no finite likelihood."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from peftodyssey.models.source import ModelSource, weights_folder
from peftodyssey.models.stored_tensors import FLOATS
from peftodyssey.models.weight_files import check_weights

MAX_NAMED = 3


def broken_numbers(source: ModelSource) -> str:
    """The tensors of `source` that hold NaN or infinity, by file, name and count; empty where all are finite.

    Reads its weight files once, a tensor at a time. Random weights have no files and are finite.
    """
    if source.kind == "random":
        return ""
    found = list(_broken(check_weights(weights_folder(source))))
    if not found:
        return ""
    more = f", and {len(found) - MAX_NAMED} tensors more" if len(found) > MAX_NAMED else ""
    return "; ".join(found[:MAX_NAMED]) + more


def _broken(files: Iterable[Path]) -> Iterable[str]:
    """`FILE: TENSOR has 1 NaN and 2 infinite numbers of 4,096` for each such tensor."""
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in sorted(opened.keys()):
                if opened.get_slice(name).get_dtype() not in FLOATS:
                    continue
                tensor = opened.get_tensor(name)
                if tensor.isfinite().all():
                    continue
                nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
                yield f"{file.name}: {name} has {nan:,} NaN and {infinite:,} infinite of {tensor.numel():,} numbers"
