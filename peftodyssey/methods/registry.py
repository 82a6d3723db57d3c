"""The methods by name. A new method is one file in this package and one entry here."""

from __future__ import annotations

from peftodyssey.errors import MethodError
from peftodyssey.methods.bitfit import BITFIT
from peftodyssey.methods.full import FULL
from peftodyssey.methods.ia3 import IA3
from peftodyssey.methods.last_layers import LAST_LAYERS
from peftodyssey.methods.lora import LORA, QLORA
from peftodyssey.methods.method import Method
from peftodyssey.methods.peft import PEFT
from peftodyssey.methods.saved import SAVED
from peftodyssey.methods.targets import did_you_mean
from peftodyssey.methods.truncate import TRUNCATE

METHODS: dict[str, Method] = {m.name: m for m in (FULL, LORA, QLORA, BITFIT, LAST_LAYERS, IA3, PEFT, TRUNCATE, SAVED)}


def method(name: str) -> Method:
    """The method called `name`. Raises MethodError with the nearest name."""
    if name in METHODS:
        return METHODS[name]
    raise MethodError(f"there is no method {name!r}; there are {', '.join(METHODS)}", did_you_mean(name, METHODS))
