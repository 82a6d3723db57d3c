"""The table of methods: a new one is a file beside this and a line here. Read by the plan, the jobs and the command
line.
"""

from __future__ import annotations

from difflib import get_close_matches

from peftodyssey.errors import MethodError
from peftodyssey.methods.bitfit import BITFIT
from peftodyssey.methods.full import FULL
from peftodyssey.methods.ia3 import IA3
from peftodyssey.methods.last_layers import LAST_LAYERS
from peftodyssey.methods.lora import LORA, QLORA
from peftodyssey.methods.peft import PEFT
from peftodyssey.methods.protocol import Method
from peftodyssey.methods.saved import SAVED

METHODS: dict[str, Method] = {m.name: m for m in (FULL, LORA, QLORA, BITFIT, LAST_LAYERS, IA3, PEFT, SAVED)}


def method(name: str) -> Method:
    """The method called `name`; raises MethodError with the nearest name there is."""
    if name in METHODS:
        return METHODS[name]
    close = get_close_matches(name, METHODS, 1)
    raise MethodError(
        f"there is no method {name!r}; there are {', '.join(METHODS)}", f"did you mean {close[0]!r}?" if close else ""
    )
