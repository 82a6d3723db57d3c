"""Which card is meant, and whether torch can use it: with libraries that answer as the driver and NVML do."""

from __future__ import annotations

import ctypes
import uuid
from typing import ClassVar

import pytest

from peftodyssey.memory import cuda_driver

GIB = 1 << 30
VISIBLE, OTHER = uuid.UUID(int=7), uuid.UUID(int=3)


class Driver:
    """libcuda with one visible card, which is the second one of the machine."""

    def __init__(self, capability: tuple[int, int] = (8, 6), version: int = 13000) -> None:
        self.capability, self.version = capability, version

    def cuInit(self, flags: int) -> int:
        return 0

    def cuDriverGetVersion(self, version) -> int:
        version._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count) -> int:
        count._obj.value = 1
        return 0

    def cuDeviceGet(self, handle, number: int) -> int:
        return 0

    def cuDeviceGetName(self, name, length: int, handle) -> int:
        name.value = b"A card"
        return 0

    def cuDeviceTotalMem_v2(self, total, handle) -> int:
        total._obj.value = 24 * GIB
        return 0

    def cuDeviceGetAttribute(self, value, attribute: int, handle) -> int:
        value._obj.value = self.capability[attribute == cuda_driver.CAPABILITY_MINOR]
        return 0

    def cuDeviceGetUuid(self, raw, handle) -> int:
        ctypes.memmove(raw._obj, VISIBLE.bytes, 16)
        return 0


class Nvml:
    """NVML, which lists the machine's other card first."""

    free: ClassVar = {f"GPU-{OTHER}": 1 * GIB, f"GPU-{VISIBLE}": 20 * GIB}

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByUUID(self, name: bytes, device) -> int:
        self.asked = name.decode()
        return 0 if self.asked in self.free else 6

    def nvmlDeviceGetMemoryInfo(self, device, memory) -> int:
        memory._obj.free = self.free[self.asked]
        return 0


def machine(monkeypatch: pytest.MonkeyPatch, driver: Driver | None, built: tuple[int, int] | None = (13, 0)) -> None:
    nvml = None if driver is None else Nvml()
    monkeypatch.setattr(cuda_driver, "_library", lambda name: nvml if "nvml" in name or "nvidia" in name else driver)
    monkeypatch.setattr(cuda_driver, "torch_cuda_version", lambda: built)


def test_free_memory_is_that_of_the_visible_card(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, Driver())
    assert cuda_driver.first_card() == cuda_driver.Card("A card", 24 * GIB, 20 * GIB, (8, 6))
    monkeypatch.setattr(Nvml, "free", {})
    assert cuda_driver.first_card().free_bytes == 24 * GIB


@pytest.mark.parametrize(
    ("driver", "built", "words"),
    [
        (Driver(), (13, 0), ""),
        (Driver(version=12040), (12, 8), ""),
        (Driver(version=12040), (13, 0), "needs a driver for CUDA 13, and this one supports CUDA 12.4"),
        (Driver((7, 0)), (13, 0), "has no kernels for A card"),
        (Driver((7, 0), 12080), (12, 8), ""),
        (Driver((7, 5)), (13, 0), ""),
        (None, (13, 0), "no NVIDIA card or driver"),
        (Driver(), None, "has no CUDA in it"),
    ],
)
def test_a_card_that_torch_cannot_use_is_told(
    driver: Driver | None, built: tuple[int, int] | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, driver, built)
    why = cuda_driver.why_unusable()
    assert words in why
    assert bool(why) == bool(words)


def test_the_version_of_the_installed_torch_is_read_without_importing_it() -> None:
    import torch

    expected = torch.version.cuda and tuple(int(part) for part in torch.version.cuda.split(".")[:2])
    assert cuda_driver.torch_cuda_version() == (expected or None)
