"""GPUs that a plan can be made for without having them: name, memory, bf16 and compute capability.

The memory is about what CUDA reports as total, which is less than what the GPU is sold with; drivers differ by up to
0.3 GiB. bf16 counts where the GPU has it in hardware, from compute capability 8.0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from peftodyssey.errors import InputError


@dataclass(frozen=True)
class Gpu:
    """One GPU of the table."""

    name: str
    total_gib: float
    capability: tuple[int, int]  # CUDA compute capability

    @property
    def bf16(self) -> bool:
        """Whether it computes in bf16."""
        return self.capability >= (8, 0)

    @property
    def total_bytes(self) -> int:
        """Its memory, as CUDA reports it."""
        return int(self.total_gib * 2**30)


GPUS = (
    Gpu("RTX 4060", 7.6, (8, 9)),
    Gpu("RTX 3080", 9.6, (8, 6)),
    Gpu("RTX 2080 Ti", 10.7, (7, 5)),
    Gpu("RTX 3060", 11.6, (8, 6)),
    Gpu("RTX 4070", 11.6, (8, 9)),
    Gpu("T4", 14.5, (7, 5)),
    Gpu("RTX 4060 Ti 16GB", 15.5, (8, 9)),
    Gpu("RTX 4080", 15.6, (8, 9)),
    Gpu("V100", 15.7, (7, 0)),
    Gpu("V100 32GB", 31.7, (7, 0)),
    Gpu("L4", 21.9, (8, 9)),
    Gpu("A10G", 21.9, (8, 6)),
    Gpu("RTX 3090", 23.5, (8, 6)),
    Gpu("RTX 4090", 23.5, (8, 9)),
    Gpu("RTX 5090", 31.3, (12, 0)),
    Gpu("A100 40GB", 39.3, (8, 0)),
    Gpu("L40S", 44.4, (8, 9)),
    Gpu("RTX A6000", 47.4, (8, 6)),
    Gpu("RTX 6000 Ada", 47.3, (8, 9)),
    Gpu("A100", 79.1, (8, 0)),
    Gpu("H100", 79.1, (9, 0)),
    Gpu("H200", 139.7, (9, 0)),
    Gpu("B200", 178.3, (10, 0)),
)


def find_gpu(name: str) -> Gpu:
    """The GPU called `name`, in any case and with or without its maker's words; InputError lists those there are."""
    by_name = {_plain(gpu.name): gpu for gpu in GPUS}
    if gpu := by_name.get(_plain(name)):
        return gpu
    raise InputError(
        f"--gpu {name}: no such GPU is known",
        f"one of {', '.join(gpu.name for gpu in GPUS)}; or --memory with what is free on yours, e.g. --memory 11GiB",
    )


def smallest_gpu(needed_bytes: int, bf16: bool, margin_bytes: int) -> Gpu | None:
    """The smallest GPU that holds `needed_bytes` and has bf16 where that is asked; None where none does."""
    large_enough = [gpu for gpu in GPUS if gpu.total_bytes - margin_bytes >= needed_bytes and gpu.bf16 >= bf16]
    return min(large_enough, key=lambda gpu: gpu.total_bytes, default=None)


def _plain(name: str) -> str:
    return re.sub(r"nvidia|geforce|tesla|[^a-z0-9]", "", name.lower())
