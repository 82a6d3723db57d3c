"""Every target of multi-LoRA and of the native step on a GPU, in one command: measured beside target.

    python benchmarks/card.py --out card/             on a card: 7B in NF4 and 124M in bf16, random weights
    python benchmarks/card.py --out card/ --rehearse  the same runs on tiny models, on whatever there is; no bar is
      judged

Each run is `step.py` or `scoring.py` in a process of its own, so that one that does not fit ends alone; their tables
stand in `out` as JSON and as text. The bars are for one H200 and are read beside the stock stack's figures of the same
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
class Bar:
    """One figure of a run and what it is held to."""

    what: str
    of: Callable[[Any], float]  # the run's JSON -> the figure
    holds: Callable[[float, float], bool]
    bar: float
    unit: str


@dataclass(frozen=True)
class Run:
    """One process: a script with its options, and the bars that its figures meet."""

    name: str
    script: str
    options: list[str]
    rehearsal: list[str]
    bars: tuple[Bar, ...]


def speed(bar: float, way: str = "ours", row: int = 0) -> Bar:
    """Tokens a second of one way of a shape."""
    return Bar(
        f"{way}, tokens/s", lambda found: _tokens(found, row) / found["rows"][row][way]["seconds"], operator.ge, bar, ""
    )


def memory(bar_gib: float, row: int = 0) -> Bar:
    """Reserved memory of ours."""
    return Bar(
        "ours, reserved",
        lambda found: (found["rows"][row]["ours"]["peak_bytes"] or 0) / GIB,
        operator.le,
        bar_gib,
        " GiB",
    )


def joint(bar_s: float) -> Bar:
    """Seconds of one step of all members together."""
    together = f"ours, {MEMBERS} together"
    return Bar(
        f"{MEMBERS} together, s/step", lambda found: found["rows"][0][together]["seconds"], operator.le, bar_s, " s"
    )


def _tokens(found: Any, row: int) -> int:
    return int(found["rows"][row]["blocks"]) * int(found["rows"][row]["seq_len"])


def steps(
    name: str, model: list[str], shape: str, gradient_checkpointing: str, bars: tuple[Bar, ...], *more: str
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
        bars,
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
    steps("124M bf16, 4 x 512", SMALL, "4x512", "none", (joint(0.036),), "--micro-blocks", "4"),
    Run(
        "7B NF4, scoring 4 x 2048",
        "scoring.py",
        [*LARGE, "--context", "2048", "--tokens", "131072", "--batch-tokens", "8192"],
        [*TINY, "--context", "64", "--tokens", "2048", "--batch-tokens", "256", "--repeats", "1"],
        (
            Bar(
                "ours, tokens/s",
                lambda found: found["results"]["ours, with ranks"]["tokens_per_second"],
                operator.ge,
                50_000,
                "",
            ),
            Bar(
                "ours, reserved",
                lambda found: found["results"]["ours, with ranks"]["peak_bytes"] / GIB,
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
    parser.add_argument("--rehearse", action="store_true", help="tiny models; no bar is judged")
    parser.add_argument("--only", default="", help="runs whose name contains this")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = Table(title="bars" + (", rehearsed" if options.rehearse else ""), title_justify="left")
    for column in ("run", "figure", "measured", "bar", ""):
        table.add_column(column, justify="right" if column in ("measured", "bar") else "left")
    for number, run in enumerate(RUNS):
        if options.only in run.name:
            found, ended = measured(run, options.out / f"{number}", options.rehearse)
            for bar in run.bars:
                table.add_row(
                    run.name,
                    bar.what,
                    *(judged(bar, found, options.rehearse) if found else (ended, f"{bar.bar:,g}{bar.unit}", "")),
                )
    console = Console(width=130, record=True)
    console.print(table)
    (options.out / "bars.txt").write_text(console.export_text())


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


def judged(bar: Bar, found: Any, rehearse: bool) -> tuple[str, str, str]:
    """The figure, its bar and whether it holds, in words."""
    try:
        figure = bar.of(found)
    except TypeError:  # the way did not run: its place holds the reason
        return "did not run", f"{bar.bar:,g}{bar.unit}", ""
    verdict = "" if rehearse else "holds" if bar.holds(figure, bar.bar) else "MISSED"
    return (
        f"{figure:,.4g}{bar.unit}" if figure < 1000 else f"{figure:,.0f}{bar.unit}",
        f"{bar.bar:,g}{bar.unit}",
        verdict,
    )


if __name__ == "__main__":
    main()
