"""What to do where a sequence is longer than a model has positions: more of them, or another model."""

from __future__ import annotations

import math

from peftodyssey.model_shape import ModelShape
from peftodyssey.models import shapes
from peftodyssey.models.shape_from_config import shape_from_config

NAMED = 3  # shapes at most


def more_positions(name: str, shape: ModelShape, tokens: int, setting: str) -> str:
    """The ways out for `tokens` on the model `name`; `setting` is how more positions are written for a random shape."""
    others = f"another shape: {_longer(shape, tokens)}"
    if name.startswith("random/"):
        return f"or give the shape more: {setting}; or take {others}"
    return (
        "its positions are trained, so memory and time of longer sequences can only be planned, on a random/<shape> "
        f"with {setting}, or on {others}"
    )


def _longer(shape: ModelShape, tokens: int) -> str:
    """The shapes of the most similar size with at least `tokens` positions, as names with their positions."""
    known = {
        name: shape_from_config(config)
        for name, config in shapes.named_configs().items()
        if not name.startswith("tiny-")
    }
    longer = sorted(
        (abs(math.log(other.parameters / shape.parameters)), name)
        for name, other in known.items()
        if other.positions >= tokens
    )
    if not longer:
        return f"none has {tokens:,} positions"
    return ", ".join(f"random/{name} ({known[name].positions:,})" for _, name in longer[:NAMED])
