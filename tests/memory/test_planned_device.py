"""The device of a plan: named by the user and then looked for nowhere, or the one that is here."""

from __future__ import annotations

from pathlib import Path

import pytest

from peftodyssey.errors import InputError
from peftodyssey.memory import cuda_driver, device
from peftodyssey.memory.device import Device, planned_device
from peftodyssey.memory.gpu_table import GPUS, find_gpu, smallest_gpu

GIB = 1 << 30


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither torch nor a driver may be asked."""

    def asked(*_: object) -> None:
        raise AssertionError("a named device was looked for")

    monkeypatch.setattr(cuda_driver, "why_unusable", asked)
    monkeypatch.setattr(device, "_card", asked)


@pytest.mark.usefixtures("nowhere")
def test_a_named_gpu_is_looked_for_nowhere() -> None:
    found = planned_device(gpu="RTX 4090")
    assert (found.kind, found.named_by, found.bf16, found.capability) == ("cuda", "--gpu", True, (8, 9))
    assert found.budget_bytes == found.total_bytes - device.DESKTOP_MARGIN_BYTES
    assert not planned_device(gpu="T4").bf16
    assert planned_device(gpu="H100").is_hopper
    of_memory = planned_device("cuda", 12 * GIB)
    assert (of_memory.kind, of_memory.named_by, of_memory.total_bytes) == ("cuda", "--memory", 12 * GIB)
    assert planned_device("cpu", 12 * GIB).kind == "cpu"


def test_memory_alone_means_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "why_unusable", lambda: "the installed torch has no CUDA in it")
    assert planned_device(memory_bytes=12 * GIB).kind == "cuda"
    assert planned_device().kind == "cpu"
    turing = Device("cuda", "T4", 14 * GIB, 14 * GIB, False, (7, 5))
    monkeypatch.setattr(cuda_driver, "why_unusable", lambda: "")
    monkeypatch.setattr(device, "_card", lambda: turing)
    assert planned_device(memory_bytes=12 * GIB) == turing, "the GPU that is here, where there is one"


def test_cuda_without_a_gpu_asks_for_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_card", lambda: None)
    with pytest.raises(InputError, match="--device cuda") as caught:
        planned_device("cuda")
    assert "--gpu" in caught.value.next_step
    assert "--memory" in caught.value.next_step
    for wrong in (("cpu", None, "T4"), ("tpu", None, None), ("auto", None, "RTX 9999")):
        with pytest.raises(InputError):
            planned_device(*wrong)


@pytest.mark.parametrize("name", ["rtx4090", "NVIDIA GeForce RTX 4090", "RTX-4090"])
def test_names_are_read_as_drivers_write_them(name: str) -> None:
    assert find_gpu(name).name == "RTX 4090"


def test_the_documentation_lists_every_gpu() -> None:
    text = (Path(__file__).parents[2] / "docs" / "memory.md").read_text(encoding="utf-8")
    for gpu in GPUS:
        bf16 = "yes" if gpu.bf16 else "no"
        assert f"| {gpu.name} | {gpu.total_gib:.1f} | {bf16} | {gpu.capability[0]}.{gpu.capability[1]} |" in text


def test_the_smallest_gpu_that_holds_a_step() -> None:
    assert len({gpu.name for gpu in GPUS}) == len(GPUS)
    assert smallest_gpu(14 * GIB, False, 0).name == "T4"
    assert smallest_gpu(14 * GIB, True, 0).name == "RTX 4060 Ti 16GB"
    assert smallest_gpu(1000 * GIB, True, 0) is None
