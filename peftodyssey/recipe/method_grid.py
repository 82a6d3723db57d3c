"""The methods of a recipe at each value of their axes: what `grid.cells` multiplies with models, texts and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from peftodyssey.recipe.cell import MethodSpec, QuantSpec
from peftodyssey.recipe.corpus_names import absolute
from peftodyssey.recipe.labels import labelled
from peftodyssey.recipe.numbers import parse_alpha
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_constraints import constraint_grid
from peftodyssey.recipe.schema_methods import (
    AnyMethod,
    Bitfit,
    Full,
    Ia3,
    LastLayers,
    Lora,
    MethodSection,
    Peft,
    Qlora,
    Saved,
    Truncate,
)

SEARCHED_RATES = 8  # that a search (`tune: auto`) may take unless the recipe says otherwise


def method_specs(recipe: Recipe) -> list[MethodSpec]:
    """Each method at each value of its axes, labelled, in the recipe's order."""
    specs = [spec for method in recipe.methods for spec in _expand(method, recipe)]
    return labelled(specs)


def _expand(method: AnyMethod, recipe: Recipe) -> Iterator[MethodSpec]:
    if isinstance(method, Saved):
        yield MethodSpec("saved", method.label or "", options={"path": absolute(method.path, recipe.folder)})
        return
    if isinstance(method, Truncate):
        yield from _truncated(method, recipe)
        return
    for spec, constraints in product(AXES[type(method)](method), constraint_grid(method)):
        spec = replace(spec, label=method.label or "", options={**spec.options, **constraints})
        if method.lr.auto:
            yield replace(spec, tuned=True, max_cells=method.lr.max_cells or SEARCHED_RATES * len(set(recipe.seeds)))
        for rate in method.lr.tune or method.lr.fixed or ():
            yield replace(spec, lr=rate, tuned=len(set(method.lr.tune or ())) > 1)


def _truncated(method: Truncate, recipe: Recipe) -> Iterator[MethodSpec]:
    """The update of each `full` without constraints at each of its rates, cut to each rank."""
    full = [spec for other in recipe.methods if isinstance(other, Full) for spec in _expand(other, recipe)]
    for spec, rank, vectors in product(full, method.rank, method.vectors):
        options = {name: value for name, value in spec.options.items() if name != "wise_ft"}
        if options.keys() <= {"master_weights", "dropout"}:
            options["vectors"] = vectors
            yield replace(spec, method="truncate", label=method.label or "", rank=rank, options=options)


def source_of(method: MethodSpec) -> MethodSpec:
    """The method that is trained for the weights of `method`: of `truncate` the full fine-tuning, else itself."""
    if method.method != "truncate":
        return method
    options = {name: value for name, value in method.options.items() if name != "vectors"}
    return replace(method, method="full", rank=None, options=options)


def _low_rank_axes(method: Lora | Qlora) -> Iterator[MethodSpec]:
    for quant, double, rank, alpha, targets, dropout, rslora, dora, init in product(
        method.quant or (None,),
        method.double_quant,
        method.rank,
        method.alpha,
        method.targets,
        method.dropout,
        method.rslora,
        method.dora,
        method.init,
    ):
        four_bits = quant in ("nf4", "fp4")
        yield MethodSpec(
            method="qlora" if four_bits else "lora",
            label="",
            rank=rank,
            alpha=parse_alpha(alpha, rank),
            targets=targets,
            dropout=dropout,
            quant=QuantSpec(quant, double if four_bits else False) if quant else None,
            options={"rslora": rslora, "dora": dora, "init": init},
        )


# Each method at each value of its axes, before its label, learning rates and further constraints.
AXES: dict[type[MethodSection], Callable[[Any], Iterator[MethodSpec]]] = {
    Full: lambda m: (
        MethodSpec("full", "", options={"master_weights": weights, "dropout": dropout})
        for weights, dropout in product(m.master_weights, m.dropout)
    ),
    Lora: _low_rank_axes,
    Qlora: _low_rank_axes,
    Bitfit: lambda m: iter([MethodSpec("bitfit", "")]),
    LastLayers: lambda m: (MethodSpec("last_layers", "", options={"layers": layers}) for layers in m.layers),
    Ia3: lambda m: (MethodSpec("ia3", "", targets=targets) for targets in m.targets or (None,)),
    Peft: lambda m: iter([MethodSpec("peft", "", options={"peft_type": m.peft_type, "config": m.config})]),
}
