"""What the commands share: common options, reading of values, and where they print."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from peftodyssey.errors import InputError
from peftodyssey.memory.device import prepare_allocator

# Idle OpenMP threads spin for milliseconds by default: on a core shared with other processes, the other threads then
# wait for one that does not run, and training fell from 6,500 to 860 tokens a second in one measurement.
# A short spin keeps 95 % of the speed on free cores and all of it on shared ones. libgomp reads it with torch.
SPIN_COUNT = "1000"
PIPED_WIDTH = 1000  # columns of piped output, so that no table is wrapped inside a number or a hash

RecipeArg = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")]
SetOpt = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. methods[1].rank=[4,16].")
]
MemoryOpt = Annotated[str | None, typer.Option("--memory", help="Budget such as 22GiB; default: what is free.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
VerboseOpt = Annotated[bool, typer.Option("--verbose", help="Print the folder of every task, which else run.log has.")]
CheckpointDiskOpt = Annotated[
    str | None,
    typer.Option(
        "--checkpoint-disk",
        help="Limit for downloaded models, e.g. 50GB; finished ones are deleted to make room.",
    ),
]
SelfCheckOpt = Annotated[
    bool,
    typer.Option("--selfcheck/--no-selfcheck", help="Every training checks itself; the figures are in its manifest."),
]
ScoringOpt = Annotated[
    str | None,
    typer.Option("--scoring", metavar="NAME", help="Another way of scoring than the newest; the report names them."),
]
DirArg = Annotated[Path, typer.Argument(metavar="DIR", help="The directory that `run` wrote.")]


def pairs(text: str | None) -> dict[str, str]:
    """`method=lora,rank=8` as a mapping; every key is a column of the results."""
    from peftodyssey.store.tables import RESULTS

    pairs: dict[str, str] = {}
    for part in (text or "").split(",") if text else []:
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in RESULTS:
            raise usage(f"--only {part!r}: write column=value, e.g. method=lora,rank=8; columns: {', '.join(RESULTS)}")
        pairs[key.strip()] = value.strip()
    return pairs


def one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> str:
    """`value` where it is allowed, else a mistake that lists what is."""
    if value not in allowed:
        raise usage(f"{option} {value}: allowed are {', '.join(allowed)}")
    return value


def usage(message: str) -> InputError:
    """A mistake on the command line, with where to look."""
    return InputError(message, "peftodyssey COMMAND --help lists the options")


def console(stderr: bool = False) -> Console:
    """Standard output or standard error; as wide as the terminal, or as wide as needed where it is piped."""
    stream = sys.stderr if stderr else sys.stdout
    return Console(
        stderr=stderr, highlight=False, width=None if stream.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    )


def say(text: str) -> None:
    """One plain line, not wrapped and not interpreted."""
    console().print(text, markup=False, soft_wrap=True)


def starting(text: str) -> None:
    """A line on standard error before the libraries are imported, which takes seconds."""
    console(stderr=True).print(f"{text} ...", markup=False, soft_wrap=True)


def prepare_process() -> None:
    """Settings that torch reads when it is imported, where the user has not set them; warnings of libraries are off."""
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    prepare_allocator()
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
