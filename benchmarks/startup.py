"""How long the command line takes to answer, beside importing what the field's tools import first.

    python benchmarks/startup.py [out.json]

Beside the wall time stands that of the processor, which other work on the machine hardly changes.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

PEFTODYSSEY = [sys.executable, "-m", "peftodyssey"]
COMMANDS = {
    "peftodyssey --help": [*PEFTODYSSEY, "--help"],
    "peftodyssey recipes list": [*PEFTODYSSEY, "recipes", "list"],
    "peftodyssey schema": [*PEFTODYSSEY, "schema"],
    "peftodyssey check quickstart": [*PEFTODYSSEY, "check", "quickstart"],
    "peftodyssey plan --model random/llama-7b ...": [
        *PEFTODYSSEY,
        "plan",
        "--model",
        "random/llama-7b",
        "--method",
        "qlora",
        "--rank",
        "16",
        "--seq-len",
        "2048",
        "--memory",
        "8GiB",
    ],
    "import torch": [sys.executable, "-c", "import torch"],
    "import transformers.Trainer": [sys.executable, "-c", "from transformers import Trainer"],
    "import peft": [sys.executable, "-c", "import peft"],
    "import trl.SFTTrainer": [sys.executable, "-c", "from trl import SFTTrainer"],
}
REPEATS = 3


def seconds(command: list[str]) -> tuple[float, float]:
    """Median wall and processor time, the first start left out."""
    wall, processor = [], []
    for _ in range(REPEATS + 1):
        begun, used = time.perf_counter(), _used()
        subprocess.run(command, capture_output=True, check=True)
        wall.append(time.perf_counter() - begun)
        processor.append(_used() - used)
    return statistics.median(wall[1:]), statistics.median(processor[1:])


def _used() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def main() -> None:
    """Measure, print."""
    table = Table(title=f"median of {REPEATS} starts", title_justify="left")
    table.add_column("command")
    for column in ("seconds", "of processor"):
        table.add_column(column, justify="right")
    measured = {name: seconds(command) for name, command in COMMANDS.items()}
    for name, (wall, processor) in measured.items():
        table.add_row(name, f"{wall:.2f}", f"{processor:.2f}")
    Console(width=100).print(table)
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump(measured, file, indent=1)


if __name__ == "__main__":
    main()
