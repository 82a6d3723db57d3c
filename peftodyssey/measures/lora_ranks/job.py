"""Job: some training steps of one rank by itself, timed. Nothing that is trained is kept."""

from __future__ import annotations

from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import Handle
from peftodyssey.jobs.probe import probe_steps
from peftodyssey.memory.probes import median_after_first
from peftodyssey.plan.tasks import CellTask, MeasureTask
from peftodyssey.store import manifest


def run(task: MeasureTask, handle: Handle, context: JobContext) -> None:
    """Commits seconds of a step, tokens per second and peak memory. Interrupted where the user stops."""
    cell: CellTask = task.options
    context.stop_if_asked(f"measuring the steps of {cell.cell.method.label}")
    measured = probe_steps(cell, handle.base(), context.options.device)
    step_seconds = median_after_first(measured.step_seconds)
    facts = {
        "solo_step_seconds": step_seconds,
        "solo_tokens_per_second": cell.cell.train.batch_tokens / step_seconds,
        "solo_memory_bytes": measured.peak_bytes,
        "steps": len(measured.step_seconds),
    }
    folder = manifest.prepare_dir(context.root / task.folder)
    manifest.commit(folder, {"kind": "lora_ranks", "identity": task.identity, "status": "done", "facts": facts})
