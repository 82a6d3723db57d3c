"""The verb `doctor`: what of this machine, of an adapter, or of the laws on a model does not work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftodyssey.cli.options import DeviceOpt, say, starting, usage
from peftodyssey.errors import EXIT_USER

DEFAULT_MODEL, DEFAULT_REVISION = "bundled/odyssey-3m", "annealed-64M"  # of --laws


def doctor(
    model: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="Of --laws; default: a bundled one.")] = None,
    laws: Annotated[
        bool,
        typer.Option("--laws", help="Test the laws of docs/guarantees.md on MODEL and this device."),
    ] = False,
    adapter: Annotated[Path | None, typer.Option("--adapter", help="Examine this adapter folder; with --base.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="The base of the adapter, as `score` takes it.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of the base, or of MODEL.")] = None,
    device: DeviceOpt = "auto",
) -> None:
    """Environment, versions, GPU, and what will not work; or an adapter on its base; or the laws on a model."""
    from peftodyssey.execution.doctor import PROBLEM, examine

    if (adapter is None) != (base is None):
        raise usage("--adapter and --base belong together")
    if laws and adapter is not None:
        raise usage("--laws and --adapter are different examinations")
    if model is not None and not laws:
        raise usage("MODEL belongs to --laws")
    lines, all_well = examine(), "everything needed is there"
    if laws:
        from peftodyssey import api
        from peftodyssey.execution.laws import examine_laws
        from peftodyssey.measures.registry import MEASURES_BY_NAME

        named = model or DEFAULT_MODEL
        asked = {"name": named, "revisions": [revision or DEFAULT_REVISION] if revision or not model else None}
        starting(f"Testing the laws on {named}")
        lines = examine_laws(asked, lambda recipe: api.plan(recipe, device=device), MEASURES_BY_NAME)
        all_well = "every law that was tested is held"
    if adapter is not None and base is not None:
        from peftodyssey.execution.adapter_doctor import examine_adapter

        starting(f"Examining {adapter} on {base}")
        lines, all_well = examine_adapter(adapter, base, revision, device), "the adapter belongs to this base"
    n_problems = 0
    for line in lines:
        n_problems += line.startswith(PROBLEM)
        say(line)
    say(f"{n_problems} problem{'s' * (n_problems > 1)}" if n_problems else all_well)
    raise typer.Exit(EXIT_USER if n_problems else 0)
