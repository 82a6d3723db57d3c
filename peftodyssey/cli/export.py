"""The verb `export`: a cell's adapter or merged model as a folder that others load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftodyssey.cli.options import DeviceOpt, DirArg, ScoringOpt, say, starting, usage


def export(
    folder: DirArg,
    cell: Annotated[
        str,
        typer.Argument(
            metavar="CELL",
            help="A hash, method=lora,rank=8, or `best`: of those with weights, the largest fall of validation loss.",
        ),
    ],
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write; default: DIR/export/<cell>.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into its base, and measure both.")] = False,
    into: Annotated[
        str | None,
        typer.Option("--into", help="Of a quantised base: dequantised (what was trained on; default) or original."),
    ] = None,
    max_drift: Annotated[
        float | None,
        typer.Option("--max-drift", help="Rise of the NLL by the merge that is accepted, nats/token; default 0.01."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write the merged model whatever its drift.")] = False,
    push: Annotated[str | None, typer.Option("--push", help="Also upload to this Hub repository.")] = None,
    scoring: ScoringOpt = None,
    device: DeviceOpt = "auto",
) -> None:
    """A PEFT adapter (or merged model) that plain peft loads, with a card of its measured results."""
    if not merge and (into is not None or max_drift is not None or force):
        raise usage("--into, --max-drift and --force belong to --merge")
    from peftodyssey import api
    from peftodyssey.execution.merge import MAX_DRIFT, MergeOptions

    options = MergeOptions(into, MAX_DRIFT if max_drift is None else max_drift, force) if merge else False
    starting(f"Exporting {cell} of {folder}")
    exported = api.export(folder, cell, to=to, merge=options, push=push, scoring=scoring, device=device)
    say(f"Exported: {exported.folder}\nCell: {exported.cell}")
    for line in exported.merged.lines if exported.merged else ():
        say(line)
    for note in exported.notes:
        say(f"note: {note}")
