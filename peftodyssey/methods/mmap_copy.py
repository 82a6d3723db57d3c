"""Copies of weights that would not fit into memory, mapped from a temporary file."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from peftodyssey import assets
from peftodyssey.errors import StoreError

if TYPE_CHECKING:
    import torch

MAPPED_COPY_BYTES = 2 << 30  # larger copies are mapped from a file
ALIGNED_BYTES = 64


def mmap_copy(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Copies of `parameters`, bit for bit, mapped from an unnamed file in the cache folder.

    The system may evict their pages from memory; the file is gone when the last tensor is. Raises StoreError where the
    disk is full or not writable.
    """
    import numpy as np
    import torch

    folder = assets.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            for parameter in parameters.values():
                file.write(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
                file.write(bytes(-file.tell() % ALIGNED_BYTES))
            file.flush()
            file_bytes = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c"))
    except OSError as error:
        raise StoreError(
            f"cannot write a copy of the weights to {folder}: {error}",
            "set PEFTODYSSEY_CACHE to a folder with room for the model in half precision",
        ) from error
    copies, start = {}, 0
    for name, parameter in parameters.items():
        end = start + parameter.numel() * parameter.element_size()
        copies[name] = file_bytes[start:end].view(parameter.dtype).view(parameter.shape)
        start = end + -end % ALIGNED_BYTES
    return copies
