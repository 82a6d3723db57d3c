"""Splitting a causal model into backbone and LM head, so that a loss needs no full tensor of logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from peftodyssey.models.scoring_mode import scoring_mode

_CACHE = "_odyssey_lm_head_check"


def split_lm_head(model: nn.Module) -> tuple[Callable[..., Any], nn.Linear] | None:
    """(backbone, head) with `head(backbone(**inputs).last_hidden_state) == model(**inputs).logits`, else None.

    None where logits are capped or scaled, the head is adapted, or a prompt is prepended. In PEFT models the adapters
    are part of the backbone. The equality is checked once on a small batch, and the result is cached on the model.
    """
    wrapped: Any = model
    base = wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped
    head, backbone = base.get_output_embeddings(), base.base_model
    if not isinstance(head, nn.Linear) or backbone is base:
        return None
    cached = vars(model).get(_CACHE)
    if cached is None or cached[0] != id(head):
        cached = vars(model)[_CACHE] = (id(head), _gives_logits(model, base, backbone, head))
    return (backbone, head) if cached[1] else None


def _gives_logits(model: nn.Module, base: Any, backbone: nn.Module, head: nn.Linear) -> bool:
    if getattr(base.config.get_text_config(), "final_logit_softcapping", None) is not None:
        return False
    ids_bt = torch.arange(16, device=head.weight.device).reshape(2, 8) % head.out_features
    with scoring_mode(model):
        expected = model(input_ids=ids_bt, use_cache=False).logits
        logits = head(backbone(input_ids=ids_bt, use_cache=False).last_hidden_state)
    return expected.shape == logits.shape and bool((expected - logits).abs().max() <= 1e-6 * expected.abs().max())
