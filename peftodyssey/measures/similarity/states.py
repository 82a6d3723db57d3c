"""Reading and writing the hidden states of a text's chunks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peftodyssey.errors import StoreError
from peftodyssey.measures.similarity.table import STATES_FILE
from peftodyssey.store import atomic

if TYPE_CHECKING:
    import numpy as np


def write(folder: Path, hidden: np.ndarray, row: np.ndarray, half: np.ndarray) -> None:
    """Write states float32 [chunks, width], the index row int64 [chunks] at which each chunk begins, and its half, int8
    [chunks]: 1 or 2 of a reference that is split by documents, 0 of any other text.
    """
    from safetensors.numpy import save

    atomic.write_bytes(folder / STATES_FILE, save({"hidden": hidden, "row": row, "half": half}))


def read(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hidden, row, half) as they were written; StoreError where they are missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / STATES_FILE
    try:
        tensors = load(path.read_bytes())
        return tensors["hidden"], tensors["row"], tensors["half"]
    except (OSError, KeyError, SafetensorError) as error:
        raise StoreError(
            f"cannot read {path}: {error}", "delete the folder it is in and run the recipe again"
        ) from error
