"""Finding a ladder, one model at several pretraining budgets: bundled, in a folder, or the revisions of a Hub
repository.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftodyssey.errors import ModelError
from peftodyssey.models import hub_refs
from peftodyssey.models.ladder_file import LADDER_FILE, Rung, read_rungs
from peftodyssey.models.local_model import ADAPTER_FILE, CONFIG_FILE, looks_local, rung_folders
from peftodyssey.models.rung_names import parse_rungs, token_problems
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.models.source import bundled_folder, read_rung_config


@dataclass(frozen=True)
class Ladder:
    """The rungs of one model, and notes about missing or wrong tokens."""

    name: str
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...] = ()
    repository: str | None = None  # the Hub id, where its published schedule is known by it

    def parameters(self) -> int | None:
        """Parameters of the model, counted from the config.json of a rung; None where there is no such config."""
        try:
            return shape_from_config(read_rung_config(self.name, self.rungs[-1].name)).parameters
        except ModelError:
            return None


def find_ladder(name: str) -> Ladder:
    """The ladder of `bundled/<model>`, of a folder (with ladder.json, with folders named after steps, or laid out as a
    Hub cache), or of a Hub repository.

    Rungs are in the file's order, or sorted by stage and step. Raises ModelError where there is no ladder, or its file
    or the Hub cannot be read.
    """
    path = Path(name).expanduser()
    if name.startswith("bundled/"):
        return _from_file(name, bundled_folder(name) / LADDER_FILE)
    if (path / LADDER_FILE).is_file():
        return _from_file(name, path / LADDER_FILE)
    if hub_refs.is_cache_folder(path):
        return _from_revisions(name, hub_refs.repository_id(path), hub_refs.cached_revisions(path))
    if path.is_dir() and (folders := rung_folders(path)):
        return _from_folders(name, path, folders)
    if looks_local(name) or name.startswith("random/"):
        raise ModelError(
            f"{name} is not a ladder: it has neither {LADDER_FILE} nor folders such as step1000 or checkpoint-500",
            "see bundled/odyssey-3m for one",
        )
    return _from_revisions(name, name, *hub_refs.list_revisions(name))


def _from_revisions(name: str, repository: str, revisions: list[str], note: str = "") -> Ladder:
    rungs, others = parse_rungs(repository, revisions)
    if not rungs:
        raise ModelError(
            f"{name} is no ladder: none of its {len(revisions)} revisions is named after a step",
            "name the revisions yourself: `revisions: [...]`",
        )
    notes = [note] if note else []
    if others:
        notes.append(f"not read as rungs: {', '.join(others[:5])}" + (" ..." if len(others) > 5 else ""))
    return Ladder(name, tuple(rungs), (*notes, *token_problems(repository, rungs)), repository)


def _from_folders(name: str, root: Path, folders: dict[str, Rung]) -> Ladder:
    """The folders named after steps that hold a model, by stage and step; what the others hold is noted."""
    models = {rung: found for rung, found in folders.items() if (root / rung / CONFIG_FILE).is_file()}
    if not models:
        raise ModelError(
            f"{name} is no ladder: none of {', '.join(list(folders)[:5])} holds a {CONFIG_FILE}",
            "a rung is a folder as transformers' save_pretrained writes it; adapters are scored with --adapter",
        )
    notes = []
    for rung in folders.keys() - models.keys():
        is_adapter = (root / rung / ADAPTER_FILE).is_file()
        notes.append(f"{rung} is not a rung: it holds {'an adapter' if is_adapter else f'no {CONFIG_FILE}'}")
    rungs = sorted(models.values(), key=lambda r: (r.stage, r.step or 0, r.name))
    return Ladder(name, tuple(rungs), (*sorted(notes), *token_problems(name, rungs)))


def _from_file(name: str, path: Path) -> Ladder:
    rungs, notes = read_rungs(path), []
    if without_tokens := [rung.name for rung in rungs if rung.tokens is None]:
        notes.append(f"{', '.join(without_tokens)}: {LADDER_FILE} states no tokens")
    if len({rung.name for rung in rungs}) < len(rungs):
        notes.append(f"{LADDER_FILE} names a rung twice")
    return Ladder(name, tuple(rungs), tuple(notes))
