"""The device and its memory: named by the user, or detected without torch through driver and operating system."""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib.util
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from peftodyssey.errors import InputError
from peftodyssey.memory import cpu_bf16
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
    card = _card() if torch_has_cuda() else None
    if card is None and choice == "cuda":
        raise InputError(f"--device cuda: {_why_no_card()}", "`peftodyssey doctor` says more; `--device cpu` works")
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


def torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA, read from its version file without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py")
    text = version.read_text(encoding="utf-8") if version.is_file() else ""
    return re.search(r"^cuda\b[^=]*=\s*['\"]", text, re.MULTILINE) is not None


def _why_no_card() -> str:
    return "no NVIDIA card or driver was found" if torch_has_cuda() else "the installed torch has no CUDA in it"


def _cpu() -> Device:
    import psutil

    memory = psutil.virtual_memory()
    measured = cpu_bf16.read()
    bf16 = measured is not None and measured.is_fast
    return Device("cpu", "CPU", memory.total, memory.available, bf16, host_free_bytes=memory.available)


def _card() -> Device | None:
    """The first visible card, as the CUDA driver describes it; None where there is none."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(library)
    except OSError:
        return None
    count, handle = ctypes.c_int(), ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    if cuda.cuDeviceGet(ctypes.byref(handle), 0):
        return None
    name = ctypes.create_string_buffer(128)
    total, major, minor = ctypes.c_size_t(), ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), 75, handle)  # compute capability, major
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), 76, handle)  # and minor
    return Device(
        "cuda",
        name.value.decode(),
        total.value,
        _free_on_card(total.value),
        major.value >= 8,
        capability=(major.value, minor.value),
        host_free_bytes=_cpu().free_bytes,
    )


def _free_on_card(total_bytes: int) -> int:
    """Bytes free on the first card by NVML, which needs no context; all of them where NVML is missing."""

    class Memory(ctypes.Structure):
        _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]

    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return total_bytes
    device, memory = ctypes.c_void_p(), Memory()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(device)):
        return total_bytes
    failed = nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
    return total_bytes if failed else min(total_bytes, memory.free)
