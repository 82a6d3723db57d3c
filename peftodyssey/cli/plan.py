"""The verb `plan`: will it fit, and for how long will it run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer

from peftodyssey.cli.options import DeviceOpt, MemoryOpt, SetOpt, console, one_of, usage
from peftodyssey.errors import EXIT_DOES_NOT_FIT, EXIT_SOME_FAILED
from peftodyssey.memory_settings import GRADIENT_CHECKPOINTING


def plan(
    recipe: Annotated[
        str | None, typer.Argument(metavar="[RECIPE]", help="A recipe; or describe one step by options.")
    ] = None,
    set_: SetOpt = None,
    model: Annotated[str | None, typer.Option("--model", help="Model name, e.g. random/llama-7b.")] = None,
    method: Annotated[str, typer.Option("--method", help="full, lora or qlora.")] = "lora",
    rank: Annotated[int, typer.Option("--rank", min=1, help="Adapter rank.")] = 8,
    seq_len: Annotated[int, typer.Option("--seq-len", min=1, help="Sequence length in tokens.")] = 512,
    micro_batch: Annotated[int, typer.Option("--micro-batch", min=1, help="Sequences of one pass.")] = 1,
    gradient_checkpointing: Annotated[
        str, typer.Option("--gradient-checkpointing", help="full, selective or none.")
    ] = "full",
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw or adamw8bit.")] = "adamw",
    engine: Annotated[str, typer.Option("--engine", help="native, stock or trl.")] = "native",
    offload: Annotated[
        str, typer.Option("--offload", help="To host memory: none, activations, optimizer or all.")
    ] = "none",
    accumulate: Annotated[int, typer.Option("--accumulate", min=1, help="Gradient accumulation steps.")] = 1,
    master_weights: Annotated[str, typer.Option("--master-weights", help="Of method full: fp32 or bf16.")] = "fp32",
    memory: MemoryOpt = None,
    device: DeviceOpt = "auto",
    probe: Annotated[bool, typer.Option("--probe", help="Try every distinct shape of the recipe for real.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Will it fit, term by term. Loads no weights and no torch, but for --probe."""
    from peftodyssey import api
    from peftodyssey.report import console_output

    if probe:
        _probe(recipe, set_ or (), device, memory, json_)
    if recipe is not None:
        answer: Any = api.plan(api.load(recipe, set_ or ()), device=device, memory=memory)
        fits, parts = not answer.too_large, console_output.plan(answer)
        text = console_output.plan_json(answer)
    elif model is not None:
        step = api.plan_step(
            model,
            method=one_of("--method", method, ("full", "lora", "qlora")),
            rank=rank,
            seq_len=seq_len,
            micro_batch=micro_batch,
            gradient_checkpointing=one_of("--gradient-checkpointing", gradient_checkpointing, GRADIENT_CHECKPOINTING),
            optimizer=one_of("--optimizer", optimizer, ("adamw", "adamw8bit")),
            device=device,
            memory=memory,
            engine=one_of("--engine", engine, ("native", "stock", "trl")),
            accumulate=accumulate,
            offload=one_of("--offload", offload, ("none", "activations", "optimizer", "all")),
            master_weights=one_of("--master-weights", master_weights, ("fp32", "bf16")),
        )
        fits, parts, text = step.fits, console_output.step(step), console_output.step_json(step)
    else:
        raise usage("give a recipe, or --model with --method, --rank, --seq-len ...")
    if json_:
        print(text)
    else:
        for part in parts:
            console().print(part)
    raise typer.Exit(0 if fits else EXIT_DOES_NOT_FIT)


def _probe(recipe: str | None, overrides: Sequence[str], device: str, memory: str | None, json_: bool) -> NoReturn:
    """Try every distinct shape of a recipe, print what was planned and measured, and exit."""
    from peftodyssey import api
    from peftodyssey.report import probe_output

    if recipe is None:
        raise usage("--probe tries the shapes of a recipe; give one")
    plan, tried, multi_lora_groups = api.probe(
        api.load(recipe, overrides), device=device, memory=memory, console=console(stderr=True)
    )
    if json_:
        print(probe_output.as_json(plan, tried, multi_lora_groups))
    else:
        for part in probe_output.tables(plan, tried, multi_lora_groups):
            console().print(part)
    failed = any(shape.probe is None for shape in tried) or any(group.probe is None for group in multi_lora_groups)
    raise typer.Exit(EXIT_SOME_FAILED if failed else EXIT_DOES_NOT_FIT if plan.too_large else 0)
