"""The dropout that a base's config states, switched on in full fine-tuning (`dropout: config`).

Dropped are hidden states (embeddings, residuals, MLPs), by the model's own `nn.Dropout` modules, and the probabilities
of attention, with masks that depend on the seed, the sequence and the module only.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from peftodyssey.constants import ATTENTION_DROPOUT, CONFIG_DROPOUT, SEEDED_DROPOUT, VARLEN_ATTENTION

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

MODULE_NAMES = ("attn_dropout", "attention_dropout")  # what an attention module calls its share: a Dropout, or a number


def config_dropout(model: nn.Module) -> dict[str, float]:
    """{key of the base's config: probability above 0}; empty where it states none."""
    return dict(vars(model).get(CONFIG_DROPOUT, {}))


def switch_on(model: PreTrainedModel) -> dict[str, float]:
    """Gives the model's modules the dropout of its config; {module: probability}, empty where none can be applied."""
    import torch
    from torch import nn

    stated = config_dropout(model)
    if not stated:
        return {}
    config = copy.deepcopy(model.config)
    for key, value in stated.items():
        for part in (config, config.get_text_config()):
            if hasattr(part, key):
                setattr(part, key, value)
    with torch.device("meta"):
        like: Any = type(model)(config)
    applied: dict[str, float] = {}
    for name, module in like.named_modules():
        if isinstance(module, nn.Dropout) and module.p > 0 and name.rpartition(".")[2] not in MODULE_NAMES:
            applied[name] = module.p
            hidden: Any = model.get_submodule(name)
            hidden.p = module.p
            vars(hidden)[SEEDED_DROPOUT] = True
        elif (
            model.config.get_text_config()._attn_implementation == VARLEN_ATTENTION
            and (share := _set_attention(module, None)) > 0
        ):
            applied[name] = share
            attention = model.get_submodule(name)
            vars(attention)[ATTENTION_DROPOUT] = share
            _set_attention(attention, share)
            vars(model)[ATTENTION_DROPOUT] = True
    return applied


def _set_attention(module: Any, share: float | None) -> float:
    """The share of its probabilities that an attention module drops, after it was set where one is given; else 0."""
    if not type(module).__name__.endswith("Attention"):
        return 0.0
    for name in MODULE_NAMES:
        value = getattr(module, name, None)
        holder, key = (module, name) if isinstance(value, float | int) else (value, "p")
        if value is not None:
            if share is not None:
                setattr(holder, key, share)
            return float(getattr(holder, key))
    return 0.0


def switch_off(model: nn.Module) -> None:
    """The modules that `switch_on` changed drop nothing again."""
    for module in model.modules():
        if vars(module).pop(SEEDED_DROPOUT, False):
            vars(module)["p"] = 0.0
        if vars(module).pop(ATTENTION_DROPOUT, False):
            _set_attention(module, 0.0)


def note(model: nn.Module, applied: dict[str, float]) -> str:
    """What was applied of the config's dropout, for the manifest."""
    stated = ", ".join(f"{key} {value:g}" for key, value in config_dropout(model).items())
    attention = {name for name in applied if vars(model.get_submodule(name)).get(ATTENTION_DROPOUT)}
    parts = [
        f"{_shares(applied, names)} in {len(names)} modules on {what}"
        for names, what in (
            (applied.keys() - attention, "hidden states"),
            (attention, "attention probabilities"),
        )
        if names
    ]
    if not attention and any("att" in key for key in config_dropout(model)):
        parts.append("dropout of attention probabilities is not applied in this family")
    return f"dropout of the base's config ({stated}): {'; '.join(parts)}"


def _shares(applied: dict[str, float], names: set[str]) -> str:
    return ", ".join(f"{share:g}" for share in sorted({applied[name] for name in names}))
