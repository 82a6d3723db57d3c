"""Probes of every distinct shape of a plan, one after another."""

from __future__ import annotations

import time

from rich.console import Console

from peftodyssey.errors import OdysseyError
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.jobs.probe import probe, probe_multi_lora
from peftodyssey.memory import probes
from peftodyssey.models.log_filters import quiet
from peftodyssey.plan import probe_results
from peftodyssey.plan.multi_lora_groups import joint_micro_batch
from peftodyssey.plan.probe_results import MultiLoraProbe, MultiLoraProbeResult, ProbeResult
from peftodyssey.plan.tasks import CellTask, Plan


def probe_all(plan: Plan, console: Console, again: bool = False) -> list[ProbeResult]:
    """A probe of each distinct shape; those known on this machine are not tried again unless `again`."""
    shapes: dict[str, list[CellTask]] = {}
    for task in plan.cells:
        key = probe_results.key_of(task, plan.device)
        shapes.setdefault(key, []).append(task)
    order = plan.base_order
    models, results = LoadedModels(plan.device.kind, plan.budget_bytes), []
    with quiet():
        for key, tasks in sorted(shapes.items(), key=lambda item: order[item[1][0].base.identifier]):
            known = None if again else probes.load(key, probes.Probe)
            if known is None:
                console.print(f"trying {tasks[0].cell.model.name}, {tasks[0].cell.method.label} ...", markup=False)
                results.append(_tried(key, tasks, models, plan))
            else:
                results.append(ProbeResult(tasks[0], len(tasks), known, "", True))
    models.drop()
    return results


def probe_multi_lora_groups(plan: Plan, console: Console) -> list[MultiLoraProbeResult]:
    """A probe of each distinct multi-LoRA group; those measured on this machine before are not repeated."""
    models, results = LoadedModels(plan.device.kind, plan.budget_bytes), []
    with quiet():
        for key, groups in probe_results.groups_by_key(plan).items():
            measured, reason = probes.load(key, MultiLoraProbe), ""
            if measured is None:
                tasks = groups[0]
                console.print(f"trying {len(tasks)} {tasks[0].cell.method.method} cells together ...", markup=False)
                try:
                    measured = probe_multi_lora(
                        tasks, joint_micro_batch(plan, tasks), models.get(tasks[0].base), plan.device.kind
                    )
                    probes.save(key, measured)
                except OdysseyError as error:
                    models.drop()
                    reason = str(error)
            results.append(probe_results.multi_lora_result(measured, groups, plan.device, reason))
    models.drop()
    return results


def _tried(key: str, tasks: list[CellTask], models: LoadedModels, plan: Plan) -> ProbeResult:
    task = tasks[0]
    try:
        started = time.perf_counter()
        base = models.get(task.base)
        load_seconds = time.perf_counter() - started
        measured = probe(task, base, load_seconds, plan.device.kind, models.tokenizer(task.base).prefix_id)
    except OdysseyError as error:
        models.drop()  # what went wrong may have left the base changed
        return ProbeResult(task, len(tasks), None, str(error), False)
    probes.save(key, measured)
    return ProbeResult(task, len(tasks), measured, "", False)
