"""ladder.json: the rungs (pretraining checkpoints) of a ladder, with tokens, arm and learning rate of each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftodyssey.errors import ModelError

LADDER_FILE = "ladder.json"


@dataclass(frozen=True)
class Rung:
    """One checkpoint of a ladder."""

    name: str  # what `revision` takes
    tokens: int | None  # seen in pretraining; None where unknown
    arm: str | None  # init | trunk (constant rate) | annealed (decayed to 0) | decay | cosine | stage2-...
    learning_rate: float | None = None  # of its last step; None where none is recorded
    step: int | None = None
    stage: str = "stage1"
    label_tokens: int | None = None  # the tokens that its name states


def read_rungs(path: Path) -> list[Rung]:
    """The rungs in a ladder.json, in its order. Raises ModelError if the file is not a ladder."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [_parse_entry(entry, content.get("peak_lr")) for entry in content["rungs"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a ladder: {type(error).__name__}: {error}",
            'a ladder is {"rungs": [{"name": ..., "tokens": ..., "arm": ...}, ...]}',
        ) from error


def _parse_entry(entry: dict[str, Any], peak_lr: float | None) -> Rung:
    """Without a `learning_rate` in the file, a trunk rung has the peak rate and an annealed one has 0."""
    tokens, arm = entry.get("tokens"), entry["arm"]
    if tokens is not None and int(tokens) < 0:
        raise ValueError(f"{entry['name']} has {tokens} tokens")
    default_lr = {"trunk": peak_lr, "annealed": 0.0}.get(arm)
    return Rung(entry["name"], None if tokens is None else int(tokens), arm, entry.get("learning_rate", default_lr))
