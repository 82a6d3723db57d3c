"""One thing wrong between the values of a recipe. Made by `recipe.checks`, placed by `recipe.load`."""

from __future__ import annotations

from dataclasses import dataclass

from peftodyssey.recipe.yaml_tree import Path


@dataclass(frozen=True)
class Finding:
    """One thing wrong between values: its place, the words, and the paths it looked at."""

    path: Path
    what: str
    got: str = ""
    allowed: str = ""
    next_step: str = ""
    severity: str = "error"
    needs: tuple[Path, ...] = ()
