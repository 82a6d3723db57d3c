"""Ladders: one model at several pretraining budgets, its rungs. Called by `models.source`, `ladder list` and
`plan.rungs`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftodyssey import assets
from peftodyssey.errors import ModelError
from peftodyssey.models import hub_refs
from peftodyssey.models.rung_names import Rung, parse_rungs, token_problems

__all__ = ["DEFAULT_RUNG", "LADDER_FILE", "Ladder", "Rung", "find_ladder", "read_rungs", "rungs"]

DEFAULT_RUNG = "annealed-1024M"
LADDER_FILE = "ladder.json"


@dataclass(frozen=True)
class Ladder:
    """The rungs of one model, and what is odd about them in sentences."""

    name: str
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...] = ()

    def parameters(self) -> int | None:
        """Parameters of the model, counted from the config.json of a rung; None where it is not to be had."""
        from peftodyssey.models.shape_from_config import shape_from_config
        from peftodyssey.models.source import read_rung_config

        try:
            return shape_from_config(read_rung_config(self.name, self.rungs[-1].name)).parameters
        except ModelError:
            return None


def find_ladder(name: str) -> Ladder:
    """The ladder of `bundled/<model>`, of a folder with ladder.json or laid out as a Hub cache, or of a Hub repository.

    Raises ModelError where there is none, or its file or the Hub cannot be read.
    """
    from peftodyssey.models.local_model import looks_local

    path = Path(name).expanduser()
    if name.startswith("bundled/"):
        return _with_remarks(name, read_rungs(_bundled(name.removeprefix("bundled/"))))
    if (path / LADDER_FILE).is_file():
        return _with_remarks(name, read_rungs(path / LADDER_FILE))
    if hub_refs.is_cache_folder(path):
        return _of_names(name, hub_refs.repository_id(path), hub_refs.cached_revisions(path))
    if looks_local(name) or name.startswith("random/"):
        raise ModelError(f"{name} is not a ladder: there is no {LADDER_FILE} in it", "see bundled/odyssey-3m for one")
    names, note = hub_refs.list_revisions(name)
    return _of_names(name, name, names, note)


def rungs(name: str) -> list[Rung]:
    """The rungs of `ladder(name)`, in the file's order, or by stage and step."""
    return list(find_ladder(name).rungs)


def _bundled(model: str) -> Path:
    if model not in assets.models():
        raise ModelError(f"no bundled model {model!r}", f"bundled models: {', '.join(assets.models())}")
    return assets.model_files(model) / LADDER_FILE


def _of_names(name: str, repository: str, names: list[str], note: str = "") -> Ladder:
    found, others = parse_rungs(repository, names)
    if not found:
        raise ModelError(
            f"{name} is no ladder: none of its {len(names)} revisions is named after a step",
            "name the revisions yourself: `revisions: [...]`",
        )
    odd = [f"not read as rungs: {', '.join(others[:5])}" + (" ..." if len(others) > 5 else "")] if others else []
    return Ladder(name, tuple(found), (*filter(None, [note]), *odd, *token_problems(repository, found)))


def _with_remarks(name: str, found: list[Rung]) -> Ladder:
    return Ladder(name, tuple(found), tuple(_file_remarks(found)))


def _file_remarks(found: list[Rung]) -> list[str]:
    odd = []
    if bare := [rung.name for rung in found if rung.tokens is None]:
        odd.append(f"{', '.join(bare)}: {LADDER_FILE} says no tokens")
    if len({rung.name for rung in found}) < len(found):
        odd.append(f"{LADDER_FILE} names a rung twice")
    return odd


def read_rungs(path: Path) -> list[Rung]:
    """The rungs that a ladder.json names. Raises ModelError if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return [_of_entry(entry, content.get("peak_lr")) for entry in content["rungs"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path} is not a ladder: {type(error).__name__}: {error}",
            'a ladder is {"rungs": [{"name": ..., "tokens": ..., "arm": ...}, ...]}',
        ) from error


def _of_entry(entry: dict[str, Any], peak_lr: float | None) -> Rung:
    """The rate of the last step where the file says it; else what the arm implies: the peak on a trunk, 0 when
    annealed.
    """
    tokens, arm = entry.get("tokens"), entry["arm"]
    if tokens is not None and int(tokens) < 0:
        raise ValueError(f"{entry['name']} has {tokens} tokens")
    implied = {"trunk": peak_lr, "annealed": 0.0}.get(arm)
    return Rung(entry["name"], None if tokens is None else int(tokens), arm, entry.get("learning_rate", implied))
