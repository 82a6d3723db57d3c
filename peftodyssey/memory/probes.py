"""What a probe measured of one training step on this machine, kept between runs. No torch.

One JSON file per step in the user's cache folder. Its name is the hash of machine, versions, base model, method and
step, so that no outdated probe is read.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from peftodyssey import assets
from peftodyssey.memory.device import Device
from peftodyssey.memory.memory_plan import MemoryPlan, Term
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.recipe.cell import Cell
from peftodyssey.recipe.identity import digest
from peftodyssey.store import atomic
from peftodyssey.store.versions import versions

STEPS = 6  # optimiser steps of a probe: the first one warms up, the others are steady
NO_EFFECT = ("label", "lr", "tuned", "max_cells")  # fields of a method that change neither memory nor speed


@dataclass(frozen=True)
class Probe:
    """Real steps of one shape, a scored batch, a saved and reloaded result: what they took. Bytes and seconds."""

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

    @property
    def steady_seconds(self) -> float:
        """Seconds of a step after the first one, their median; 0 where nothing was trained."""
        return median_after_first(self.step_seconds)


def median_after_first(seconds: Sequence[float]) -> float:
    """The median without the first value, which stands alone where it is the only one; 0 of none."""
    return statistics.median(seconds[1:] or seconds) if seconds else 0.0


AnyProbe = TypeVar("AnyProbe")


def probe_key(cell: Cell, step: StepSpec, model_fingerprint: str, device: Device) -> str:
    """Name of the probe of a step on this machine."""
    method = {name: value for name, value in asdict(cell.method).items() if name not in NO_EFFECT}
    facts = {
        "device": [device.kind, device.name, device.total_bytes],
        "versions": _versions(),
        "model": model_fingerprint,
        "positions": cell.model.max_position_embeddings,
        "method": plain(method),
        "step": plain(asdict(step)),
        "batch_tokens": cell.train.batch_tokens,
        "context": cell.score.context,
        "stride": cell.score.stride,
    }
    return digest(facts)


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return versions()


def plain(value: Any) -> Any:
    """The value with its mappings and sequences as JSON has them."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def folder() -> Path:
    """Where probes are kept."""
    return assets.cache_folder() / "probes"


def load(key: str, kind: type[AnyProbe]) -> AnyProbe | None:
    """The probe of class `kind` with that key, None where there is none or it cannot be read."""
    try:
        content = json.loads((folder() / f"{key}.json").read_text(encoding="utf-8"))
        return kind(**{**content, "step_seconds": tuple(content["step_seconds"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save(key: str, probe: Any) -> None:
    """Write a probe (any dataclass with `step_seconds`); a write that is interrupted leaves no file."""
    folder().mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder() / f"{key}.json", json.dumps(asdict(probe), indent=1) + "\n")


def with_measured_sums(plan: MemoryPlan, probe: Probe | None) -> MemoryPlan:
    """The plan with the sums that a probe measured; the difference is a term of its own."""
    if probe is None:
        return plan
    difference = Term("correction by the probe", probe.peak_reserved_bytes - plan.peak_reserved_bytes)
    return replace(
        plan,
        terms=(*plan.terms, difference),
        peak_allocated_bytes=probe.peak_allocated_bytes,
        peak_reserved_bytes=probe.peak_reserved_bytes,
    )
