"""A causal model taken apart into backbone and head, so that a loss can be formed without all logits at once.

Called by `train.loss` and `score.nll`. The parts are used only where they have been seen to give the model's own
logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from peftodyssey.models.scoring_mode import scoring_mode

_VERDICT = "_odyssey_split"


def split_lm_head(model: nn.Module) -> tuple[Callable[..., Any], nn.Linear] | None:
    """(backbone, head) with `head(backbone(**inputs).last_hidden_state) == model(**inputs).logits`, else None.

    None where logits are capped or scaled, the head is adapted, or a prompt is prepended. Works on PEFT models: the
    adapters sit inside the backbone. Tried once on a small batch; the answer is kept on the model.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    head = base.get_output_embeddings()
    backbone = base.base_model
    if not isinstance(head, nn.Linear) or backbone is base:
        return None
    known = model.__dict__.get(_VERDICT)
    if known is None or known[0] != id(head):
        known = model.__dict__[_VERDICT] = (id(head), _same(model, base, backbone, head))
    return (backbone, head) if known[1] else None


def _same(model: nn.Module, base: nn.Module, backbone: nn.Module, head: nn.Linear) -> bool:
    if getattr(base.config.get_text_config(), "final_logit_softcapping", None) is not None:
        return False
    ids_bt = torch.arange(16, device=head.weight.device).reshape(2, 8) % head.out_features
    with scoring_mode(model):
        expected = model(input_ids=ids_bt, use_cache=False).logits
        logits = head(backbone(input_ids=ids_bt, use_cache=False).last_hidden_state)
    return expected.shape == logits.shape and bool((expected - logits).abs().max() <= 1e-6 * expected.abs().max())
