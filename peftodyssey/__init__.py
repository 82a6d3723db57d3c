"""Compare full fine-tuning, LoRA, QLoRA and other PEFT methods on your own text, token by token.

`load`, `run`, `score`, `adapt` and `open` are the public functions. The command line calls the same ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from peftodyssey._version import __version__

__all__ = ["__version__", "adapt", "load", "open", "run", "score"]

if TYPE_CHECKING:
    from peftodyssey.api import adapt, load, open, run, score


def __getattr__(name: str) -> Any:
    """Public functions are imported when they are first used, so that `import peftodyssey` stays fast."""
    if name not in __all__:
        raise AttributeError(f"module 'peftodyssey' has no attribute {name!r}; public: {', '.join(__all__)}")
    from peftodyssey import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
