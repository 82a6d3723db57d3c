"""The rates that runs on this machine measured, in the user's cache folder: other runs estimate their time by them."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from peftodyssey import assets
from peftodyssey.errors import StoreError
from peftodyssey.plan.work import Rate, Rates
from peftodyssey.recipe.identity import digest
from peftodyssey.store import atomic
from peftodyssey.store.versions import versions

LEAST_SECONDS = 2.0  # of work of one kind: for less, its beginning and end weigh too much


def path(device: str) -> Path:
    """The file of a device: its name, the threads of a CPU and the versions of the libraries decide a rate."""
    threads = os.environ.get("OMP_NUM_THREADS") or os.cpu_count()
    return (
        assets.cache_folder()
        / "rates"
        / f"{digest({'device': device, 'threads': threads, 'versions': _versions()})}.json"
    )


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    return versions()


def read(device: str) -> Rates:
    """The rates of earlier runs on `device`; none where there are none or they cannot be read."""
    try:
        return parsed(json.loads(path(device).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Rates()


def add(device: str, rates: Rates) -> None:
    """Keeps the rates of a run, of each kind the newest; not where the cache cannot be written."""
    training, other = (
        {kind: rate for kind, rate in each.items() if rate.seconds >= LEAST_SECONDS}
        for each in (rates.training, rates.other)
    )
    if not training and not other:
        return
    earlier, file = read(device), path(device)
    content = asdict(Rates(earlier.training | training, earlier.other | other))
    with contextlib.suppress(OSError, StoreError):  # a run does not end because its rates cannot be kept
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(file, json.dumps(content, indent=1) + "\n")


def parsed(content: Mapping[str, Any]) -> Rates:
    """Rates from JSON. Raises KeyError, TypeError or AttributeError where they are damaged."""
    training, other = ({kind: Rate(**rate) for kind, rate in content[part].items()} for part in ("training", "other"))
    return Rates(training, other, content["cells"])
