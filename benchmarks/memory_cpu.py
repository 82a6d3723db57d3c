"""Planned against resident memory of cells on a CPU, as one table.

    python benchmarks/memory_cpu.py                    40 cases, each a run of its own; some hours on two cores
    python benchmarks/memory_cpu.py --cases 8          the first 8 of them
    python benchmarks/memory_cpu.py --model bundled/odyssey-3m
    python benchmarks/memory_cpu.py --json out.json    also as JSON, with versions and hardware

A case is `peftodyssey run` of one cell: three steps on real text, whose peak of resident memory its manifest has beside
what was planned. Speed plays no part.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from peftodyssey.memory.device import detect

MIB = 1 << 20
MODELS = ("bundled/odyssey-3m", "random/pythia-70m", "random/smollm2-135m")
METHODS = ("full", "lora, rank: 16", "qlora, rank: 16", "ia3")
SHAPES = ((1, 128), (4, 256), (2, 512), (2, 1024), (8, 256))  # sequences of a step, and tokens of each
RECIPE = """\
version: 1
name: memory
model: {model}
domains: [bundled/arxiv_cs.CL]
methods: [{{method: {method}, lr: 1e-4}}]
train: {{budget: 3 steps, seq_len: {seq_len}, batch_tokens: {batch_tokens}, precision: {precision}}}
score: {{context: 64, tokens: 500}}
measure: [degradation, forgetting]
"""


@dataclass(frozen=True)
class Case:
    """One cell to plan and to measure."""

    model: str
    method: str
    sequences: int
    seq_len: int
    precision: str

    @property
    def name(self) -> str:
        """The case in words."""
        return f"{self.model.split('/')[-1]} {self.method} {self.sequences} x {self.seq_len} {self.precision}"

    @property
    def recipe(self) -> str:
        """The recipe of the cell."""
        return RECIPE.format(
            model=self.model,
            method=self.method,
            seq_len=self.seq_len,
            batch_tokens=self.sequences * self.seq_len,
            precision=self.precision,
        )


def cases() -> Iterator[Case]:
    """40 cases: two of three combinations of shape, model and method, the precisions in turn."""
    number = 0
    for shape_number, (sequences, seq_len) in enumerate(SHAPES):
        for model_number, model in enumerate(MODELS):
            for method_number, method in enumerate(METHODS):
                if (shape_number + model_number + method_number) % 3 != 2:
                    number += 1
                    yield Case(model, method, sequences, seq_len, ("fp32", "bf16")[number % 2])


def measured(case: Case) -> dict[str, float]:
    """Planned and resident bytes of the case, from the manifest of its run. Raises RuntimeError where it failed."""
    with tempfile.TemporaryDirectory() as folder:
        recipe, out = Path(folder) / "memory.yaml", Path(folder) / "out"
        recipe.write_text(case.recipe, encoding="utf-8")
        command = [sys.executable, "-m", "peftodyssey", "run", str(recipe), "--out", str(out), "--device", "cpu"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode:
            lines = ended.stderr.strip().splitlines()
            raise RuntimeError(lines[-1] if lines else f"exit {ended.returncode}")
        (manifest,) = (out / "cells").glob("*/manifest.json")
        facts = json.loads(manifest.read_text(encoding="utf-8"))["facts"]
    return {"planned_bytes": facts["planned_memory_bytes"], "measured_bytes": facts["peak_memory_bytes"]}


def summary(rows: list[dict[str, object]]) -> dict[str, float]:
    """Cases, and the smallest, median and largest error of the plan, relative to what was measured."""
    errors = [float(row["planned_bytes"]) / float(row["measured_bytes"]) - 1 for row in rows if "failed" not in row]  # type: ignore[arg-type]
    return {
        "cases": len(errors),
        "failed": len(rows) - len(errors),
        "lowest": min(errors, default=0.0),
        "median_size": statistics.median(map(abs, errors)) if errors else 0.0,
        "highest": max(errors, default=0.0),
    }


def table_of(rows: list[dict[str, object]]) -> Table:
    """One line a case."""
    table = Table(title="planned against resident memory on a CPU", title_justify="left")
    for column in ("case", "planned", "measured", "off"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        if "failed" in row:
            table.add_row(str(row["case"]), str(row["failed"])[:60])
            continue
        planned, seen = float(row["planned_bytes"]), float(row["measured_bytes"])  # type: ignore[arg-type]
        table.add_row(
            str(row["case"]), f"{planned / MIB:,.0f} MiB", f"{seen / MIB:,.0f} MiB", f"{planned / seen - 1:+.1%}"
        )
    return table


def main() -> None:
    """Plan, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=40, metavar="N")
    parser.add_argument("--model", choices=MODELS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console, rows = Console(width=120), []
    for case in [case for case in cases() if options.model in (None, case.model)][: options.cases]:
        row: dict[str, object] = {"case": case.name}
        try:
            row |= measured(case)
        except RuntimeError as error:
            row["failed"] = str(error)
        rows.append(row)
        console.print(case.name, style="dim")
    console.print(table_of(rows))
    console.print(summary(rows))
    if options.json:
        from peftodyssey.store.versions import versions

        hardware = {"processor": platform.processor() or platform.machine(), "bytes": detect("cpu").total_bytes}
        content = {"hardware": hardware, "versions": versions(), "summary": summary(rows), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
