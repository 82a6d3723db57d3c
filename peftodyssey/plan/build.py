"""Recipe to plan: resolves every source, sizes every cell, names every folder. Imports no torch, and runs nothing.

Everything that is wrong with a recipe is raised together, as one RecipeError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from peftodyssey.errors import InputError, Problem, RecipeError
from peftodyssey.memory.device import Device
from peftodyssey.memory.search import cell_step, scoring_batch
from peftodyssey.methods import saved
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.targets import adapter_share
from peftodyssey.models.training_length import too_long_note, training_length
from peftodyssey.models.weight_files import saved_fingerprint
from peftodyssey.plan import plan_file
from peftodyssey.plan.auto_values import resolve_auto
from peftodyssey.plan.chat_template import chat_identity
from peftodyssey.plan.lr_grid import at_rates, searches
from peftodyssey.plan.measure import MeasurePlan, PlanContext, PlannedMeasure
from peftodyssey.plan.rungs import resolve_rungs
from peftodyssey.plan.sources import Sources, problem_at, resolve_sources
from peftodyssey.plan.stems import with_stems
from peftodyssey.plan.tasks import BaseModelKey, CellTask, IndexTask, Plan, TrainedCell
from peftodyssey.plan.text_notes import text_notes
from peftodyssey.plan.text_tasks import TextTasks, model_slug
from peftodyssey.plan.time_estimate import training_steps
from peftodyssey.plan.validate import check_cells
from peftodyssey.plan.weight_sources import with_sources
from peftodyssey.recipe import grid, identity
from peftodyssey.recipe.cell import Cell
from peftodyssey.recipe.method_grid import source_of
from peftodyssey.recipe.schema import Recipe
from peftodyssey.store import layout, manifest


def build(
    recipe: Recipe,
    device: Device,
    budget_bytes: int | None = None,
    *,
    measures: Sequence[PlannedMeasure],
    needs_weights: bool = True,
    rates: Mapping[str, Sequence[float]] | None = None,
) -> Plan:
    """The plan of `recipe` on `device` within `budget_bytes`; RecipeError with every problem found.

    `measures` are all that there are; those that the recipe asks for plan their tasks in this order. With
    `needs_weights` False, a model folder with config.json alone is planned, which cannot be run.
    `rates` are those of searches for a learning rate (`tune: auto`), by group; a group without has its first round.
    """
    recipe, rung_warnings = resolve_rungs(recipe)
    cells = grid.cells(recipe)
    problems: list[Problem] = []
    sources = resolve_sources(recipe, cells, problems, needs_weights)
    cells = at_rates(recipe, cells, sources, rates)
    cells = [cell for cell in cells if cell.model not in sources.left_out]
    if problems := problems or check_cells(recipe, cells, sources, device):
        raise RecipeError(problems)
    budget_bytes = device.budget_bytes if budget_bytes is None else budget_bytes
    builder = _Builder(sources, device, budget_bytes)
    tasks = tuple(builder.cell_task(cell) for cell in cells)
    tasks = with_sources(tasks)
    tasks = with_stems(tasks, partial(training_steps, builder.texts.indexes.values()))
    sample = grid.pretraining_text_spec(recipe)
    context = PlanContext(recipe, tasks, builder.texts, sources, device, budget_bytes, sample)
    planned = _planned(recipe, context, measures)
    tasks = tuple(_with_measures(task, planned) for task in tasks)
    return Plan(
        recipe=recipe,
        device=device,
        budget_bytes=budget_bytes,
        indexes=tuple(builder.texts.indexes.values()),
        base_scores=tuple(builder.texts.base_scores.values()),
        cells=tasks,
        measures=tuple(task for measure in planned.values() for task in measure.base_tasks),
        measure_entries={name: measure.entry for name, measure in planned.items() if measure.entry},
        warnings=(*rung_warnings, *sources.warnings, *_model_warnings(sources, cells), *_tokenizer_warnings(sources)),
        digest=identity.digest({"cells": [task.entry for task in tasks], "measure": list(recipe.measured)}),
        searches=searches(tasks),
        notes=text_notes(cells, sources),
    )


def _planned(recipe: Recipe, context: PlanContext, measures: Sequence[PlannedMeasure]) -> dict[str, MeasurePlan]:
    """What each measure that the recipe asks for plans, by name; RecipeError with every problem."""
    planned: dict[str, MeasurePlan] = {}
    problems: list[Problem] = []
    for measure in measures:
        if (options := recipe.options(measure.spec)) is not None:
            try:
                planned[measure.spec.name] = measure.plan(options, context)
            except InputError as error:
                problems.append(problem_at(recipe, "measure", error))
    if problems:
        raise RecipeError(problems)
    return planned


def _with_measures(task: CellTask, planned: Mapping[str, MeasurePlan]) -> CellTask:
    """The cell with what its measures ask of it."""
    asked = {name: plan.by_cell[task.folder] for name, plan in planned.items() if task.folder in plan.by_cell}
    further = [text for measure in asked.values() for text in measure.texts]
    required = [*task.required, *(folder for text in further for folder in text.required)]
    required += [folder for measure in asked.values() for folder in measure.required]
    texts = {name: [text.entry for text in measure.texts] for name, measure in asked.items() if measure.texts}
    entries = {name: measure.entry for name, measure in asked.items() if measure.entry}
    return replace(
        task,
        columns=tuple({column.folder: column for column in (*task.scores, *(t.after for t in further))}.values()),
        measures=tuple(one for measure in asked.values() for one in measure.tasks),
        required=tuple(dict.fromkeys(required)),
        reads=tuple(dict.fromkeys(folder for measure in asked.values() for folder in measure.reads)),
        entry={**task.entry, **({"texts": texts} if texts else {}), **({"measures": entries} if entries else {})},
    )


def _model_warnings(sources: Sources, cells: list[Cell]) -> list[str]:
    """What is known of the models and of saved adapters before they are loaded and must be said."""
    warnings = [f"{source.name}: {note}" for source in sources.models.values() for note in source.notes]
    for cell in cells:
        trained = training_length(sources.models[cell.model])
        if trained and cell.score.context > trained.tokens:
            warnings.append(too_long_note(cell.model.name, trained, cell.score.context))
        shape = sources.shapes[cell.model]
        if shape.traced_config and cell.method.rank:  # of families known to the planner every matrix can have one
            share = adapter_share(shape, cell.method.targets)
            warnings.append(f"{cell.method.label} on {cell.model.name}: {share}")
    put_on = dict.fromkeys((Path(c.method.options["path"]), c.model.name) for c in cells if c.method.method == "saved")
    warnings += [f"{path}: {note}" for path, base in put_on for note in saved.notes(path, base)]
    return list(dict.fromkeys(warnings))


def _tokenizer_warnings(sources: Sources) -> list[str]:
    from peftodyssey.corpora.tokenizer_checks import audit

    warnings = [
        f"{model.name}: {warning}" for model, tokenizer in sources.tokenizers.items() for warning in audit(tokenizer)
    ]
    return list(dict.fromkeys(warnings))


class _Builder:
    """Makes the tasks of a grid's cells, and gathers the indexes and base columns that they share."""

    def __init__(self, sources: Sources, device: Device, budget_bytes: int) -> None:
        self.sources, self.device, self.budget_bytes = sources, device, budget_bytes
        self.texts = TextTasks(sources, budget_bytes)

    def cell_task(self, cell: Cell) -> CellTask:
        """The task of one cell, with the indexes and base columns that it needs."""
        texts, method = self.texts, METHODS[cell.method.method]
        shape = self.sources.shapes[cell.model]
        stored = self.sources.models[cell.model].stored_quant
        source = source_of(cell.method)  # what memory it takes is that of the training, which may be done again
        as_stored = replace(cell, method=replace(source, quant=stored) if stored else source)
        auto_values = resolve_auto(as_stored, self.device)
        base = BaseModelKey(self.sources.models[cell.model], str(auto_values["precision"]), cell.method.quant)
        train = texts.train_index(cell, cell.domain) if method.trains else None
        valid, test = texts.valid_index(cell, cell.domain), texts.test_index(cell, cell.domain)
        general = [(spec.name, index) for spec, index in texts.general_indexes(cell)]
        replay = texts.train_index(cell, cell.replay) if cell.replay else None
        early_stop = texts.valid_index(cell, cell.early_stop_text) if cell.early_stop_text else None

        facts = self._facts(cell, auto_values) | _constraint_facts(cell, replay, early_stop)
        cell_identity = identity.identity(cell, facts)
        cell_hash = identity.digest(cell_identity)
        trainable = METHODS[source.method].count(source, shape)
        fingerprint = base.source.fingerprint
        step, memory = cell_step(as_stored, shape, trainable, auto_values, fingerprint, self.device, self.budget_bytes)
        pass_tokens, scoring_bytes = scoring_batch(shape, step, cell.score.context, self.budget_bytes)
        trained = TrainedCell(cell, base, cell_hash, step, pass_tokens)
        named_indexes = [("test", test), ("valid", valid), *general]
        columns = [texts.columns(trained, name, index) for name, index in named_indexes]
        task = CellTask(
            cell=cell,
            hash=cell_hash,
            folder=f"{layout.CELLS}/{layout.folder_name(_cell_slug(cell), cell_hash)}",
            identity=cell_identity,
            base=base,
            shape=shape,
            trainable=method.count(cell.method, shape),
            train_index=train.folder if train else None,
            valid_index=valid.folder,
            general_indexes=tuple(index.folder for _, index in general),
            scores=tuple(text.after for text in columns),
            step=step,
            memory=memory,
            scoring_bytes=scoring_bytes,
            auto_values=auto_values,
            pass_tokens=pass_tokens,
            entry={},
            replay_index=replay.folder if replay else None,
            early_stop_eval=texts.score(trained, early_stop) if early_stop else None,
            required=tuple(folder for text in columns for folder in text.required),
        )
        return replace(task, entry=plan_file.entry(task, columns, facts))

    def _facts(self, cell: Cell, auto_values: Mapping[str, Any]) -> dict[str, Any]:
        """What a cell's identity holds beside its own fields: contents, and what `auto` was resolved to."""
        corpus = self.sources.corpora[cell.domain.name]
        chat = self.sources.chat(cell, corpus)
        facts: dict[str, Any] = {
            **auto_values,
            "model": self.sources.models[cell.model].fingerprint,
            "tokenizer": self.sources.tokenizers[cell.model].fingerprint,
            "domain": identity.digest({"text": corpus.fingerprint, **chat_identity(chat)})
            if chat
            else corpus.fingerprint,
        }
        if cell.method.method == "saved":
            manifest.refuse_damaged(Path(cell.method.options["path"]))
            facts["saved"] = saved_fingerprint(Path(cell.method.options["path"]))
        return facts


def _constraint_facts(cell: Cell, replay: IndexTask | None, early_stop: IndexTask | None) -> dict[str, Any]:
    """What the texts of `replay` and `early_stop` add to a cell's identity: rows, and how the second is scored."""
    facts: dict[str, Any] = {}
    if replay:
        facts["replay"] = replay.identity
    if early_stop:
        score = {name: value for name, value in asdict(cell.score).items() if name != "tokens"}  # the rows tell
        facts["early_stop"] = {"text": early_stop.identity, "score": score}
    return facts


def _cell_slug(cell: Cell) -> str:
    """Text, newline policy, base, method, learning rate and seed of a cell."""
    lr = None if cell.method.lr is None else f"lr{cell.method.lr:g}"
    newline = None if cell.domain.newline == "keep" else cell.domain.newline
    return layout.slug(cell.domain.name, newline, model_slug(cell.model), cell.method.label, lr, f"s{cell.seed}")
