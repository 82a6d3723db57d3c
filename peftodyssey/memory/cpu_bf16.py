"""How fast bf16 is on this CPU: measured once per processor and torch version, kept in the user's cache. No torch."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import sys
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from peftodyssey import assets
from peftodyssey.errors import StoreError
from peftodyssey.recipe.identity import digest
from peftodyssey.store import atomic
from peftodyssey.store.versions import versions

MIN_SPEEDUP = 1.2  # from which `precision: auto` is bf16 on a CPU
INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16")  # x86 with and without matrix registers, Arm


@dataclass(frozen=True)
class Measurement:
    """Seconds of one training step of the same shapes in fp32 and in bf16."""

    model: str  # whose shapes they are
    fp32_seconds: float
    bf16_seconds: float

    @property
    def speedup(self) -> float:
        """How many times as fast a step is in bf16."""
        return self.fp32_seconds / self.bf16_seconds

    @property
    def is_fast(self) -> bool:
        """Whether `precision: auto` is bf16."""
        return self.speedup >= MIN_SPEEDUP


def has_instructions() -> bool:
    """Whether the processor multiplies bf16 numbers; where it does not, bf16 is no faster and is not measured."""
    return bool(_processor()[1])


def read() -> Measurement | None:
    """What was measured on this processor with this torch; None where nothing was, or it cannot be read."""
    try:
        found = Measurement(**json.loads(_path().read_text(encoding="utf-8")))
        return found if found.fp32_seconds > 0 and found.bf16_seconds > 0 else None
    except (OSError, ValueError, TypeError):
        return None


def keep(measured: Measurement) -> None:
    """Keeps a measurement; not where the cache cannot be written."""
    with contextlib.suppress(OSError, StoreError):  # a run does not end because its cache is read-only
        _path().parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(_path(), json.dumps(asdict(measured), indent=1) + "\n")


def _path() -> Path:
    facts = {"processor": _processor()[0], "torch": versions().get("torch")}
    return assets.cache_folder() / "cpu-bf16" / f"{digest(facts)}.json"


@lru_cache(maxsize=1)
def _processor() -> tuple[str, tuple[str, ...]]:
    """The processor's name and which of INSTRUCTIONS it has; none where the system does not say."""
    if sys.platform != "linux":
        return platform.processor() or platform.machine(), ()
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.machine(), ()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    words = flags[1].split() if flags else []
    return name[1] if name else platform.machine(), tuple(word for word in INSTRUCTIONS if word in words)
