"""What is installed, what is there to compute on, and what will not work and why. Called by the `doctor` verb."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
from pathlib import Path

from peftodyssey import assets
from peftodyssey.errors import OdysseyError
from peftodyssey.memory.device import detect, torch_has_cuda
from peftodyssey.store.versions import versions

NEEDED = {"torch": "2.11", "transformers": "5.17", "peft": "0.21", "bitsandbytes": "0.50", "trl": "1.16"}
SMALL_DISK_BYTES = 5 << 30


def examine() -> tuple[list[str], bool]:
    """Lines to print, and whether everything that is needed works."""
    lines = [f"{platform.system()} {platform.release()}, {platform.machine()}, {os.cpu_count()} cores"]
    found = versions()
    lines += [f"{name:<14} {version}" for name, version in found.items()]
    problems = [_version_problem(name, least, found.get(name)) for name, least in NEEDED.items()]
    problems += [_import_problem(name) for name in NEEDED if name in found]
    lines += [_device_line(), _disk_line(), _cache_line()]
    told = [problem for problem in problems if problem]
    return [*lines, *told, "everything needed is there" if not told else f"{len(told)} problems"], not told


def _version_problem(name: str, least: str, found: str | None) -> str:
    if found is None:
        return f"problem: {name} is not installed: pip install '{name}>={least}'"
    if _parts(found) < _parts(least):
        return f"problem: {name} {found} is older than {least}: pip install -U '{name}>={least}'"
    return ""


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())


def _import_problem(name: str) -> str:
    try:
        importlib.import_module(name)
    except Exception as error:  # whatever a broken installation raises is what the user has to see
        return f"problem: {name} cannot be imported: {type(error).__name__}: {error}"
    return ""


def _device_line() -> str:
    device = detect()
    if device.kind == "cuda":
        bf16 = "bf16" if device.bf16 else "no bf16: fp16 is used"
        return f"device         {device.name}, {device.free_bytes / 2**30:.1f} of {device.total_bytes / 2**30:.1f} GiB free, {bf16}"
    why = "no NVIDIA card was found" if torch_has_cuda() else "the installed torch has no CUDA"
    return f"device         CPU, {device.free_bytes / 2**30:.1f} GiB free ({why}); 4-bit bases work here too"


def _disk_line() -> str:
    free = shutil.disk_usage(Path.cwd()).free
    short = "; little for checkpoints of large models" if free < SMALL_DISK_BYTES else ""
    return f"disk           {free / 2**30:.1f} GiB free here{short}"


def _cache_line() -> str:
    try:
        return f"cache          {assets.model_files(assets.models()[0]).parent}"
    except OdysseyError as error:
        return f"problem: the cache cannot be used: {error}"
