"""The device and its memory: named by the user, or detected without torch through driver and operating system."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
from dataclasses import dataclass

from peftodyssey.errors import InputError
from peftodyssey.memory import cpu_bf16, cuda_driver
from peftodyssey.memory.gpu_table import find_gpu

CHOICES = ("auto", "cpu", "cuda")
DESKTOP_MARGIN_BYTES = 512 << 20  # stays free: a desktop session takes more as windows open
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt, as in glibc's malloc.h
MMAP_BYTES = 1 << 20  # of a host block that has pages of its own
TRIM_BYTES = 32 << 20  # free bytes at the end of glibc's heap above which they are returned
HOST_SHARE = 0.9  # of the free host memory that a plan may use


@dataclass(frozen=True)
class Device:
    """One device: `kind` cpu or cuda, its memory, whether bf16 is its fast precision, and the host memory beside it."""

    kind: str
    name: str
    total_bytes: int
    free_bytes: int
    bf16: bool
    capability: tuple[int, int] = (0, 0)  # CUDA compute capability: (7, 5) Turing, (8, 6) Ampere, (9, 0) Hopper
    host_free_bytes: int | None = None  # free now; None: not known, so nothing is refused for it
    named_by: str = ""  # the option that describes it where it was not looked for on this machine

    @property
    def is_hopper(self) -> bool:
        """Whether cuBLAS takes its workspace of 32 MiB, as PyTorch sets it on Hopper and data-centre Blackwell."""
        return self.capability[0] in (9, 10)

    @property
    def budget_bytes(self) -> int:
        """Bytes that a run may plan for where the user sets no --memory."""
        if self.kind == "cuda":
            return max(0, self.free_bytes - DESKTOP_MARGIN_BYTES)
        return int(self.free_bytes * HOST_SHARE)


def detect(choice: str = "auto") -> Device:
    """The device that `--device` means on this machine; InputError where cuda is asked for and cannot be used."""
    if choice not in CHOICES:
        raise InputError(f"--device {choice}: no such device", f"one of {', '.join(CHOICES)}")
    if choice == "cpu":
        return _cpu()
    why = cuda_driver.why_unusable()
    card = None if why else _card()
    if card is None and choice == "cuda":
        raise InputError(
            f"--device cuda: {why or 'no NVIDIA card was found'}",
            "`peftodyssey doctor` says more; `--device cpu` works",
        )
    return card or _cpu()


def planned_device(choice: str = "auto", memory_bytes: int | None = None, gpu: str | None = None) -> Device:
    """The device of a plan, which need not be here. A GPU named by `--gpu` or by `--memory` is not looked for.

    `--memory` alone describes the first GPU of this machine, and where it has none one with bf16. Raises InputError.
    """
    if choice not in CHOICES:
        raise InputError(f"--device {choice}: no such device", f"one of {', '.join(CHOICES)}")
    if gpu is not None:
        if choice == "cpu":
            raise InputError("--gpu names a GPU, and --device cpu none", "leave out one of the two")
        known = find_gpu(gpu)
        return Device(
            "cuda", known.name, known.total_bytes, known.total_bytes, known.bf16, known.capability, None, "--gpu"
        )
    if choice == "cpu" or (choice == "auto" and memory_bytes is None):
        return detect(choice)
    if memory_bytes is not None:
        here = None if choice == "cuda" else detect("auto")
        if here is not None and here.kind == "cuda":
            return here
        return Device("cuda", "a GPU", memory_bytes, memory_bytes, True, (8, 0), None, "--memory")
    card = _card()
    if card is None:
        raise InputError(
            "--device cuda: no NVIDIA card or driver was found",
            'name the GPU to plan for: --gpu "RTX 4090", or --memory 11GiB with what is free on it',
        )
    return card


def prepare_allocator() -> None:
    """Set PyTorch's expandable segments, where the user has set nothing. Call it before torch is imported.

    Without them, blocks of changing size leave gaps that no later block fits into: reserved memory that is never used.
    Linux only: elsewhere PyTorch warns that it cannot.
    """
    if sys.platform == "linux" and not any(
        name in os.environ for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    ):
        os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"


def return_large_tensors() -> None:
    """Gives host blocks of MMAP_BYTES and more pages of their own, which return to the system when they are freed.

    By default glibc keeps freed blocks of up to 32 MiB on its heap, where gaps between tensors of changing size add a
    third and more to what a large step takes. Fresh pages cost time, about a tenth of a step. Other C libraries have no
    such setting; one that the user has made stays.
    """
    if sys.platform == "linux" and "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        with contextlib.suppress(AttributeError, OSError):
            library = ctypes.CDLL(None)
            library.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
            library.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)


def _cpu() -> Device:
    import psutil

    memory = psutil.virtual_memory()
    measured = cpu_bf16.read()
    bf16 = measured is not None and measured.is_fast
    return Device("cpu", "CPU", memory.total, memory.available, bf16, host_free_bytes=memory.available)


def _card() -> Device | None:
    """The first visible card, as the CUDA driver describes it; None where there is none."""
    card = cuda_driver.first_card()
    if card is None:
        return None
    return Device(
        "cuda",
        card.name,
        card.total_bytes,
        card.free_bytes,
        card.capability >= (8, 0),
        capability=card.capability,
        host_free_bytes=_cpu().free_bytes,
    )
