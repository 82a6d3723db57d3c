"""Ctrl-C: the first one finishes the step, saves and ends cleanly; the second one ends at once."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType


class Stop:
    """Set by a signal or by the clock; jobs ask it between steps and batches."""

    def __init__(self, after_s: float | None = None) -> None:
        self.reason: str | None = None
        self._deadline = None if after_s is None else time.monotonic() + after_s

    def __bool__(self) -> bool:
        if self.reason is None and self._deadline is not None and time.monotonic() >= self._deadline:
            self.reason = "--stop-after is reached"
        return self.reason is not None


@contextlib.contextmanager
def listening(stop: Stop, say: Callable[[str], None]) -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `stop` while the block runs; only the main thread can listen."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handler(number: int, frame: FrameType | None) -> None:
        if stop.reason is not None:
            raise KeyboardInterrupt
        stop.reason = signal.Signals(number).name
        say("finishing the step and saving; press Ctrl-C again to end at once")

    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
