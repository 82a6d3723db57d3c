"""The laws of docs/guarantees.md on the user's own model, device and versions: small trainings, and held or broken."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from peftodyssey.errors import OdysseyError
from peftodyssey.execution.doctor import PROBLEM
from peftodyssey.execution.interrupt import Stop
from peftodyssey.execution.launch import Options, start
from peftodyssey.execution.progress import ProgressReporter
from peftodyssey.jobs import train_cell
from peftodyssey.jobs.context import JobContext, JobOptions, RunMeasure
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.models.log_filters import quiet
from peftodyssey.store import layout, manifest, parquet
from peftodyssey.store.versions import versions

if TYPE_CHECKING:
    from peftodyssey.plan.tasks import CellTask, Plan

RECIPE = """\
version: 1
name: laws
model: {model}
domains: [bundled/arxiv_cs.CL]
general: []
methods:
  - {{method: lora, rank: [2, 4], lr: 1e-3}}
train: {{budget: 4 steps, seq_len: 64, batch_tokens: 256, multi_lora: {multi_lora}}}
score: {{context: 64, stride: 48, tokens: 1k}}
measure: [degradation]
"""
# Nats per token, of one loss in another order of operations.
TOLERANCE_NATS = {"fp32": 2e-5, "bf16": 0.05, "fp16": 0.02}
REPORT = "report it with these versions, and use the versions of constraints.txt until then"


def examine_laws(
    model: Mapping[str, Any], plan_of: Callable[[str], Plan], measures: Mapping[str, RunMeasure]
) -> Iterator[str]:
    """A line for each law: its number, `held` or `broken`, the figure and what is allowed; broken ones are problems.

    `model` is a recipe's `model`. Raises what a recipe of that model raises.
    """
    told = {"model": _flow(model)}
    together = plan_of(RECIPE.format(multi_lora="auto", **told))
    alone = plan_of(RECIPE.format(multi_lora="off", **told))
    precision = str(together.cells[0].auto_values["precision"])
    yield f"{together.cells[0].cell.model.name} in {precision} on {together.device.name}"
    with tempfile.TemporaryDirectory(prefix="peftodyssey-laws-") as scratch, quiet():
        root = Path(scratch)
        try:
            _run(together, root / "together", measures)
            _run(alone, root / "alone", measures)
            figures = [manifest.read(root / "alone" / task.folder) for task in alone.cells]
            checks = [written["facts"]["self_checks"] for written in figures if written]
            yield from _of_checks(checks, precision)
            yield _law_1(alone, root / "alone", precision)
            yield _law_3(together, root, precision)
            yield _law_6(alone, root, measures)
        except OdysseyError as error:
            yield f"{PROBLEM}: {error.message}"
    yield ", ".join(f"{name} {version}" for name, version in versions().items())


def _flow(model: Mapping[str, Any]) -> str:
    import json

    return json.dumps({key: value for key, value in model.items() if value is not None})


def _line(law: int, what: str, figure: float, allowed: float) -> str:
    """A law in a line."""
    held = figure <= allowed
    text = f"law {law:<2} {'held  ' if held else 'broken'} {what}: {figure:.2g} (allowed {allowed:.2g})"
    return text if held else f"{PROBLEM}: {text}; {REPORT}"


def _run(plan: Plan, root: Path, measures: Mapping[str, RunMeasure]) -> None:
    """Train and score the plan's cells; OdysseyError with the reason where one fails."""
    outcome = start(plan, root, Options(), Console(file=io.StringIO()), measures)
    for why in outcome.failed.values():
        raise OdysseyError(why)


def _of_checks(checks: Sequence[Mapping[str, Any]], precision: str) -> Iterator[str]:
    """Laws that every training checks on itself."""
    start_difference = max(float(one["start_logits_difference"]) for one in checks)
    reloaded = max(float(one["reloaded_loss_difference"]) for one in checks)
    changed = sum(one["base_weights_changed"] != "none" for one in checks)
    yield _line(2, "logits of an adapter before training differ from the base's", start_difference, 1e-3)
    yield _line(2, "trainings after which the base was another one", changed, 0)
    yield _line(
        5, "loss of a document alone and packed with others, nats per token", reloaded, TOLERANCE_NATS[precision]
    )
    yield _line(
        8, "loss of an adapter before and after it was saved, nats per token", reloaded, TOLERANCE_NATS[precision]
    )


def _law_1(plan: Plan, root: Path, precision: str) -> str:
    """The loss of the base on one document, by transformers itself."""
    import torch

    from peftodyssey.jobs.index import opened

    column = plan.base_scores[0]
    models = LoadedModels(plan.device.kind, plan.budget_bytes)
    model, prefix = models.get(column.base), models.tokenizer(column.base).prefix_id
    index, stored = opened(root / column.index), parquet.read_nll(root / column.folder)[0]
    end = min(int(index.starts[1]), column.settings.context - 1)
    ids = torch.tensor([[prefix, *index.token[:end].tolist()]], device=model.device)
    model.eval()
    with torch.no_grad():
        loss = float(model(input_ids=ids, labels=ids).loss)
    models.drop()
    difference = abs(loss - float(stored[:end].astype(np.float64).mean()))
    return _line(
        1, "loss of a document here and in transformers, nats per token", difference, TOLERANCE_NATS[precision]
    )


def _law_3(plan: Plan, root: Path, precision: str) -> str:
    """Cells that were trained together, and alone."""
    columns = [column.folder for task in plan.cells for column in task.columns]
    pairs = [[parquet.read_nll(root / way / folder)[0] for way in ("together", "alone")] for folder in columns]
    difference = max(float(np.nanmean(np.abs(first - second))) for first, second in pairs)
    what = "losses of adapters trained together and alone, nats per token"
    return _line(3, what, difference, TOLERANCE_NATS[precision])


def _law_6(plan: Plan, root: Path, measures: Mapping[str, RunMeasure]) -> str:
    """A training that stops half way and resumes has the bits of one that does not."""
    import shutil

    task, broken = plan.cells[0], root / "broken"
    for kind in (layout.CORPORA, layout.SCORES):
        shutil.copytree(root / "alone" / kind, broken / kind)
    for column in task.columns:
        manifest.prepare_dir(broken / column.folder)
    _half(plan, task, broken, measures)
    _run(plan, broken, measures)
    files = [way / task.folder / layout.ADAPTER / "adapter_model.safetensors" for way in (root / "alone", broken)]
    first, second = (path.read_bytes() for path in files)
    differing = sum(a != b for a, b in zip(first, second, strict=False)) + abs(len(first) - len(second))
    return _line(6, "bytes of an adapter that differ after a stop half way", differing, 0)


def _half(plan: Plan, task: CellTask, root: Path, measures: Mapping[str, RunMeasure]) -> None:
    models = LoadedModels(plan.device.kind, plan.budget_bytes)
    progress = ProgressReporter(Console(file=io.StringIO()), Stop())
    context = JobContext(root, JobOptions(plan.device.kind, 600.0, "adapters", None), progress, measures)
    train_cell.train_until(task, 0.5, models.get(task.base), models.tokenizer(task.base), context)
    models.drop()
