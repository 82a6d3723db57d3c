"""Ladders: one model at several pretraining budgets, its rungs. Called by `models.source`, `ladder list` and the grid."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from peftodyssey import assets
from peftodyssey.errors import ModelError

DEFAULT_RUNG = "annealed-1024M"
LADDER_FILE = "ladder.json"


@dataclass(frozen=True)
class Rung:
    """One checkpoint of a ladder."""

    name: str  # what `revision` takes
    tokens: int  # seen in pretraining
    arm: str  # init | trunk (constant learning rate) | annealed (decayed to 0)
    learning_rate: float | None = None  # peak learning rate of its pretraining; None where none is recorded


def rungs(name: str) -> list[Rung]:
    """The rungs of `bundled/<model>` or of a local folder that holds ladder.json, in the file's order.

    Raises ModelError where there is no ladder or its file cannot be read.
    """
    if name.startswith("bundled/"):
        model = name.removeprefix("bundled/")
        if model not in assets.models():
            raise ModelError(f"no bundled model {model!r}", f"bundled models: {', '.join(assets.models())}")
        return read_rungs(assets.model_files(model) / LADDER_FILE)
    path = Path(name).expanduser() / LADDER_FILE
    if not path.is_file():
        raise ModelError(f"{name} is not a ladder: there is no {LADDER_FILE} in it", "see bundled/odyssey-3m for one")
    return read_rungs(path)


def read_rungs(path: Path) -> list[Rung]:
    """The rungs that a ladder.json names. Raises ModelError if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        peak = content.get("peak_lr")
        return [
            Rung(entry["name"], int(entry["tokens"]), entry["arm"], entry.get("learning_rate", peak))
            for entry in content["rungs"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a ladder: {type(error).__name__}: {error}",
            'a ladder is {"rungs": [{"name": ..., "tokens": ..., "arm": ...}, ...]}',
        ) from error
