"""How long the command line takes to answer, beside importing what the field's tools import first.

    python benchmarks/startup.py
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

from rich.console import Console
from rich.table import Table

PEFTODYSSEY = [sys.executable, "-m", "peftodyssey.cli"]
COMMANDS = {
    "peftodyssey --help": [*PEFTODYSSEY, "--help"],
    "peftodyssey recipes list": [*PEFTODYSSEY, "recipes", "list"],
    "peftodyssey schema": [*PEFTODYSSEY, "schema"],
    "peftodyssey check quickstart": [*PEFTODYSSEY, "check", "quickstart"],
    "peftodyssey plan --model random/llama-7b ...": [
        *PEFTODYSSEY, "plan", "--model", "random/llama-7b", "--method", "qlora", "--rank", "16", "--seq-len", "2048", "--memory", "8GiB",
    ],
    "import torch": [sys.executable, "-c", "import torch"],
    "import transformers.Trainer": [sys.executable, "-c", "from transformers import Trainer"],
    "import peft": [sys.executable, "-c", "import peft"],
    "import trl.SFTTrainer": [sys.executable, "-c", "from trl import SFTTrainer"],
}  # fmt: skip
REPEATS = 3


def seconds(command: list[str]) -> float:
    """Median wall time, the first start left out."""
    found = []
    for _ in range(REPEATS + 1):
        begun = time.perf_counter()
        subprocess.run(command, capture_output=True, check=True)
        found.append(time.perf_counter() - begun)
    return statistics.median(found[1:])


def main() -> None:
    """Measure, print."""
    table = Table(title=f"median of {REPEATS} starts", title_justify="left")
    table.add_column("command")
    table.add_column("seconds", justify="right")
    found = {name: seconds(command) for name, command in COMMANDS.items()}
    for name, each in found.items():
        table.add_row(name, f"{each:.2f}")
    Console(width=100).print(table)
    if len(sys.argv) > 1:
        with open(sys.argv[1], "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
