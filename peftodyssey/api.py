"""The public Python functions, which the command line calls too.

peftodyssey.run("recipes/quickstart.yaml", "runs/quickstart").results.to_pandas()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.measures.registry import MEASURES, MEASURES_BY_NAME, SPECS
from peftodyssey.memory.device import detect, planned_device, prepare_allocator
from peftodyssey.recipe.load import load_recipe
from peftodyssey.recipe.option_values import size_bytes
from peftodyssey.store.views import views_of

if TYPE_CHECKING:
    from rich.console import Console

    from peftodyssey.execution.export import Exported
    from peftodyssey.execution.launch import Options
    from peftodyssey.execution.merge import MergeOptions
    from peftodyssey.execution.outcome import Outcome
    from peftodyssey.execution.pretraining import Trained
    from peftodyssey.execution.score_model import Scored
    from peftodyssey.memory.step_estimate import StepPlan
    from peftodyssey.plan.ladder import LadderPlan
    from peftodyssey.plan.probe_results import MultiLoraProbeResult, ProbeResult
    from peftodyssey.plan.tasks import Plan
    from peftodyssey.recipe.schema import Recipe
    from peftodyssey.store.run_reader import Run
    from peftodyssey.store.views import Views

DEFAULT_ROOT, LADDERS_ROOT = Path("runs"), Path("ladders")


def load(recipe: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a file, from the name of a shipped one, or from YAML text, with `key=value` overrides.

    Raises RecipeError with every problem found.
    """
    from peftodyssey.recipe import bundled

    text = str(recipe)
    if "\n" not in text and not Path(text).exists() and text in dict(bundled.names()):
        return load_recipe(bundled.read(text), overrides, f"{text}.yaml (shipped)", measures=SPECS)
    return load_recipe(recipe, overrides, measures=SPECS)


def new_recipe(to: str | Path, model: str | Sequence[str], domains: Sequence[str]) -> Path:
    """Write a commented recipe for models and the texts `domains`, from what is in these; returns its path."""
    from peftodyssey.plan.new_recipe_facts import model_facts, text_facts
    from peftodyssey.recipe import bundled

    models = [model] if isinstance(model, str) else list(model)
    return bundled.new(to, models, [text_facts(text, models) for text in domains], [model_facts(m) for m in models])


def plan(
    recipe: str | Path | Recipe,
    *,
    device: str = "auto",
    memory: str | int | None = None,
    gpu: str | None = None,
    here: bool = True,
    out: str | Path | None = None,
    measure: bool = False,
) -> Plan:
    """What a recipe asks for, sized: cells, memory, folders. Loads no weights and no torch.

    With `here` False the device need not be here, and models need no weights: `memory` and `gpu` (a name of
    memory/gpu_table.py) describe a GPU, and the plan cannot be run. A run's folder `out` (default `runs/<name>`) keeps
    its precision on a CPU; where it is open, `measure` finds it. Searches (`tune: auto`) go on from a given `out`.
    """
    from peftodyssey.execution.cpu_bf16 import plan_in_precision
    from peftodyssey.execution.search_plan import continued
    from peftodyssey.plan.build import build
    from peftodyssey.recipe.schema import Recipe

    loaded, budget = recipe if isinstance(recipe, Recipe) else load(recipe), size_bytes(memory)
    used = detect(device) if here and gpu is None else planned_device(device, budget, gpu)
    sized = partial(build, loaded, budget_bytes=budget, measures=MEASURES, needs_weights=here)
    root = Path(out or DEFAULT_ROOT / loaded.name)
    planned = plan_in_precision(sized, used, root, measure)
    return planned if out is None else continued(planned, root, MEASURES, here)


def plan_step(
    model: str, *, device: str = "auto", memory: str | int | None = None, gpu: str | None = None, **settings: Any
) -> StepPlan:
    """Will one step fit: its memory term by term. `settings` are the fields of `StepRequest`.

    `memory` and `gpu` describe a GPU, which need not be here.
    """
    from peftodyssey.memory.step_estimate import StepRequest, step_plan

    budget = size_bytes(memory)
    return step_plan(StepRequest(model, **settings), planned_device(device, budget, gpu), budget)


def probe(
    recipe: str | Path | Recipe,
    *,
    device: str = "auto",
    memory: str | int | None = None,
    console: Console | None = None,
) -> tuple[Plan, list[ProbeResult], list[MultiLoraProbeResult]]:
    """Every distinct shape of a recipe tried for real: loaded, trained some steps, scored, saved, read back.

    What was measured is kept for this machine and these versions, corrects later plans and gives their hours. Returns
    the corrected plan, the shapes that were measured, and the multi-LoRA groups.
    """
    from rich.console import Console

    from peftodyssey.execution.launch import limit_memory
    from peftodyssey.execution.probe import probe_all, probe_multi_lora_groups

    first = plan(recipe, device=device, memory=memory)
    prepare_allocator()
    limit_memory(first, size_bytes(memory))
    shown = console or Console(stderr=True)
    tried, groups = probe_all(first, shown), probe_multi_lora_groups(first, shown)
    return plan(first.recipe, device=device, memory=memory), tried, groups


def run(
    recipe: str | Path | Recipe,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    memory: str | int | None = None,
    options: Options | None = None,
    console: Console | None = None,
) -> Run:
    """Train and score what is missing of `recipe` below `out` (default `runs/<name>`), write the report, open it.

    Raises RecipeError, DoesNotFit, Interrupted or StoreError; failed cells are in `results` with their reason.
    """
    from peftodyssey.errors import Interrupted
    from peftodyssey.execution.launch import Options

    options = options or Options(memory_bytes=size_bytes(memory))
    planned = plan(recipe, device=device, memory=memory, out=out, measure=True)
    opened, outcome, folder = run_plan(planned, out, options=options, console=console)
    if outcome.interrupted:
        raise Interrupted(outcome.interrupted)
    return opened if opened is not None else open(folder)


def run_plan(
    planned: Plan, out: str | Path | None = None, *, options: Options | None = None, console: Console | None = None
) -> tuple[Run | None, Outcome, Path]:
    """`run` for a plan in hand: the opened run (None where it was interrupted), what was done, and where."""
    from rich.console import Console as RichConsole

    from peftodyssey.execution import prune_weights
    from peftodyssey.execution.launch import Options
    from peftodyssey.execution.rounds import run_rounds
    from peftodyssey.store import layout, table_record

    prepare_allocator()
    options, root = options or Options(), Path(out or DEFAULT_ROOT / planned.recipe.name)
    planned, outcome = run_rounds(planned, root, options, console or RichConsole(stderr=True), MEASURES_BY_NAME)
    if outcome.interrupted:
        return None, outcome, root
    if outcome.worked or not (table_record.is_current(root, root) and layout.page(root).is_file()):
        report([root])
    opened = open(root)
    if options.keep == "best" and prune_weights.prune(root, planned.cells, opened.results.to_pylist()):
        table_record.renew(root, root)
    return opened, outcome, root


def plan_ladder(recipe: str | Path, overrides: Sequence[str] = (), *, device: str = "auto") -> LadderPlan:
    """What a ladder's recipe asks for: sizes, phases, texts. Loads no torch; raises RecipeError with every problem."""
    from peftodyssey.plan.ladder import plan_ladder as build_ladder
    from peftodyssey.recipe.load_ladder import load_ladder

    return build_ladder(load_ladder(recipe, overrides), detect(device))


def train_ladder(
    planned: LadderPlan,
    out: str | Path | None = None,
    *,
    stop_after_s: float | None = None,
    checkpoint_every_s: float = 600.0,
    console: Console | None = None,
) -> Trained:
    """Train what is missing of a ladder below `out` (default `ladders/<name>`); rungs are revisions of that folder."""
    from rich.console import Console as RichConsole

    from peftodyssey.execution.pretraining import train

    prepare_allocator()
    root, shown = Path(out or LADDERS_ROOT / planned.recipe.name), console or RichConsole(stderr=True)
    return train(planned, root, shown, stop_after_s=stop_after_s, checkpoint_every_s=checkpoint_every_s)


def report(
    folders: Sequence[str | Path], out: str | Path | None = None, *, scoring: str | None = None, **options: Any
) -> Path:
    """Rebuild tables, figures and page of one run, or one page that compares several; returns the page's path.

    `options` are those of `report.publish`: with_text (False: no word of a document), zip (a file to pack it in).
    """
    from peftodyssey.report.publish import publish

    return publish([*map(Path, folders)], Path(out) if out else None, measures=MEASURES, scoring=scoring, **options)


def open(folder: str | Path, *, scoring: str | None = None) -> Run:
    """A finished or half-finished run: `.results`, `.cells`, `.nll(cell)`, `.query(sql)`, `.figure(name)`, `.scorings`.

    It is shown in its newest way of scoring, or in the one that begins with `scoring`."""
    from peftodyssey.report import run_figures
    from peftodyssey.store.run_reader import open_run

    return open_run(Path(folder), views(folder, scoring), partial(run_figures.figures, Path(folder), MEASURES))


def views(folder: str | Path, scoring: str | None = None) -> Views:
    """What SQL sees of a run, as `open` shows it; the tables of another way of scoring are collected where need be."""
    from peftodyssey.report.collect import collect
    from peftodyssey.store import layout, plans

    if scoring is None:
        return views_of(MEASURES)
    name = plans.scoring_name(Path(folder), scoring)
    if not (layout.tables_folder(Path(folder), name) / layout.RESULTS).is_file():
        collect(Path(folder), MEASURES, name)
    return views_of(MEASURES, name)


def score(
    model: str,
    corpus: str,
    adapters: Sequence[str | Path] = (),
    *,
    out: str | Path | None = None,
    device: str = "auto",
    console: Console | None = None,
    **settings: Any,
) -> Scored:
    """Per-token NLL of a model on a text, alone and with each adapter, with 95 % intervals of the differences.

    `settings` are the other fields of `ScoreRequest`: revision, split, quant, context, stride, tokens, first_token,
    mode, field and chat_template.
    """
    from peftodyssey.execution.score_model import ScoreRequest, score_model

    request = ScoreRequest(model, corpus, [Path(adapter) for adapter in adapters], **settings)
    return score_model(request, device=detect(device), out=Path(out) if out else None, console=console)


def adapt(
    model: str,
    domain: str,
    method: str | Mapping[str, Any] = "lora",
    *,
    out: str | Path | None = None,
    device: str = "auto",
    console: Console | None = None,
    **keys: Any,
) -> Run:
    """One model on one text by one method: a recipe, run. `keys` are others of the recipe, e.g. seeds, general, train.

    Their values are those of the recipe: `train={"budget": "200 steps"}, score={"context": 256}, seeds=[0, 1]`.
    """
    import yaml

    keys.setdefault("name", f"adapt-{Path(str(domain)).name or 'text'}"[:64])
    methods = [dict(method) if isinstance(method, Mapping) else {"method": method}]
    text = yaml.safe_dump(dict(version=1, model=model, domains=[domain], methods=methods, **keys), sort_keys=False)
    return run(load_recipe(text, where="adapt", measures=SPECS), out, device=device, console=console)


def export(
    folder: str | Path,
    cell: str,
    *,
    to: str | Path | None = None,
    merge: bool | MergeOptions = False,
    push: str | None = None,
    scoring: str | None = None,
    device: str = "auto",
) -> Exported:
    """A PEFT adapter (or a merged model) of one cell with a model card, and which cell it is.

    The card has the results of the newest way of scoring, or of the one whose name begins with `scoring`. A merge that
    raises the NLL of the run's test text by more than `MergeOptions.max_drift` is refused (InputError).
    """
    from peftodyssey.execution.export import export_cell
    from peftodyssey.execution.merge import MergeOptions

    run = open(folder, scoring=scoring)
    options = merge if isinstance(merge, MergeOptions) else MergeOptions() if merge else None
    return export_cell(run, cell, to=Path(to) if to else None, merge=options, push=push, device=device)
