"""`peftodyssey report`: tables, figures and the page of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftodyssey.cli.check import name_damage
from peftodyssey.cli.options import ScoringOpt, say, starting, usage
from peftodyssey.errors import EXIT_SOME_FAILED


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Directories that `run` wrote.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the page goes; default: the first directory.")
    ] = None,
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Leave out every word and token of documents, to pass the report on.")
    ] = False,
    zip: Annotated[
        Path | None, typer.Option("--zip", metavar="FILE", help="Also pack report, tables and manifests, no weights.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Keep the page current while the run goes on.")] = False,
    scoring: ScoringOpt = None,
) -> None:
    """Rebuild tables, figures and the page; several directories are compared on one page."""
    from peftodyssey import api

    if watch and zip is not None:
        raise usage("--watch rebuilds the page until the run ends: give --zip to a second `report`, when it has")
    starting(f"Collecting {', '.join(map(str, folders))}")
    page = api.report(folders, out, scoring=scoring, with_text=not no_text, zip=zip, watch=watch)
    say(f"Report: {page}")
    if zip is not None:
        say(f"Packed: {zip}")
    raise typer.Exit(EXIT_SOME_FAILED if name_damage(folders) else 0)
