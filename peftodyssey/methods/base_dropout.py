"""The dropout that a base's config states, switched on in full fine-tuning (`dropout: config`).

Applied is what works on hidden states (embeddings, residuals, MLPs), by the model's own `nn.Dropout` modules, with
masks that depend on the seed, the sequence and the module only. Dropout of attention probabilities is not applied:
attention kernels draw it themselves, so it would depend on the micro-batch.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from peftodyssey.constants import CONFIG_DROPOUT, SEEDED_DROPOUT

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

ATTENTION_PROBABILITIES = ("attn_dropout", "attention_dropout")  # names of modules that drop these


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
    applied = {
        name: module.p
        for name, module in like.named_modules()
        if isinstance(module, nn.Dropout) and module.p > 0 and name.rpartition(".")[2] not in ATTENTION_PROBABILITIES
    }
    for name, probability in applied.items():
        module: Any = model.get_submodule(name)
        module.p = probability
        vars(module)[SEEDED_DROPOUT] = True
    return applied


def switch_off(model: nn.Module) -> None:
    """The modules that `switch_on` changed drop nothing again."""
    for module in model.modules():
        if vars(module).pop(SEEDED_DROPOUT, False):
            vars(module)["p"] = 0.0


def note(model: nn.Module, applied: dict[str, float]) -> str:
    """What was applied of the config's dropout, for the manifest."""
    stated = ", ".join(f"{key} {value:g}" for key, value in config_dropout(model).items())
    some = ", ".join(f"{value:g}" for value in sorted(set(applied.values())))
    return (
        f"dropout of the base's config ({stated}): {some} in {len(applied)} modules on hidden states; dropout of "
        "attention probabilities is not applied"
    )
