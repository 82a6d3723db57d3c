"""What can be checked of a cell before anything is computed: method, lengths, precision, texts and chat templates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from peftodyssey.corpora.source import Corpus
from peftodyssey.errors import InputError, OdysseyError, Problem
from peftodyssey.memory.device import Device
from peftodyssey.methods.registry import METHODS
from peftodyssey.models.more_positions import more_positions
from peftodyssey.plan.auto_values import resolve_auto
from peftodyssey.plan.sources import Sources, problem_at
from peftodyssey.plan.text_notes import shared_files, survey_texts
from peftodyssey.recipe.cell import Cell
from peftodyssey.recipe.schema import Recipe


def check_cells(recipe: Recipe, cells: Sequence[Cell], sources: Sources, device: Device) -> list[Problem]:
    """Everything that is wrong with the cells of a recipe, each message once."""
    first_by_message: dict[str, Problem] = {}
    for key, error in survey_texts(cells, sources):
        first_by_message.setdefault(error.message, problem_at(recipe, key, error))
    for error in shared_files(cells, sources):
        first_by_message.setdefault(error.message, problem_at(recipe, "general", error))
    for cell in cells:
        for key, error in _errors(cell, sources, device):
            first_by_message.setdefault(error.message, problem_at(recipe, key, error))
    problems = list(first_by_message.values())
    unquantised = [spec.name for spec in recipe.asked if spec.needs_unquantised_base]
    for source in sources.models.values():
        if source.stored_quant and unquantised:
            error = InputError(
                f"{source.name} is stored as {source.stored_quant.kind}, and {unquantised[0]} changes or compares "
                "unquantised weights",
                f"remove {unquantised[0]} from `measure`",
            )
            problems.append(problem_at(recipe, "measure", error))
    return problems


def _errors(cell: Cell, sources: Sources, device: Device) -> Iterator[tuple[str, OdysseyError]]:
    """(key of the recipe, error) for everything that is wrong with one cell."""
    shape, name = sources.shapes[cell.model], cell.model.name
    stored = sources.models[cell.model].stored_quant
    if stored and cell.method.quant:
        message = f"{cell.method.label} on {name}: its weights are stored as {stored.kind} already"
        yield "methods", InputError(message, "use `method: lora`, which trains an adapter on them as they stand")
    method = replace(cell.method, quant=stored or cell.method.quant)  # as far as the stored weights decide
    for message in METHODS[cell.method.method].check(method, shape):
        yield "methods", InputError(f"{cell.method.label} on {name}: {message}")
    for error in _text_errors(cell, sources.corpora):
        yield "methods", error
    for key, setting, tokens in (
        ("train", "train.seq_len", cell.train.seq_len),
        ("score", "score.context", cell.score.context),
    ):
        if tokens > shape.positions:
            message = f"{setting} is {tokens:,} tokens, and {name} has {shape.positions:,} positions"
            way_out = more_positions(name, shape, tokens, f"model.max_position_embeddings: {tokens}")
            yield key, InputError(message, f"set {setting} to at most {shape.positions:,}; {way_out}")
    try:
        resolve_auto(cell, device)
        for spec in (cell.domain, *cell.general):
            sources.chat(cell, sources.corpora[spec.name])
    except OdysseyError as error:
        yield "train", error


def _text_errors(cell: Cell, corpora: Mapping[str, Corpus]) -> Iterator[InputError]:
    """Texts of `replay` and `early_stop` that lack the split they need, or on which forgetting is reported."""
    for option, spec, split in (("replay", cell.replay, "train"), ("early_stop", cell.early_stop_text, "valid")):
        if spec is None:
            continue
        corpus = corpora[spec.name]
        reported_whole = (corpora[general.name] for general in cell.general)
        if split not in corpus.splits:
            text = "a pretraining_text" if option == "replay" else "as the first general text one"
            yield InputError(
                f"{option} needs the {split} split of {spec.name}, which has none",
                f"name {text} with a {split} split, or remove {option}",
            )
        elif any(
            "test" not in general.source_splits and general.fingerprint == corpus.fingerprint
            for general in reported_whole
        ):
            yield InputError(
                f"{option} would use text of {spec.name} on which forgetting is reported: it has no test split",
                "give it files or splits for train, valid and test",
            )
