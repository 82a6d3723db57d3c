"""A copy of weights that is too large for memory, in a file that vanishes with it. Called by `methods.weights`."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

from peftodyssey import assets
from peftodyssey.errors import StoreError

if TYPE_CHECKING:
    import torch

MAPPED_COPY_BYTES = 2 << 30  # copies above this lie in a file
ALIGNED_BYTES = 64


def mmap_copy(parameters: dict[str, torch.nn.Parameter]) -> dict[str, torch.Tensor]:
    """Copies of `parameters`, bit for bit, mapped from an unnamed file: the system may drop their pages from memory.

    Raises StoreError where the disk refuses. The file's room is free again when the last tensor is gone.
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
            whole = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="c"))
    except OSError as error:
        raise StoreError(
            f"no copy of the weights can be kept in {folder}: {error}",
            "set PEFTODYSSEY_CACHE to a folder with room for the model in half precision",
        ) from error
    found, place = {}, 0
    for name, parameter in parameters.items():
        size = parameter.numel() * parameter.element_size()
        found[name] = whole[place : place + size].view(parameter.dtype).view(parameter.shape)
        place += size + -(place + size) % ALIGNED_BYTES
    return found
