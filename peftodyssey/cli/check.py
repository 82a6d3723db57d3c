"""The verb `check`: of a recipe before it runs, and of a directory of results afterwards."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from peftodyssey.cli.options import DeviceOpt, MemoryOpt, SetOpt, console, say, usage
from peftodyssey.errors import EXIT_DOES_NOT_FIT, EXIT_SOME_FAILED

if TYPE_CHECKING:
    from peftodyssey.plan.tasks import Plan


def check(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE|DIR", help="A recipe, or a directory that `run` or `ladder train` wrote.")
    ],
    set_: SetOpt = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Print so many documents as tokens.")] = 0,
    memory: MemoryOpt = None,
    device: DeviceOpt = "auto",
    repair: Annotated[
        bool, typer.Option("--repair", help="Of a directory: make again what needs no model, and say what `run` does.")
    ] = False,
) -> None:
    """Validate a recipe: its grid, memory, disk, warnings; or hash every file of a directory of results.

    Loads no weights.
    """
    if os.path.isdir(recipe):
        _check_store(Path(recipe), repair)
        return
    if repair:
        raise usage("--repair belongs to a directory of results")
    from peftodyssey import api
    from peftodyssey.execution.time_left import time_line
    from peftodyssey.plan import host_and_disk
    from peftodyssey.recipe.load_ladder import is_ladder
    from peftodyssey.report import console_output, ladder_output

    if is_ladder(recipe):
        for part in ladder_output.plan(api.plan_ladder(recipe, set_ or (), device=device)):
            console().print(part)
        return
    loaded = api.load(recipe, set_ or ())
    root = api.DEFAULT_ROOT / loaded.name
    plan = api.plan(loaded, device=device, memory=memory, out=root)
    for part in (*console_output.check(plan, root), *console_output.documents(plan, show)):
        console().print(part)
    say(time_line(plan, root, recipe))
    raise typer.Exit(EXIT_DOES_NOT_FIT if plan.too_large or host_and_disk.problems(plan, root) else 0)


def _check_store(root: Path, repair: bool) -> None:
    """Print what lies in a directory of results and what of it is damaged; exit code 1 where something is."""
    from peftodyssey.report.survey_output import lines
    from peftodyssey.store.survey import survey

    if repair:
        from peftodyssey import api
        from peftodyssey.execution.repair import repair as mend

        def plan_of(recipe: str, device: str) -> Plan:
            return api.plan(recipe, device=device, out=root)

        for line in mend(root, plan_of, lambda folder: api.report([folder])):
            say(line)
    found = survey(root)
    for part in lines(found, root):
        console().print(part, soft_wrap=True)
    raise typer.Exit(EXIT_SOME_FAILED if found.damage else 0)


def name_damage(folders: Sequence[Path]) -> int:
    """Print on standard error what is damaged in directories of results; returns how much is."""
    from peftodyssey.store.survey import known_damage

    found = [(folder, damage) for folder in folders for damage in known_damage(folder)]
    for folder, damage in found:
        console(stderr=True).print(f"damaged: {folder / damage.place}: {damage.what}", markup=False, soft_wrap=True)
    if found:
        text = "what is damaged decides no number; run the recipe again into this directory: it is made again"
        console(stderr=True).print(text, markup=False, soft_wrap=True)
    return len(found)
