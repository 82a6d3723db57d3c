"""The verb `score`: losses of any model on any text, with and without adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from peftodyssey.cli.options import DeviceOpt, console, starting


def score(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="bundled/<name>, a Hub id or a folder.")],
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="bundled/..., hub:..., m2d2/... or a path.")],
    adapter: Annotated[list[Path] | None, typer.Option("--adapter", help="Adapter folder; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Keep index and columns here.")] = None,
    revision: Annotated[str | None, typer.Option("--revision", help="Revision of the model.")] = None,
    split: Annotated[str, typer.Option("--split", help="train, valid, test or all.")] = "test",
    context: Annotated[
        int | None,
        typer.Option("--context", help="Tokens of a window; default: what the base was trained on, at most 1024."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", help="Tokens newly scored by a window; default: half of it.")
    ] = None,
    tokens: Annotated[str, typer.Option("--tokens", help="Cap, by whole documents; or all.")] = "50k",
    first_token: Annotated[str, typer.Option("--first-token", help="bos or skip.")] = "bos",
    mode: Annotated[str, typer.Option("--mode", help="documents or stream.")] = "documents",
    quant: Annotated[str | None, typer.Option("--quant", help="nf4, fp4 or int8.")] = None,
    field: Annotated[str | None, typer.Option("--field", help="Text field of rows, or a template over them.")] = None,
    chat_template: Annotated[
        str | None, typer.Option("--chat-template", help="Of conversations: plain, or a Jinja file.")
    ] = None,
    device: DeviceOpt = "auto",
) -> None:
    """Per-token NLL and perplexity of a model, and of adapters on it, on a text; default: test split, 50k tokens."""
    from peftodyssey import api
    from peftodyssey.report import console_output

    starting(f"Scoring {model} on {corpus}")
    scored = api.score(
        model,
        corpus,
        adapter or (),
        out=out,
        device=device,
        console=console(stderr=True),
        revision=revision,
        split=split,
        quant=quant,
        context=context,
        stride=stride,
        tokens=tokens,
        first_token=first_token,
        mode=mode,
        field=field,
        chat_template=chat_template,
    )
    for part in console_output.scored(scored):
        console().print(part)
