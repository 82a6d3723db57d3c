"""Checkpoints stored quantised: bitsandbytes' are bases of their own, other formats are refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftodyssey.errors import ModelError
from peftodyssey.recipe.cell import QuantSpec

BITSANDBYTES = "bitsandbytes"
PARTS = (".absmax", ".quant_map")  # of a 4-bit weight, beside `.quant_state.*`
NESTED_PARTS = (".nested_absmax", ".nested_quant_map")  # where the scales are quantised too (uint8)


def stored_quant(name: str, config: Mapping[str, Any]) -> QuantSpec | None:
    """How the weights of a checkpoint are stored by its config.json; None where they are not quantised.

    Raises ModelError for every format but bitsandbytes' nf4, fp4 and int8.
    """
    entry = config.get("quantization_config")
    if not entry:
        return None
    if not isinstance(entry, Mapping):
        raise ModelError(
            f"config.json of {name} has quantization_config: {entry!r}, which is no mapping",
            "remove quantization_config where the weights are not quantised, or download config.json again",
        )
    method = entry.get("quant_method", BITSANDBYTES if "load_in_4bit" in entry else "an unknown method")
    if method == BITSANDBYTES and entry.get("load_in_4bit") and entry.get("bnb_4bit_quant_type") in ("nf4", "fp4"):
        return QuantSpec(entry["bnb_4bit_quant_type"], bool(entry.get("bnb_4bit_use_double_quant")))
    if method == BITSANDBYTES and entry.get("load_in_8bit"):
        return QuantSpec("int8", double_quant=False)
    raise ModelError(
        f"{name} is stored quantised by {method} ({_bits(entry)}), which cannot be trained or scored here",
        "give the full-precision model and let `quant: nf4` quantise it when it is loaded, or a checkpoint in "
        "bitsandbytes' nf4, fp4 or int8",
    )


def _bits(entry: Mapping[str, Any]) -> str:
    """What the config says of the width, for a message."""
    bits = entry.get("bits") or entry.get("w_bit") or entry.get("fmt") or entry.get("format")
    return f"{bits} bits" if isinstance(bits, int) else str(bits or "its width is not stated")


def note(quant: QuantSpec) -> str:
    """What must be said of a base that is stored quantised."""
    return (
        f"the weights are stored as {quant.kind} by bitsandbytes and are the base as they stand: losses before "
        "adapting are those of this quantised model"
    )


def check_parts(name: str, headers: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises ModelError for a 4-bit weight without its scales, which would be read as other numbers.

    `headers`: {tensor: {dtype, ...}} of the weight files.
    """
    with_state = {key.split(".quant_state.")[0] for key in headers if ".quant_state." in key}
    for key, entry in headers.items():
        if not key.endswith(".absmax") or key.endswith(".nested_absmax"):
            continue
        weight = key.removesuffix(".absmax")
        parts = (*PARTS, *(NESTED_PARTS if entry["dtype"] == "U8" else ()))
        missing = [weight + part for part in parts if weight + part not in headers]
        if missing or weight not in with_state:
            raise ModelError(
                f"{name} lacks {missing[0] if missing else weight + '.quant_state.*'}, without which {weight} cannot "
                "be read",
                "download or save the checkpoint again",
            )
