"""The commands with commands of their own: `recipes ...` and `ladder ...`. Floor 7, part of `cli`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftodyssey.cli_words import console, say

recipes_app = typer.Typer(help="Shipped recipes, and a commented new one for your model and text.", no_args_is_help=True)
ladder_app = typer.Typer(help="Rungs of a pretraining ladder: list them, or train a small one.", no_args_is_help=True)


@ladder_app.command("list")
def ladder_list(
    model: Annotated[str, typer.Argument(help="bundled/<model>, a Hub id, or a folder with ladder.json.")],
) -> None:
    """Rungs of a ladder: name, tokens, tokens per parameter, learning rate, arm."""
    from peftodyssey.models.ladder import ladder
    from peftodyssey.report import preflight

    for part in preflight.ladder(ladder(model)):
        console().print(part)


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

    say(f"Written: {shipped.copy(name, to)}")


@recipes_app.command("new")
def recipes_new(
    to: Path,
    model: Annotated[str, typer.Option("--model", help="Model name.")],
    domain: Annotated[list[str], typer.Option("--domain", help="Your text; may be repeated.")],
) -> None:
    """Write a commented recipe for your model and text, ready to check and run."""
    from peftodyssey import api

    say(f"Written: {api.new_recipe(to, model, domain)}\nNext: peftodyssey check {to}")
