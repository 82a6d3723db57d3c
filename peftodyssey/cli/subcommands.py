"""The commands with commands of their own: `recipes ...` and `ladder ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftodyssey.cli.options import DeviceOpt, SetOpt, console, say
from peftodyssey.errors import EXIT_INTERRUPTED
from peftodyssey.recipe.option_values import seconds

recipes_app = typer.Typer(
    help="Shipped recipes, and a commented new one for your model and text.", no_args_is_help=True
)
ladder_app = typer.Typer(help="Rungs of a pretraining ladder: list them, or train a small one.", no_args_is_help=True)


@ladder_app.command("list")
def ladder_list(
    model: Annotated[str, typer.Argument(help="bundled/<model>, a Hub id, or a folder of rungs.")],
) -> None:
    """Rungs of a ladder: name, tokens, tokens per parameter, learning rate, arm; and those that are the same bytes."""
    from peftodyssey.models.equal_rungs import examined
    from peftodyssey.models.ladder import find_ladder
    from peftodyssey.report import ladder_output

    for part in ladder_output.ladder(examined(find_ladder(model))):
        console().print(part)


@ladder_app.command("train")
def ladder_train(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="A ladder's recipe file, or the name of a shipped one.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the ladder; default: ladders/<recipe name>.")
    ] = None,
    set_: SetOpt = None,
    stop_after: Annotated[str | None, typer.Option("--stop-after", help="End cleanly after, e.g. 8h.")] = None,
    checkpoint_every: Annotated[str, typer.Option("--checkpoint-every", help="Time between checkpoints.")] = "10m",
    device: DeviceOpt = "auto",
) -> None:
    """Pretrain a small model at several budgets: a trunk, and branches that decay; what is there is not done again."""
    from peftodyssey import api
    from peftodyssey.models.ladder import find_ladder
    from peftodyssey.report import ladder_output

    plan = api.plan_ladder(recipe, set_ or (), device=device)
    root = out if out is not None else api.LADDERS_ROOT / plan.recipe.name
    trained = api.train_ladder(
        plan,
        root,
        stop_after_s=seconds(stop_after),
        checkpoint_every_s=seconds(checkpoint_every) or 0.0,
        console=console(stderr=True),
    )
    if trained.interrupted:
        say(f"Interrupted: {trained.interrupted}")
        raise typer.Exit(EXIT_INTERRUPTED)
    for part in ladder_output.ladder(find_ladder(str(root))):
        console().print(part)
    rate = "" if trained.tokens_per_second is None else f", {trained.tokens_per_second:,.0f} tokens a second"
    say(f"Ladder: {root} ({trained.steps:,} steps now{rate})")


@recipes_app.command("list")
def recipes_list() -> None:
    """Names of the shipped recipes and what each is for."""
    from peftodyssey.recipe import bundled

    for name, sentence in (*bundled.names(), *bundled.ladders()):
        print(f"{name:<24} {sentence}")


@recipes_app.command("show")
def recipes_show(name: str) -> None:
    """Print a shipped recipe."""
    from peftodyssey.recipe import bundled

    print(bundled.read(name), end="")


@recipes_app.command("copy")
def recipes_copy(name: str, to: Path) -> None:
    """Copy a shipped recipe to a file of your own."""
    from peftodyssey.recipe import bundled

    say(f"Written: {bundled.copy(name, to)}")


@recipes_app.command("new")
def recipes_new(
    to: Path,
    model: Annotated[list[str], typer.Option("--model", help="Model name; may be repeated.")],
    domain: Annotated[list[str], typer.Option("--domain", help="Your text; may be repeated.")],
) -> None:
    """Write a commented recipe for your models and texts, ready to check and run: its keys follow what is in them."""
    from peftodyssey import api

    say(f"Written: {api.new_recipe(to, model, domain)}\nNext: peftodyssey check {to}")
    say("Weights of full fine-tuning are deleted after scoring; `peftodyssey run --keep best` keeps the best.")
