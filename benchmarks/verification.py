"""What verification costs of a report: processor time within it, with its indexes and without.

.venv/bin/python benchmarks/verification.py DIR     # a directory that `run` wrote; its tables are written again
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftodyssey import api
from peftodyssey.store import sealed, table_record, verified


class Spent:
    """Processor time inside of the outermost call of some functions."""

    def __init__(self) -> None:
        self.seconds, self.calls, self.depth = 0.0, 0, 0

    def watch(self, owner: Any, name: str) -> None:
        """Count the calls of a function of a module from now on."""
        function: Callable[..., Any] = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            self.depth += 1
            started = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                self.depth -= 1
                if not self.depth:
                    self.seconds, self.calls = self.seconds + time.thread_time() - started, self.calls + 1

        setattr(owner, name, watched)


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder, spent = parser.parse_args().folder, Spent()
    spent.watch(verified, "wrong_files")
    spent.watch(sealed, "read")
    for name in ("sources", "write", "add"):
        spent.watch(table_record, name)
    api.report([folder])  # imports
    for label in ("by size and times", "by sha256") * 3:
        if label == "by sha256":
            for index in folder.rglob(verified.INDEX):
                index.unlink()
            verified._in_memory.clear()
        spent.seconds, spent.calls, started = 0.0, 0, time.thread_time()
        api.report([folder])
        total = time.thread_time() - started
        share = f"{spent.seconds / total:.1%}"
        print(f"{label}: {spent.seconds:.3f} of {total:.3f} s of processor time ({share}), {spent.calls} calls")


if __name__ == "__main__":
    main()
