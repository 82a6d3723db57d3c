"""A recipe small enough for a test: three methods on one real text, four steps each; and ways to run the program."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

RECIPE = """\
version: 1
name: micro
seeds: [0]
model: {name: bundled/odyssey-3m, revisions: [annealed-64M]}
domains: [bundled/arxiv_cs.CL]
general: [bundled/wiki_general]
methods:
  - {method: full, lr: {tune: [1e-4, 1e-3]}}
  - {method: lora, rank: 2, lr: 1e-2}
  - {method: qlora, rank: 2, lr: 1e-2}
train: {budget: 4 steps, seq_len: 64, batch_tokens: 256, eval_at: [50%, 100%]}
score: {context: 64, stride: 48, tokens: 1k}
"""
CELLS = 4


def write(folder: Path, text: str = RECIPE) -> Path:
    """The micro recipe as a file."""
    path = folder / "micro.yaml"
    path.write_text(text)
    return path


def environment() -> dict[str, str]:
    """The environment of a child process: one thread, so that two runs give the same bits beside other work."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def invoke(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`peftodyssey` in this process, which has imported torch already; with --debug, so that exceptions go through."""
    from peftodyssey.cli.main import main

    out, errors, code = io.StringIO(), io.StringIO(), 0
    argv, sys.argv = sys.argv, ["peftodyssey", "--debug", *map(str, arguments)]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = argv
    return subprocess.CompletedProcess(list(arguments), code, out.getvalue(), errors.getvalue())


def command(*arguments: object, code: str | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    """`peftodyssey` in a process of its own, where that matters (several seconds of imports), or `code` with the
    arguments in sys.argv.
    """
    start = ["-c", code] if code else ["-m", "peftodyssey"]
    return subprocess.run(
        [sys.executable, *start, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=280,
        **options,
    )
