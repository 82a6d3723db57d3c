"""The first visible CUDA card and the driver, asked through their libraries without torch and without a context."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76  # attributes of a device in cuda.h
OLDEST_CAPABILITIES = {13: (7, 5)}  # by major version of torch's CUDA: what its builds still have kernels for


@dataclass(frozen=True)
class Card:
    """One card as driver and NVML describe it."""

    name: str
    total_bytes: int
    free_bytes: int
    capability: tuple[int, int]


def why_unusable() -> str:
    """Why torch cannot compute on the first card, in words; "" where it can, as far as versions tell."""
    built = torch_cuda_version()
    if built is None:
        return "the installed torch has no CUDA in it"
    cuda = _driver()
    card = first_card()
    if cuda is None or card is None:
        return "no NVIDIA card or driver was found"
    version = ctypes.c_int()
    if not cuda.cuDriverGetVersion(ctypes.byref(version)) and version.value // 1000 < built[0]:
        supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return (
            f"the installed torch needs a driver for CUDA {built[0]}, and this one supports CUDA {supported}: "
            "update the driver, or install a torch built for it"
        )
    oldest = max((since for major, since in OLDEST_CAPABILITIES.items() if built[0] >= major), default=(0, 0))
    if card.capability < oldest:
        return (
            f"the installed torch, built for CUDA {built[0]}.{built[1]}, has no kernels for {card.name} (compute "
            f"capability {card.capability[0]}.{card.capability[1]}, at least {oldest[0]}.{oldest[1]} is needed): "
            "install a torch built for an earlier CUDA"
        )
    return ""


def torch_cuda_version() -> tuple[int, int] | None:
    """The CUDA version that the installed torch was built for, read from its version file; None: for none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = Path(spec.origin).with_name("version.py")
    text = version.read_text(encoding="utf-8") if version.is_file() else ""
    found = re.search(r"^cuda\b[^=]*=\s*['\"](\d+)\.(\d+)", text, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None


def first_card() -> Card | None:
    """The first visible card; None where there is none."""
    cuda = _driver()
    count, handle = ctypes.c_int(), ctypes.c_int()
    if cuda is None or cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    if cuda.cuDeviceGet(ctypes.byref(handle), 0):
        return None
    name = ctypes.create_string_buffer(128)
    total, major, minor = ctypes.c_size_t(), ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetName(name, len(name), handle)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(total), handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, handle)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, handle)
    free = _free_bytes(_uuid(cuda, handle), total.value)
    return Card(name.value.decode(errors="replace"), total.value, free, (major.value, minor.value))


def _driver() -> Any:
    """The driver's library; None where there is none."""
    return _library("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


def _library(name: str) -> Any:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _uuid(cuda: Any, handle: ctypes.c_int) -> str | None:
    """The card's name in NVML, which counts cards in another order than CUDA and does not know what is visible."""
    raw = (ctypes.c_ubyte * 16)()
    if cuda.cuDeviceGetUuid(ctypes.byref(raw), handle):
        return None
    return f"GPU-{uuid.UUID(bytes=bytes(raw))}"


class _Memory(ctypes.Structure):
    """nvmlMemory_t."""

    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


def _free_bytes(card: str | None, total_bytes: int) -> int:
    """Bytes free on a card by NVML, which needs no context; all of them where NVML does not know it (MIG)."""
    nvml = _library("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    device, memory = ctypes.c_void_p(), _Memory()
    if card is None or nvml is None or nvml.nvmlInit_v2():
        return total_bytes
    if nvml.nvmlDeviceGetHandleByUUID(card.encode(), ctypes.byref(device)):
        return total_bytes
    failed = nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(memory))
    return total_bytes if failed else min(total_bytes, memory.free)
