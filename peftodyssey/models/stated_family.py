"""Whether config.json contradicts itself about its family: `model_type` against `architectures`. No torch.

transformers chooses the arithmetic by `model_type` alone. Families whose tensors have the same names and shapes (Llama,
Gemma, Mistral, Granite, ...) load under each other's name and compute something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from peftodyssey.errors import ModelError

CAUSAL = re.compile(r"^(\w+?)(ForCausalLM|LMHeadModel)$")
KNOWN = (  # families that the planner knows, and others whose tensors have Llama's names and shapes
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo", "olmo2", "gpt2", "gpt_neox"),
    *("phi", "phi3", "starcoder2", "stablelm", "granite", "helium", "ernie4_5", "smollm3", "seed_oss", "ministral"),
)
BORROWED = ("gpt-sw3", "internlm3", "iquestcoder")  # transformers gives these model types the class of another family


def check_stated_family(name: str, config: Mapping[str, Any]) -> list[str]:
    """A note where `architectures` names a causal class that is of no known family and not that of `model_type`.

    Raises ModelError where it is the class of another known family.
    """
    stated = str(config.get("model_type", ""))
    classes = [entry for entry in config.get("architectures") or () if isinstance(entry, str)]
    stems = [_stem(match[1]) for entry in classes if (match := CAUSAL.match(entry))]
    if not stems or _stem(stated) in stems or stated in BORROWED:
        return []
    known = {_stem(family): family for family in KNOWN}
    if other := next((known[stem] for stem in stems if stem in known), None):
        raise ModelError(
            f"config.json of {name} contradicts itself: model_type {stated!r}, but architectures {', '.join(classes)} "
            f"(family {other!r}); both may have tensors of these names and shapes, and they compute differently",
            f"set model_type to {other!r}, or correct architectures, whichever the weights were trained as",
        )
    if stated in KNOWN:
        return [f"its architectures name {', '.join(classes)}; it is loaded as {stated!r}, which its model_type says"]
    return []


def _stem(name: str) -> str:
    """`gpt_neox` and `GPTNeoX`, `gemma3_text` and `Gemma3` are the same."""
    return re.sub(r"[^a-z0-9]", "", name.lower().removesuffix("_text"))
