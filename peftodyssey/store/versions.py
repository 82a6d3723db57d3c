"""Which library versions made a result; `run --refresh stale` compares them. Imports none of them."""

from __future__ import annotations

import platform
from importlib import metadata

from peftodyssey._version import __version__

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes", "trl", "accelerate", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of the libraries that shape a result; missing ones are left out."""
    installed = {"python": platform.python_version(), "peftodyssey": __version__}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed
