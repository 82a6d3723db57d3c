"""Resident memory of the process (RSS): a budget, its peak, releasing it, and recognising out-of-memory errors."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from peftodyssey.errors import OdysseyError

SAMPLE_EVERY_S = 0.005
TRIMMED_SHARE = 0.5  # of a budget: from there on a step begins with the heap returned, which takes time
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PEAK_RSS = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)
OOM_MESSAGES = (  # of RuntimeErrors that are no torch.OutOfMemoryError
    "DefaultCPUAllocator",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class RssBudgetExceeded(MemoryError):
    """The process used more resident memory than its budget; the message says how much it used."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: the GPU's, the host's, or the budget."""
    if isinstance(error, OdysseyError):
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OOM_MESSAGES)


def release_memory(device: torch.device) -> None:
    """Frees unreachable objects, the GPU's cache, and free pages of glibc's heaps.

    glibc keeps freed tensors of up to 32 MiB while anything lies behind them on the heap. Without `trim_heap` they
    would count against the budget of later steps.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Returns free pages of the C library's heaps to the system, where that library can (glibc)."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Resident memory of the process now."""
    return psutil.Process().memory_info().rss


class RssBudget(NamedTuple):
    """Two functions that check a budget of resident memory; both do nothing where there is no budget."""

    reset_peak: Callable[[], None]  # starts a new measurement, after returning free memory to the system
    check: Callable[[], None]  # raises RssBudgetExceeded if the peak since `reset_peak` was above the budget


@contextlib.contextmanager
def rss_budget(budget_bytes: int | None) -> Iterator[RssBudget]:
    """A budget of `budget_bytes` of resident memory; None: no limit."""
    if budget_bytes is None:
        yield RssBudget(lambda: None, lambda: None)
        return
    with peak_rss() as peak_bytes:

        def reset_peak() -> None:
            if resident_bytes() > TRIMMED_SHARE * budget_bytes:
                trim_heap()
            peak_bytes()

        def check() -> None:
            peak = peak_bytes()
            if peak > budget_bytes:
                raise RssBudgetExceeded(f"{format_gib(peak)} resident")

        yield RssBudget(reset_peak, check)


@contextlib.contextmanager
def peak_rss() -> Iterator[Callable[[], int]]:
    """A function that returns the peak of resident memory, in bytes, since its last call.

    Linux records the peak and can reset it; elsewhere resident memory is sampled two hundred times a second.
    """
    if _reset_peak():
        yield _recorded_peak
        return
    process, peak, done = psutil.Process(), [0], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_EVERY_S):
            peak[0] = max(peak[0], process.memory_info().rss)

    def sampled_peak() -> int:
        highest, peak[0] = max(peak[0], process.memory_info().rss), 0
        return highest

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield sampled_peak
    finally:
        done.set()
        thread.join()


def format_gib(size_bytes: int) -> str:
    """A size in GiB: 8 GiB, 0.6836 GiB."""
    return f"{size_bytes / 2**30:.4g} GiB"


def _recorded_peak() -> int:
    match = PEAK_RSS.search(STATUS.read_text(encoding="ascii", errors="replace"))
    assert match is not None, "/proc/self/status has VmHWM where clear_refs can be written"
    _reset_peak()
    return int(match[1]) * 1024


def _reset_peak() -> bool:
    """Sets the peak that Linux records to the present size; False where the system has no such reset."""
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
