"""Every target of multi-LoRA and of the native step on a GPU, in one command: measured beside target.

    python benchmarks/gpu_targets.py --out gpu/             on a GPU: 7B in NF4 and 124M in bf16, random weights
    python benchmarks/gpu_targets.py --out gpu/ --rehearse  the same runs on tiny models, on any machine; compared with
      no target

Each run is `step.py` or `score.py` in a process of its own, so that one that does not fit ends alone; their tables
are in `out` as JSON and as text. The targets are for one H200; compare them with the stock stack's figures of the same
run.
"""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
GIB = 1 << 30
MEMBERS = 8
LARGE, SMALL, TINY = (
    ["--model", "random/llama-7b", "--quant", "nf4"],
    ["--model", "random/llama-124m"],
    ["--model", "random/tiny-llama"],
)


@dataclass(frozen=True)
class Target:
    """One figure of a run and what it is held to."""

    what: str
    of: Callable[[Any], float]  # the run's JSON -> the figure
    holds: Callable[[float, float], bool]
    value: float
    unit: str


@dataclass(frozen=True)
class Run:
    """One process: a script with its options, and the targets that its figures meet."""

    name: str
    script: str
    options: list[str]
    rehearsal: list[str]
    targets: tuple[Target, ...]


def speed(target: float, way: str = "ours", row: int = 0) -> Target:
    """Tokens a second of one way of a shape."""
    return Target(
        f"{way}, tokens/s",
        lambda result: _tokens(result, row) / result["rows"][row][way]["seconds"],
        operator.ge,
        target,
        "",
    )


def memory(target_gib: float, row: int = 0) -> Target:
    """Reserved memory of ours."""
    return Target(
        "ours, reserved",
        lambda result: (result["rows"][row]["ours"]["peak_bytes"] or 0) / GIB,
        operator.le,
        target_gib,
        " GiB",
    )


def joint(target_s: float) -> Target:
    """Seconds of one step of all members together."""
    together = f"ours, {MEMBERS} together"
    return Target(
        f"{MEMBERS} together, s/step",
        lambda result: result["rows"][0][together]["seconds"],
        operator.le,
        target_s,
        " s",
    )


def _tokens(result: Any, row: int) -> int:
    return int(result["rows"][row]["blocks"]) * int(result["rows"][row]["seq_len"])


def steps(
    name: str, model: list[str], shape: str, gradient_checkpointing: str, targets: tuple[Target, ...], *more: str
) -> Run:
    """A run of `step.py`."""
    options = [
        *model,
        "--shapes",
        shape,
        "--gradient-checkpointing",
        gradient_checkpointing,
        "--members",
        str(MEMBERS),
        *more,
    ]
    return Run(
        name,
        "step.py",
        options,
        [
            *TINY,
            "--shapes",
            "1x64",
            "--gradient-checkpointing",
            gradient_checkpointing,
            "--members",
            str(MEMBERS),
            "--steps",
            "4",
            *more,
        ],
        targets,
    )


RUNS = (
    steps("7B NF4, 1 x 512, recomputed", LARGE, "1x512", "full", (speed(9_000), joint(0.30))),
    steps("7B NF4, 1 x 512, nothing recomputed", LARGE, "1x512", "none", (speed(13_500), joint(0.21))),
    steps("7B NF4, 4 x 2048, recomputed", LARGE, "4x2048", "full", (speed(14_500),)),
    steps("7B NF4, 4 x 2048, nothing recomputed", LARGE, "4x2048", "none", (speed(20_000), memory(38))),
    steps(
        "7B NF4, 1 x 512, least memory", LARGE, "1x512", "full", (speed(1_571), memory(4.6)), "--offload-activations"
    ),
    steps(
        "7B NF4, 4 x 2048, least memory", LARGE, "4x2048", "full", (speed(11_953), memory(6.5)), "--offload-activations"
    ),
    steps("124M bf16, 4 x 512", SMALL, "4x512", "none", (joint(0.036),), "--micro-batch-size", "4"),
    Run(
        "7B NF4, scoring 4 x 2048",
        "score.py",
        [*LARGE, "--context", "2048", "--tokens", "131072", "--batch-tokens", "8192"],
        [*TINY, "--context", "64", "--tokens", "2048", "--batch-tokens", "256", "--repeats", "1"],
        (
            Target(
                "ours, tokens/s",
                lambda result: result["results"]["ours, with ranks"]["tokens_per_second"],
                operator.ge,
                50_000,
                "",
            ),
            Target(
                "ours, reserved",
                lambda result: result["results"]["ours, with ranks"]["peak_bytes"] / GIB,
                operator.le,
                5,
                " GiB",
            ),
        ),
    ),
)


def main() -> None:
    """Run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rehearse", action="store_true", help="tiny models; compared with no target")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = Table(title="targets" + (", rehearsed" if options.rehearse else ""), title_justify="left")
    for column in ("run", "figure", "measured", "target", ""):
        table.add_column(column, justify="right" if column in ("measured", "target") else "left")
    for number, run in enumerate(RUNS):
        if options.only in run.name:
            result, ended = measured(run, options.out / f"{number}", options.rehearse)
            for target in run.targets:
                table.add_row(
                    run.name,
                    target.what,
                    *(
                        judged(target, result, options.rehearse)
                        if result
                        else (ended, f"{target.value:,g}{target.unit}", "")
                    ),
                )
    console = Console(width=130, record=True)
    console.print(table)
    (options.out / "targets.txt").write_text(console.export_text())


def measured(run: Run, stem: Path, rehearse: bool) -> tuple[Any, str]:
    """The JSON of a run, None where it failed; and how it ended."""
    written = stem.with_suffix(".json")
    written.unlink(missing_ok=True)
    command = [
        sys.executable,
        str(HERE / run.script),
        *(run.rehearsal if rehearse else run.options),
        "--json",
        str(written),
    ]
    with stem.with_suffix(".txt").open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    print(f"{run.name}: {'done' if code == 0 else f'ended with {code}, see {log.name}'}", flush=True)
    return (json.loads(written.read_text()) if code == 0 else None), f"ended with {code}"


def judged(target: Target, result: Any, rehearse: bool) -> tuple[str, str, str]:
    """The figure, its target and whether it holds, in words."""
    try:
        figure = target.of(result)
    except TypeError:  # the way did not run: its place holds the reason
        return "did not run", f"{target.value:,g}{target.unit}", ""
    verdict = "" if rehearse else "holds" if target.holds(figure, target.value) else "MISSED"
    return (
        f"{figure:,.4g}{target.unit}" if figure < 1000 else f"{figure:,.0f}{target.unit}",
        f"{target.value:,g}{target.unit}",
        verdict,
    )


if __name__ == "__main__":
    main()
