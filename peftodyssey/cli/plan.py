"""The verb `plan`: will it fit, and for how long will it run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from peftodyssey.cli.options import DeviceOpt, SetOpt, console, one_of, usage
from peftodyssey.errors import EXIT_DOES_NOT_FIT, EXIT_SOME_FAILED, InputError
from peftodyssey.memory_settings import GRADIENT_CHECKPOINTING

# Options that describe one step, and what a recipe has in their place.
STEP_OPTIONS = {
    "model": "model.name=...",
    "method": "methods[0].method=...",
    "rank": "methods[0].rank=...",
    "seq_len": "train.seq_len=...",
    "micro_batch": "train.batch_tokens=...",
    "gradient_checkpointing": "",
    "optimizer": "train.optimizer=...",
    "engine": "train.engine=...",
    "offload": "",
    "accumulate": "train.batch_tokens=...",
    "master_weights": "methods[0].master_weights=...",
    "max_position_embeddings": "model.max_position_embeddings=...",
}
ALLOWED: dict[str, tuple[str, ...]] = {
    "method": ("full", "lora", "qlora"),
    "gradient_checkpointing": GRADIENT_CHECKPOINTING,
    "optimizer": ("adamw", "adamw8bit"),
    "engine": ("native", "stock", "trl"),
    "offload": ("none", "activations", "optimizer", "all"),
    "master_weights": ("fp32", "bf16"),
}
GpuOpt = Annotated[
    str | None, typer.Option("--gpu", metavar="NAME", help='Plan for a GPU that need not be here, e.g. "RTX 4090".')
]


def plan(
    context: typer.Context,
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
    max_position_embeddings: Annotated[
        int | None, typer.Option("--max-position-embeddings", min=1, help="Positions of a random/ shape.")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory", help="What is free on the GPU to plan for, e.g. 22GiB; with --device cpu, of the host."
        ),
    ] = None,
    gpu: GpuOpt = None,
    device: DeviceOpt = "auto",
    probe: Annotated[bool, typer.Option("--probe", help="Try every distinct shape of the recipe for real.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Will it fit, term by term. Loads no weights and no torch, but for --probe.

    With --memory or --gpu it plans for a GPU, which need not be here; without them, for the device of this machine.
    """
    _refuse_unused(context, recipe is not None)
    if probe:
        _probe(recipe, set_ or (), device, memory, json_)
    if recipe is not None:
        fits, parts, as_json = _of_recipe(recipe, set_ or (), {"device": device, "memory": memory, "gpu": gpu})
    elif model is not None:
        fits, parts, as_json = _of_step(context.params)
    else:
        raise usage("give a recipe, or --model with --method, --rank, --seq-len ...")
    if json_:
        print(as_json())
    else:
        for part in parts:
            console().print(part, soft_wrap=isinstance(part, Text))
    raise typer.Exit(0 if fits else EXIT_DOES_NOT_FIT)


Answer = tuple[bool, Iterable[Any], Callable[[], str]]  # whether it fits, what is printed, and the same as JSON


def _of_recipe(recipe: str, overrides: Sequence[str], device: Mapping[str, str | None]) -> Answer:
    """The plan of every cell of a recipe."""
    from peftodyssey import api
    from peftodyssey.execution.time_left import time_line
    from peftodyssey.report import plan_output

    loaded = api.load(recipe, overrides)
    root = api.DEFAULT_ROOT / loaded.name
    planned = api.plan(loaded, **device, here=False, out=root)  # type: ignore[arg-type]
    time = Text(time_line(planned, root, recipe))
    return not planned.too_large, (*plan_output.plan(planned), time), partial(plan_output.plan_json, planned)


def _of_step(options: Mapping[str, Any]) -> Answer:
    """The plan of the one step that `options` of the command line describe."""
    from peftodyssey import api
    from peftodyssey.report import plan_output

    given = {name: options[name] for name in (*STEP_OPTIONS, "device", "memory", "gpu")}
    for name, allowed in ALLOWED.items():
        one_of(f"--{name.replace('_', '-')}", given[name], allowed)
    planned = api.plan_step(given.pop("model"), **given)
    return planned.fits, plan_output.step(planned), partial(plan_output.step_json, planned)


def _refuse_unused(context: typer.Context, has_recipe: bool) -> None:
    """Raises InputError for options that have no effect in the form that is used: by recipe, or by options."""
    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }
    if has_recipe:
        for name in (name for name in STEP_OPTIONS if name in given):
            instead = STEP_OPTIONS[name]
            raise InputError(
                f"--{name.replace('_', '-')} describes a step without a recipe and has no effect on one",
                f"use --set {instead} for this recipe, or leave out the recipe"
                if instead
                else "leave it out: the plan of a recipe chooses it by memory; or leave out the recipe",
            )
    elif "set_" in given:
        raise InputError("--set changes a recipe, and none is given", "give a recipe, or use the options of --help")
    elif "rank" in given and context.params["method"] == "full":
        raise InputError("--rank has no effect with --method full: it has no adapter", "leave out --rank")
    if "probe" in given and "gpu" in given:
        raise InputError("--probe measures on this machine, and --gpu names a GPU to plan for", "leave out one of them")


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
