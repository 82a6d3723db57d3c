"""The dropout that a base's config states: taken out when the base is loaded, because a base must score alike twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.constants import CONFIG_DROPOUT

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def take_out(config: PreTrainedConfig) -> dict[str, float]:
    """The dropout probabilities above 0 in `config`, which are all 0 in it afterwards."""
    taken: dict[str, float] = {}
    for part in (config, config.get_text_config()):
        for key, value in part.to_dict().items():
            is_number = isinstance(value, float | int) and not isinstance(value, bool)
            if (value is None or is_number) and ("dropout" in key or "pdrop" in key):
                if value:
                    taken[key] = float(value)
                setattr(part, key, 0.0)
    return taken


def remember(model: PreTrainedModel, taken: dict[str, float]) -> None:
    """Keeps what `take_out` took with the model, for `methods.base_dropout` and for the config of an export."""
    vars(model)[CONFIG_DROPOUT] = taken
