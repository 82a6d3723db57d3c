"""Host memory as the operating system counts it: what is resident, how high it rose, and what can be given back.

Called by `train.fitting` and `score.nll`: both stay within a stated budget on a CPU, and both survive running out of
memory.
"""

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
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
HIGH_WATER = re.compile(r"^VmHWM:\s*(\d+) kB", re.MULTILINE)
OOM_MESSAGES = (  # what the libraries below torch.OutOfMemoryError say
    "DefaultCPUAllocator",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)


class RssBudgetExceeded(MemoryError):
    """The process was larger than it may be; the message says by how much."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory ran out: the card's, the host's, or the stated budget."""
    if isinstance(error, OdysseyError):
        return False
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OOM_MESSAGES)


def release_memory(device: torch.device) -> None:
    """Free what nothing refers to any more: objects in cycles, a card's cache, free pages of glibc's heaps.

    glibc keeps freed tensors of up to 32 MiB where anything lies behind them; they stay resident, and would be held
    against all that comes later.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    trim_heap()


def trim_heap() -> None:
    """Free pages of the C library's heaps go back to the system, where that library can (glibc)."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """What the process has in memory now."""
    return psutil.Process().memory_info().rss


class RssBudget(NamedTuple):
    """Two functions that hold a process against its budget; both do nothing where there is none."""

    reset_peak: Callable[[], None]  # forgets how high the process rose before, and gives back what that left
    check: Callable[[], None]  # raises OverBudget where it rose above the budget since


@contextlib.contextmanager
def rss_budget(budget_bytes: int | None) -> Iterator[RssBudget]:
    """The watch over `budget_bytes` of resident memory; None: no budget."""
    if budget_bytes is None:
        yield RssBudget(lambda: None, lambda: None)
        return
    with peak_rss() as peak_bytes:

        def reset_peak() -> None:
            trim_heap()
            peak_bytes()

        def check() -> None:
            peak = peak_bytes()
            if peak > budget_bytes:
                raise RssBudgetExceeded(f"{format_gib(peak)} resident")

        yield RssBudget(reset_peak, check)


@contextlib.contextmanager
def peak_rss() -> Iterator[Callable[[], int]]:
    """A function that gives the largest resident size, in bytes, since it was called last.

    Linux counts it and lets it be counted anew; elsewhere it is sampled two hundred times a second.
    """
    if _reset():
        yield _counted
        return
    process, peak, done = psutil.Process(), [0], threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_EVERY_S):
            peak[0] = max(peak[0], process.memory_info().rss)

    def sampled() -> int:
        found, peak[0] = max(peak[0], process.memory_info().rss), 0
        return found

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield sampled
    finally:
        done.set()
        thread.join()


def format_gib(size_bytes: int) -> str:
    """A size as people say it: 8 GiB, 0.6836 GiB."""
    return f"{size_bytes / 2**30:.4g} GiB"


def _counted() -> int:
    found = HIGH_WATER.search(STATUS.read_text(encoding="ascii", errors="replace"))
    assert found is not None, "/proc/self/status names VmHWM where clear_refs could be written"
    _reset()
    return int(found[1]) * 1024


def _reset() -> bool:
    """Linux's highest resident size becomes the present one; False where the system does not do this."""
    try:
        CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
