"""Peak memory of a block of code: resident bytes of the process, or reserved bytes of the GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SAMPLE_EVERY_S = 0.05


@dataclass
class Peak:
    """The peak since `track_peak` began, filled where its body ends or pauses."""

    peak_bytes: int = 0  # reserved by PyTorch's allocator, or resident
    allocated_bytes: int = 0  # of these, taken by tensors; on a CPU the same
    stop: Callable[[], None] = lambda: None  # adds what was measured since `start`
    start: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What is done in the body does not count."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def add(self, peak_bytes: int, allocated_bytes: int) -> None:
        """The larger of what was measured before and now."""
        self.peak_bytes = max(self.peak_bytes, peak_bytes)
        self.allocated_bytes = max(self.allocated_bytes, allocated_bytes)


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
    with _gpu(peak) if device == "cuda" else _process(peak):
        peak.start()
        try:
            yield peak
        finally:
            peak.stop()


@contextlib.contextmanager
def _gpu(peak: Peak) -> Iterator[None]:
    import torch

    peak.start = torch.cuda.reset_peak_memory_stats
    peak.stop = lambda: peak.add(torch.cuda.max_memory_reserved(), torch.cuda.max_memory_allocated())
    yield


@contextlib.contextmanager
def _process(peak: Peak) -> Iterator[None]:
    import psutil

    process, running, done = psutil.Process(), threading.Event(), threading.Event()

    def sample() -> None:
        if running.is_set():
            resident = process.memory_info().rss
            peak.add(resident, resident)

    def sample_until_done() -> None:
        while not done.wait(SAMPLE_EVERY_S):
            sample()

    def start() -> None:
        running.set()
        sample()

    def stop() -> None:
        sample()
        running.clear()

    peak.start, peak.stop = start, stop
    thread = threading.Thread(target=sample_until_done, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
