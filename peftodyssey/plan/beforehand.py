"""What can be known of a cell before anything is done for it: method, lengths, precision, texts and templates. Called
by `plan.build`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from peftodyssey.errors import InputError, OdysseyError
from peftodyssey.memory.device import Device
from peftodyssey.methods.registry import METHODS
from peftodyssey.plan import beside
from peftodyssey.plan.auto_values import resolve_auto
from peftodyssey.plan.chat_template import chat_of
from peftodyssey.recipe.cell import Cell

if TYPE_CHECKING:
    from peftodyssey.plan.build import Sources


def validate_cell(cell: Cell, sources: Sources, device: Device) -> Iterator[tuple[str, OdysseyError]]:
    """(key of the recipe, what is wrong): the method fits the model, blocks fit its positions, texts have parts, auto
    resolves.
    """
    anatomy = sources.anatomies[cell.model]
    for message in METHODS[cell.method.method].check(cell.method, anatomy):
        yield "methods", InputError(f"{cell.method.label} on {cell.model.name}: {message}")
    for message, next_step in beside.problems(cell, sources.corpora):
        yield "methods", InputError(message, next_step)
    for key, what, tokens in (
        ("train", "train.seq_len", cell.train.seq_len),
        ("score", "score.context", cell.score.context),
    ):
        if tokens > anatomy.positions:
            yield (
                key,
                InputError(
                    f"{what} is {tokens:,} tokens, and {cell.model.name} has {anatomy.positions:,} positions",
                    f"set {what} to at most {anatomy.positions:,}",
                ),
            )
    try:
        resolve_auto(cell, device)
        for corpus in (sources.corpora[point.name] for point in (cell.domain, *cell.general)):
            chat_of(corpus, cell.train.chat_template, sources.models[cell.model], sources.tokenizers[cell.model])
    except OdysseyError as error:
        yield "train", error
