"""The verbs of the command line: parse, call `api`, print. Starts without torch."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from peftodyssey.cli.check import check, name_damage
from peftodyssey.cli.doctor import doctor
from peftodyssey.cli.export import export
from peftodyssey.cli.options import (
    CheckpointDiskOpt,
    DeviceOpt,
    DirArg,
    MemoryOpt,
    RecipeArg,
    SelfCheckOpt,
    SetOpt,
    VerboseOpt,
    console,
    one_of,
    pairs,
    prepare_process,
    say,
    starting,
)
from peftodyssey.cli.plan import plan
from peftodyssey.cli.query import query
from peftodyssey.cli.report import report
from peftodyssey.cli.score import score
from peftodyssey.cli.subcommands import ladder_app, recipes_app
from peftodyssey.cli.unexpected import DEBUG, debug_asked, quiet_threads, sentence
from peftodyssey.errors import (
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    EXIT_USER,
    OdysseyError,
    RecipeError,
)
from peftodyssey.recipe.option_values import seconds, size_bytes

app = typer.Typer(
    name="peftodyssey",
    help="Compare full fine-tuning, LoRA, QLoRA and other constraints on the update, token by token, on one GPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 some cells failed, or an unexpected error; "
    "2 wrong input; 3 does not fit; 130 interrupted and resumable.",
)
app.add_typer(recipes_app, name="recipes")
app.add_typer(ladder_app, name="ladder")


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[  # taken off the command line by `main`, and here to be listed
        bool, typer.Option(DEBUG, help="Print the traceback of an unexpected error; anywhere on the line.")
    ] = False,
) -> None:
    if version:
        from peftodyssey._version import __version__

        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def run(
    recipe: RecipeArg,
    out: Annotated[Path | None, typer.Option("--out", help="Output directory; default: runs/<recipe name>.")] = None,
    set_: SetOpt = None,
    only: Annotated[str | None, typer.Option("--only", help="Cells to do, e.g. method=lora,rank=8.")] = None,
    memory: MemoryOpt = None,
    stop_after: Annotated[str | None, typer.Option("--stop-after", help="End cleanly after, e.g. 8h.")] = None,
    keep: Annotated[str, typer.Option("--keep", help="Weights to keep: adapters, best or all.")] = "adapters",
    refresh: Annotated[
        str | None, typer.Option("--refresh", help="`stale`: recompute results made with other library versions.")
    ] = None,
    checkpoint_every: Annotated[str, typer.Option("--checkpoint-every", help="Time between checkpoints.")] = "10m",
    checkpoint_disk: CheckpointDiskOpt = None,
    device: DeviceOpt = "auto",
    allow_oom: Annotated[
        bool, typer.Option("--allow-oom", help="Start although the plan says it does not fit.")
    ] = False,
    self_check: SelfCheckOpt = True,
    verbose: VerboseOpt = False,
) -> None:
    """Train and score what is missing of a recipe, then write the report. A second run resumes, or does nothing."""
    from peftodyssey import api
    from peftodyssey.execution.launch import Options
    from peftodyssey.execution.outcome import summary
    from peftodyssey.execution.shorter import shorter_lines
    from peftodyssey.execution.time_left import time_line
    from peftodyssey.measures.contrast.section import headlines
    from peftodyssey.report import answers, console_table
    from peftodyssey.report.search_output import search_lines

    options = Options(
        only=pairs(only),
        keep=one_of("--keep", keep, ("adapters", "best", "all")),
        stop_after_s=seconds(stop_after),
        checkpoint_every_s=seconds(checkpoint_every) or 0.0,
        refresh=one_of("--refresh", refresh, ("stale",)) == "stale" if refresh else False,
        allow_oom=allow_oom,
        memory_bytes=size_bytes(memory),
        checkpoint_disk_bytes=size_bytes(checkpoint_disk, "--checkpoint-disk"),
        self_check=self_check,
        verbose=verbose,
    )
    loaded = api.load(recipe, set_ or ())
    folder = out or api.DEFAULT_ROOT / loaded.name
    plan = api.plan(loaded, device=device, memory=memory, out=folder, measure=True)
    longer = shorter_lines(plan, folder, partial(api.plan, device=device, memory=memory))
    warnings = (f"warning: {warning}" for warning in plan.warnings)
    for line in (*longer, *warnings, *search_lines(plan), time_line(plan, folder, recipe)):
        console(stderr=True).print(line, markup=False, soft_wrap=True)
    starting(f"{plan.recipe.name}: {len(plan.cells)} cells on {plan.device.name}")
    opened, outcome, root = api.run_plan(plan, out, options=options, console=console(stderr=True))
    if opened is None:
        say(f"Interrupted: {outcome.interrupted}")
        raise typer.Exit(EXIT_INTERRUPTED)
    rows = opened.results.to_pylist()
    console().print(console_table.table(rows))
    for line in (*answers.lines(rows), *headlines(opened.query("select * from contrast").to_pylist())):
        say(line)
    say(summary(outcome, root))
    raise typer.Exit(EXIT_SOME_FAILED if outcome.failed else 0)


app.command()(check)


app.command()(plan)


@app.command()
def status(folder: DirArg) -> None:
    """The state of every cell of a run: done, failed, stopped, started or pending; and the time that is left."""
    from peftodyssey.execution.lr_search import lines
    from peftodyssey.execution.status import status as read
    from peftodyssey.execution.time_left import status_line
    from peftodyssey.report import console_output

    cells = read(folder)
    name_damage([folder])
    for line in (*console_output.status(cells), *lines(folder), status_line(folder)):
        console().print(line, soft_wrap=True)


app.command()(report)


app.command()(query)


app.command()(score)


app.command()(export)


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    import json

    from peftodyssey.measures.registry import SPECS
    from peftodyssey.recipe.schema import json_schema

    print(json.dumps(json_schema(SPECS), indent=2))


app.command()(doctor)


def main() -> None:
    """Entry point: whatever goes wrong becomes a message and an exit code, never a traceback but under --debug."""
    debug = debug_asked()
    prepare_process()
    quiet_threads(debug)
    errors = Console(stderr=True, highlight=False)
    try:
        app()
    except RecipeError as error:
        for problem in error.problems:
            errors.print(str(problem), markup=False, soft_wrap=True)
        errors.print(f"{error.next_step}.", markup=False)
        sys.exit(EXIT_USER)
    except OdysseyError as error:
        errors.print(f"error: {error}", markup=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        errors.print("interrupted; start the same command again, it resumes", markup=False)
        sys.exit(EXIT_INTERRUPTED)
    except Exception as error:
        if debug:
            raise
        errors.print(sentence(error), markup=False, soft_wrap=True)
        sys.exit(EXIT_SOME_FAILED)


if __name__ == "__main__":
    main()
