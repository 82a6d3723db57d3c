"""What a probe measured of one shape of step on this machine, kept between runs. No torch.

`jobs.probe` makes them, `plan.choose` corrects its bill by them, `plan.hours` reckons with them. One JSON file a shape
in the user's cache folder; its name is the hash of machine, versions, base, method and step, so that nothing stale is
read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey import assets
from peftodyssey.memory.device import Device
from peftodyssey.memory.memory_plan import MemoryPlan, Term
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.recipe.cell import Cell
from peftodyssey.recipe.identity import digest
from peftodyssey.store import atomic
from peftodyssey.store.versions import versions

if TYPE_CHECKING:
    from peftodyssey.plan.tasks import CellTask

HOW = ("label", "lr", "tuned")  # of a method: what changes neither memory nor speed


@dataclass(frozen=True)
class Probe:
    """Two real steps, a scored batch, a saved and reloaded result: what they took. Bytes and seconds."""

    what: str
    measured: dict[str, int]  # bytes by line: weights, adapters, optimiser states, passing (all else at the peak)
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    scoring_peak_bytes: int  # reserved while a batch is scored
    step_seconds: tuple[float, ...]  # of each optimiser step, in order; the first one warms up
    scored_tokens_per_second: float
    load_seconds: float
    save_seconds: float
    saved_bytes: int


@dataclass(frozen=True)
class ProbeResult:
    """One shape: the first cell that has it, how many do, and what was measured or why it cannot be done."""

    task: CellTask
    cells: int
    probe: Probe | None
    reason: str
    cached: bool


def key_of(cell: Cell, step: StepSpec, model_fingerprint: str, device: Device) -> str:
    """Name of the probe of a shape on this machine."""
    method = {name: value for name, value in asdict(cell.method).items() if name not in HOW}
    told = {
        "device": [device.kind, device.name, device.total_bytes],
        "versions": _versions(),
        "model": model_fingerprint,
        "positions": cell.model.max_position_embeddings,
        "method": _plain(method),
        "step": _plain(asdict(step)),
        "batch_tokens": cell.train.batch_tokens,
        "context": cell.score.context,
        "stride": cell.score.stride,
    }
    return digest(told)


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return versions()


def _plain(value: Any) -> Any:
    """The value with its mappings and sequences as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def folder() -> Path:
    """Where probes are kept."""
    return assets.cache_folder() / "probes"


def known(key: str) -> Probe | None:
    """The probe of that name, None where there is none or it cannot be read."""
    try:
        content = json.loads((folder() / f"{key}.json").read_text(encoding="utf-8"))
        return Probe(**{**content, "step_seconds": tuple(content["step_seconds"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def keep(key: str, probe: Probe) -> None:
    """Write the probe, whole or not at all."""
    folder().mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder() / f"{key}.json", json.dumps(asdict(probe), indent=1) + "\n")


def of(task: CellTask, device: Device) -> Probe | None:
    """What is known of the shape of a planned cell."""
    return known(key_of(task.cell, task.step, task.base.source.fingerprint, device))


def corrected(bill: MemoryPlan, probe: Probe | None) -> MemoryPlan:
    """The bill with its sums as they were measured; the difference is a term of its own."""
    if probe is None:
        return bill
    difference = probe.peak_reserved_bytes - bill.peak_reserved_bytes
    terms = (*bill.terms, Term("correction by the probe", difference))
    return replace(
        bill,
        terms=terms,
        peak_allocated_bytes=probe.peak_allocated_bytes,
        peak_reserved_bytes=probe.peak_reserved_bytes,
    )
