"""Peak memory of a block of code: resident bytes of the process, or reserved bytes of the GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass

SAMPLE_EVERY_S = 0.05


@dataclass
class Peak:
    """Filled when the body of `track_peak` ends."""

    peak_bytes: int = 0  # reserved by PyTorch's allocator, or resident
    allocated_bytes: int = 0  # of these, taken by tensors; on a CPU the same


def allocated_bytes(device: str) -> int:
    """Bytes in use now: by tensors on the GPU, or resident in the process."""
    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    import psutil

    return psutil.Process().memory_info().rss


@contextlib.contextmanager
def track_peak(device: str) -> Iterator[Peak]:
    """Measures the block: on a GPU exactly, on the CPU by sampling the resident size twenty times a second."""
    peak = Peak()
    watch = _gpu(peak) if device == "cuda" else _process(peak)
    with watch:
        yield peak


@contextlib.contextmanager
def _gpu(peak: Peak) -> Iterator[None]:
    import torch

    torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        peak.peak_bytes, peak.allocated_bytes = torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated()


@contextlib.contextmanager
def _process(peak: Peak) -> Iterator[None]:
    import psutil

    process, done = psutil.Process(), threading.Event()

    def sample() -> None:
        while True:
            peak.peak_bytes = max(peak.peak_bytes, process.memory_info().rss)
            peak.allocated_bytes = peak.peak_bytes
            if done.wait(SAMPLE_EVERY_S):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
