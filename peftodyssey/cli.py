"""The command line. Floor 7, verbs only: parse, call `api`, print. Starts without torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from peftodyssey.errors import (
    EXIT_DOES_NOT_FIT,
    EXIT_INTERRUPTED,
    EXIT_SOME_FAILED,
    EXIT_USER,
    OdysseyError,
    RecipeError,
)

app = typer.Typer(
    name="peftodyssey",
    help="Compare full fine-tuning, LoRA, QLoRA and other constraints on the update, token by token, on one GPU.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done; 1 some cells failed; 2 wrong input; 3 does not fit; 130 interrupted and resumable.",
)
recipes_app = typer.Typer(help="Shipped recipes, and a commented new one for your model and text.", no_args_is_help=True)
ladder_app = typer.Typer(help="Rungs of a pretraining ladder.", no_args_is_help=True)
app.add_typer(recipes_app, name="recipes")
app.add_typer(ladder_app, name="ladder")

RecipeArg = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")]
SetOpt = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, e.g. methods[1].rank=[4,16].")]
MemoryOpt = Annotated[str | None, typer.Option("--memory", help="Budget such as 22GiB; default: what is free.")]
DeviceOpt = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
DirArg = Annotated[Path, typer.Argument(metavar="DIR", help="The directory that `run` wrote.")]


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    if version:
        from peftodyssey import __version__

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
    refresh: Annotated[str | None, typer.Option("--refresh", help="stale: redo what other library versions did.")] = None,
    checkpoint_every: Annotated[str, typer.Option("--checkpoint-every", help="Time between checkpoints.")] = "10m",
    device: DeviceOpt = "auto",
    allow_oom: Annotated[bool, typer.Option("--allow-oom", help="Start although the plan says it does not fit.")] = False,
) -> None:
    """Train and score what is missing of a recipe, then write the report; running it again does nothing."""
    from peftodyssey import api
    from peftodyssey.run.start import Options

    options = Options(
        only=_pairs(only), keep=_one_of("--keep", keep, ("adapters", "best", "all")),
        stop_after_s=api.seconds(stop_after), checkpoint_every_s=api.seconds(checkpoint_every) or 0.0,
        refresh=_one_of("--refresh", refresh, ("stale",)) == "stale" if refresh else False,
        allow_oom=allow_oom, memory_bytes=api.size_bytes(memory),
    )  # fmt: skip
    plan = api.plan(api.load(recipe, set_ or ()), device=device, memory=memory)
    opened, outcome, root = api.run_plan(plan, out, options=options, console=_console(stderr=True))
    if opened is None:
        _say(f"Interrupted: {outcome.interrupted}")
        raise typer.Exit(EXIT_INTERRUPTED)
    from peftodyssey.report import final_table

    _console().print(final_table.table(opened.results.to_pylist()))
    _say(_summary(outcome, root))
    raise typer.Exit(EXIT_SOME_FAILED if outcome.failed else 0)


def _summary(outcome: Any, root: Path) -> str:
    parts = [f"{outcome.done} done"] * bool(outcome.done) + [f"{outcome.skipped} were there"] * bool(outcome.skipped)
    parts += [f"{len(outcome.failed)} failed"] * bool(outcome.failed)
    lines = [f"Cells: {', '.join(parts) or 'none'}.", f"Report: {root / 'report' / 'index.html'}"]
    return "\n".join([*(f"failed: {folder}: {why}" for folder, why in outcome.failed.items()), *lines])


@app.command()
def check(
    recipe: RecipeArg,
    set_: SetOpt = None,
    show: Annotated[int, typer.Option("--show", min=0, help="Print so many documents as tokens.")] = 0,
    memory: MemoryOpt = None,
    device: DeviceOpt = "auto",
) -> None:
    """Validate a recipe; print its grid, memory, disk and every warning. Loads no weights."""
    from peftodyssey import api
    from peftodyssey.report import preflight

    plan = api.plan(api.load(recipe, set_ or ()), device=device, memory=memory)
    console = _console()
    for part in preflight.check(plan):
        console.print(part)
    for part in preflight.documents(plan, show):
        console.print(part)
    raise typer.Exit(EXIT_DOES_NOT_FIT if plan.too_large else 0)


@app.command()
def plan(
    recipe: Annotated[str | None, typer.Argument(metavar="[RECIPE]", help="A recipe; or describe one step by options.")] = None,
    set_: SetOpt = None,
    model: Annotated[str | None, typer.Option("--model", help="Model name, e.g. random/llama-7b.")] = None,
    method: Annotated[str, typer.Option("--method", help="full, lora or qlora.")] = "lora",
    rank: Annotated[int, typer.Option("--rank", min=1, help="Adapter rank.")] = 8,
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help="Tokens of a block.")] = 512,
    micro_batch: Annotated[int, typer.Option("--micro-batch", min=1, help="Blocks at a time.")] = 1,
    recompute: Annotated[str, typer.Option("--recompute", help="full or none.")] = "full",
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw.")] = "adamw",
    engine: Annotated[str, typer.Option("--engine", help="own, stock or trl.")] = "own",
    memory: MemoryOpt = None,
    device: DeviceOpt = "auto",
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Will it fit, term by term. Loads no weights and no torch."""
    from peftodyssey import api
    from peftodyssey.report import preflight

    if recipe is not None:
        answer: Any = api.plan(api.load(recipe, set_ or ()), device=device, memory=memory)
        fits, parts = not answer.too_large, preflight.plan(answer)
        text = preflight.plan_json(answer)
    elif model is not None:
        step = api.plan_step(
            model, method=_one_of("--method", method, ("full", "lora", "qlora")), rank=rank, seq_len=seq_len,
            micro_batch=micro_batch, recompute=_one_of("--recompute", recompute, ("full", "none")),
            optimizer=_one_of("--optimizer", optimizer, ("adamw",)), device=device, memory=memory,
            engine=_one_of("--engine", engine, ("own", "stock", "trl")),
        )  # fmt: skip
        fits, parts, text = step.fits, preflight.step(step), preflight.step_json(step)
    else:
        raise _usage("give a recipe, or --model with --method, --rank, --seq-len ...")
    if json_:
        print(text)
    else:
        for part in parts:
            _console().print(part)
    raise typer.Exit(0 if fits else EXIT_DOES_NOT_FIT)


@app.command()
def status(folder: DirArg) -> None:
    """Where a run stands."""
    from peftodyssey.report import preflight
    from peftodyssey.run.status import status as read

    _console().print(preflight.status(read(folder)))


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Directories that `run` wrote.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where the page goes; default: the first directory.")] = None,
) -> None:
    """Rebuild tables, figures and the page; several directories are compared on one page."""
    from peftodyssey import api

    _say(f"Report: {api.report(folders, out)}")


@app.command()
def query(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR... [SQL]", help="Directories, then the query.")],
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """SQL (DuckDB) over results and tokens; without SQL, the views and their columns."""
    from peftodyssey.report import preflight
    from peftodyssey.store.query import query as ask

    last = str(folders[-1])
    sql = last if len(folders) > 1 and not Path(last).is_dir() else None
    table = ask(folders[:-1] if sql else folders, sql)
    if csv:
        sys.stdout.write(preflight.as_csv(table))
    else:
        _console().print(preflight.as_table(table))


@app.command()
def score(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="bundled/..., a Hub id or a folder.")],
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="bundled/..., hub:..., m2d2/... or a path.")],
    adapter: Annotated[list[Path] | None, typer.Option("--adapter", help="Adapter folder; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Keep index and columns here.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of the model.")] = None,
    split: Annotated[str, typer.Option("--split", help="train, valid, test or all.")] = "test",
    context: Annotated[int | None, typer.Option("--context", help="Tokens of a window.")] = None,
    stride: Annotated[int | None, typer.Option("--stride", help="Tokens newly scored by a window.")] = None,
    tokens: Annotated[str, typer.Option("--tokens", help="Cap, by whole documents; or all.")] = "50k",
    first_token: Annotated[str, typer.Option("--first-token", help="bos or skip.")] = "bos",
    mode: Annotated[str, typer.Option("--mode", help="documents or stream.")] = "documents",
    quant: Annotated[str | None, typer.Option("--quant", help="nf4, fp4 or int8.")] = None,
    field: Annotated[str | None, typer.Option("--field", help="Text field of jsonl, parquet or Hub rows.")] = None,
    device: DeviceOpt = "auto",
) -> None:
    """Per-token NLL of anything on anything, before and after, with intervals."""
    from peftodyssey import api
    from peftodyssey.report import preflight

    settings = {
        "context": context, "stride": stride, "tokens": tokens, "first_token": first_token, "mode": mode, "field": field,
    }  # fmt: skip
    scored = api.score(
        model, corpus, adapter or (), revision=revision, split=split, out=out, device=device, quant=quant,
        settings=settings, console=_console(stderr=True),
    )  # fmt: skip
    for part in preflight.scored(scored):
        _console().print(part)


@app.command()
def export(
    folder: DirArg,
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A hash, `best`, or method=lora,rank=8.")],
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write; default: DIR/export/<cell>.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Merge the adapter into full-precision weights.")] = False,
    push: Annotated[str | None, typer.Option("--push", help="Also upload to this Hub repository.")] = None,
) -> None:
    """A PEFT adapter (or merged model) that plain peft loads, with a card of its measured results."""
    from peftodyssey import api

    _say(f"Exported: {api.export(folder, cell, to=to, merge=merge, push=push)}")


@ladder_app.command("list")
def ladder_list(model: Annotated[str, typer.Argument(help="bundled/<model>, or a folder with ladder.json.")]) -> None:
    """Rungs of a ladder: name, tokens, arm."""
    from peftodyssey.models.ladder import rungs
    from peftodyssey.report import preflight

    _console().print(preflight.ladder(rungs(model)))


@recipes_app.command("list")
def recipes_list() -> None:
    """Names of the shipped recipes and what each is for."""
    from peftodyssey.recipe import shipped

    for name, sentence in shipped.names():
        print(f"{name:<24} {sentence}")


@recipes_app.command("show")
def recipes_show(name: str) -> None:
    """Print a shipped recipe."""
    from peftodyssey.recipe import shipped

    print(shipped.read(name), end="")


@recipes_app.command("copy")
def recipes_copy(name: str, to: Path) -> None:
    """Copy a shipped recipe to a file of your own."""
    from peftodyssey.recipe import shipped

    _say(f"Written: {shipped.copy(name, to)}")


@recipes_app.command("new")
def recipes_new(
    to: Path,
    model: Annotated[str, typer.Option("--model", help="Model name.")],
    domain: Annotated[list[str], typer.Option("--domain", help="Your text; may be repeated.")],
) -> None:
    """Write a commented recipe for your model and text, ready to check and run."""
    from peftodyssey.recipe import shipped

    _say(f"Written: {shipped.new(to, model, domain)}\nNext: peftodyssey check {to}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    import json

    from peftodyssey.recipe.schema import json_schema

    print(json.dumps(json_schema(), indent=2))


@app.command()
def doctor() -> None:
    """Environment, versions, GPU; what will not work and why."""
    from peftodyssey.run.doctor import examine

    lines, healthy = examine()
    for line in lines:
        _say(line)
    raise typer.Exit(0 if healthy else EXIT_USER)


def _pairs(text: str | None) -> dict[str, str]:
    """`method=lora,rank=8` as a mapping; every key is a column of the results."""
    from peftodyssey.store.tables import RESULTS

    pairs: dict[str, str] = {}
    for part in (text or "").split(",") if text else []:
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in RESULTS:
            raise _usage(f"--only {part!r}: write column=value, e.g. method=lora,rank=8; columns: {', '.join(RESULTS)}")
        pairs[key.strip()] = value.strip()
    return pairs


def _one_of(option: str, value: str | None, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise _usage(f"{option} {value}: allowed are {', '.join(allowed)}")
    return value


def _usage(message: str) -> OdysseyError:
    from peftodyssey.errors import InputError

    return InputError(message, "peftodyssey COMMAND --help lists the options")


def _console(stderr: bool = False) -> Console:
    return Console(stderr=stderr, highlight=False)


def _say(text: str) -> None:
    _console().print(text, markup=False, soft_wrap=True)


def main() -> None:
    """Entry point: user mistakes become a message and an exit code, never a traceback."""
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
        errors.print("interrupted; start the same command again, it goes on from there", markup=False)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
