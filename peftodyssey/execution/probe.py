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
    held, found = LoadedModels(plan.device.kind, plan.budget_bytes), []
    with quiet():
        for key, tasks in sorted(shapes.items(), key=lambda item: order[item[1][0].base.identifier]):
            known = None if again else probes.load(key, probes.Probe)
            if known is None:
                console.print(f"trying {tasks[0].cell.model.name}, {tasks[0].cell.method.label} ...", markup=False)
                found.append(_tried(key, tasks, held, plan))
            else:
                found.append(ProbeResult(tasks[0], len(tasks), known, "", True))
    held.drop()
    return found


def probe_multi_lora_groups(plan: Plan, console: Console) -> list[MultiLoraProbeResult]:
    """A probe of each distinct multi-LoRA group; those measured on this machine before are not repeated."""
    held, found = LoadedModels(plan.device.kind, plan.budget_bytes), []
    with quiet():
        for key, groups in probe_results.groups_by_key(plan).items():
            made, reason = probes.load(key, MultiLoraProbe), ""
            if made is None:
                tasks = groups[0]
                console.print(f"trying {len(tasks)} {tasks[0].cell.method.method} cells together ...", markup=False)
                try:
                    made = probe_multi_lora(
                        tasks, joint_micro_batch(plan, tasks), held.get(tasks[0].base), plan.device.kind
                    )
                    probes.save(key, made)
                except OdysseyError as error:
                    held.drop()
                    reason = str(error)
            found.append(probe_results.multi_lora_result(made, groups, plan.device, reason))
    held.drop()
    return found


def _tried(key: str, tasks: list[CellTask], held: LoadedModels, plan: Plan) -> ProbeResult:
    task = tasks[0]
    try:
        begun = time.perf_counter()
        base = held.get(task.base)
        load_seconds = time.perf_counter() - begun
        made = probe(task, base, load_seconds, plan.device.kind, held.tokenizer(task.base).prefix_id)
    except OdysseyError as error:
        held.drop()  # what went wrong may have left the base changed
        return ProbeResult(task, len(tasks), None, str(error), False)
    probes.save(key, made)
    return ProbeResult(task, len(tasks), made, "", False)
