"""Adapt a language model under any constraint on the update, and see token by token what it cost.

`load`, `run`, `score`, `adapt` and `open` are the public functions; they are what the command line calls.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from peftodyssey._version import __version__

__all__ = ["__version__", "adapt", "load", "open", "run", "score"]

if TYPE_CHECKING:
    from peftodyssey.api import adapt, load, open, run, score


class _Package(ModuleType):
    """The package with its public functions, imported when first used, so that `import peftodyssey` costs nothing.

    `run` and `score` are also packages inside; importing those would put them in the functions' place, hence
    properties.
    """


def _public(name: str) -> property:
    def get(package: ModuleType) -> Any:
        from peftodyssey import api

        return getattr(api, name)

    def keep(package: ModuleType, value: object) -> None:
        """The import system binds a subpackage to its name here; the function stays."""

    return property(get, keep)


for _name in __all__[1:]:
    setattr(_Package, _name, _public(_name))
sys.modules[__name__].__class__ = _Package
