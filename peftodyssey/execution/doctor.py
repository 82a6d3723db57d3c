"""What is installed, the devices, and what will not work and why."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from peftodyssey import assets
from peftodyssey.errors import OdysseyError
from peftodyssey.execution import cpu_bf16
from peftodyssey.memory import cuda_driver
from peftodyssey.memory.device import detect
from peftodyssey.models.log_filters import hide_kernels_advice
from peftodyssey.store.versions import versions

NEEDED = {"torch": "2.11", "transformers": "5.17", "peft": "0.21", "bitsandbytes": "0.50", "trl": "1.16"}
SMALL_DISK_BYTES = 5 << 30
PROBLEM = "problem"


def examine() -> Iterator[str]:
    """Lines to print, each as soon as it is known; what does not work begins with PROBLEM."""
    yield f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"
    installed = versions()
    yield from (f"{name:<14} {version}" for name, version in installed.items())
    yield from filter(None, (_version_problem(name, least, installed.get(name)) for name, least in NEEDED.items()))
    yield _device_line()
    yield _disk_line()
    yield _cache_line()
    hide_kernels_advice()
    problems = list(filter(None, (_import_problem(name) for name in NEEDED if name in installed)))
    yield from problems
    if not problems and detect().kind == "cpu":
        yield cpu_bf16.doctor_line()


def _version_problem(name: str, least: str, installed: str | None) -> str:
    if installed is None:
        return f"{PROBLEM}: {name} is not installed: pip install '{name}>={least}'"
    if _parts(installed) < _parts(least):
        return f"{PROBLEM}: {name} {installed} is older than {least}: pip install -U '{name}>={least}'"
    return ""


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def _import_problem(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a broken installation raises is what the user has to see
        return f"{PROBLEM}: {name} cannot be imported: {type(error).__name__}: {error}"
    return ""


def _device_line() -> str:
    device = detect()
    if device.kind == "cuda":
        bf16 = "bf16" if device.bf16 else "no bf16: fp16 is used"
        free_gib, total_gib = device.free_bytes / 2**30, device.total_bytes / 2**30
        return f"device         {device.name}, {free_gib:.1f} of {total_gib:.1f} GiB free, {bf16}"
    why = cuda_driver.why_unusable()
    return f"device         CPU, {device.free_bytes / 2**30:.1f} GiB free ({why}); 4-bit bases work here too"


def _disk_line() -> str:
    free = shutil.disk_usage(Path.cwd()).free
    short = "; little for checkpoints of large models" if free < SMALL_DISK_BYTES else ""
    return f"disk           {free / 2**30:.1f} GiB free here{short}"


def _cache_line() -> str:
    try:
        return f"cache          {assets.model_files(assets.models()[0]).parent}"
    except OdysseyError as error:
        return f"{PROBLEM}: the cache cannot be used: {error}"
