"""A function that runs what a file says (a template, a regular expression) in a process with limits. Floor 0.

Such programs have no length that could be checked beforehand: `.*.*.*x` and three nested loops take hours. The process
has a limit of memory, and each request a limit of processor time; whatever exceeds it is ended.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import json
import os
import subprocess
import sys
import threading
from typing import Any

from peftodyssey.untrusted import limits

START = "from peftodyssey.untrusted.isolated import serve; serve({module!r}, {function!r})"
WALL_FACTOR, WALL_EXTRA_S = 4, 20.0  # real time that a request may take on a machine that does other work as well


class Refused(ValueError):
    """The function raised an error, or took too much; the message says which."""


class Worker:
    """A process that answers requests to one function; it is started again after it was ended."""

    def __init__(self, module: str, function: str) -> None:
        self.module, self.function = module, function
        self.process: subprocess.Popen[bytes] | None = None
        self.lock = threading.Lock()

    def ask(self, request: Any, cpu_s: float) -> Any:
        """The function's answer to a JSON value; Refused where it fails, or takes more than `cpu_s` or the memory."""
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.end()
                self.process = self._start()
            process = self.process
            assert process.stdin is not None
            assert process.stdout is not None
            guard = threading.Timer(WALL_FACTOR * cpu_s + WALL_EXTRA_S, process.kill)
            guard.start()
            try:
                process.stdin.write(json.dumps([request, cpu_s]).encode() + b"\n")
                process.stdin.flush()
                line = process.stdout.readline(limits.ISOLATED_ANSWER_BYTES)
            except OSError:
                line = b""
            finally:
                guard.cancel()
            if not line.endswith(b"\n"):
                self.end()
                size = limits.ISOLATED_ANSWER_BYTES >> 20
                raise Refused(f"it writes more than {size} MiB" if line else f"it takes more than {cpu_s:g} s")
        answer, error = json.loads(line)
        if error:
            raise Refused(error)
        return answer

    def end(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            self.process = None

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-c", START.format(module=self.module, function=self.function)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


@functools.cache
def worker(module: str, function: str) -> Worker:
    """The one worker of a function; it ends with this process."""
    started = Worker(module, function)
    atexit.register(started.end)
    return started


def serve(module: str, function: str) -> None:
    """Answer requests from standard input until it ends: the loop of the process itself."""
    call = getattr(importlib.import_module(module), function)
    _limit_memory()
    for line in sys.stdin.buffer:
        request, cpu_s = json.loads(line)
        try:
            with _limited_time(cpu_s):
                answer = [call(request), ""]
        except TimeoutError:
            answer = [None, f"it takes more than {cpu_s:g} s"]
        except MemoryError:
            answer = [None, f"it takes more than {limits.ISOLATED_BYTES >> 20} MiB of memory"]
        except RecursionError:
            answer = [None, "it calls itself without end"]
        except Refused as error:
            answer = [None, str(error)]
        except Exception as error:  # whatever a template raises is what is wrong with it
            answer = [None, f"{type(error).__name__}: {error}"]
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has none; a lower limit may be set already
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (limits.ISOLATED_BYTES, limits.ISOLATED_BYTES))


@contextlib.contextmanager
def _limited_time(cpu_s: float) -> Any:
    """TimeoutError in the block after `cpu_s` of processor time, where the system has such a clock."""
    import signal

    if not hasattr(signal, "setitimer"):
        yield
        return

    def stop(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
