"""Rows of several documents for models that cannot tell them apart: each document becomes a row of its own.

A mask keeps attention within a document. It does not reach the state of a state-space, recurrent or linear-attention
layer, nor a convolution over time, and some families (BLOOM, RWKV) take no such mask. Their backbone is given documents
of similar length together, each padded on the right, which a causal model does not look at; what it returns is put back
where the documents were.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peftodyssey.errors import MethodError
from peftodyssey.models.scoring_mode import scoring_mode
from peftodyssey.models.shape_from_config import FAMILIES

LENGTH_BUCKET = 32  # tokens: documents pass together if their lengths round up to the same multiple
MIXERS = re.compile(r"mamba|ssm|conv1d|shortconv|delta|rwkv|recurrent|retention|linearattention|lightning")
PROBE_TOKENS = (5, 7)  # two documents in one row
MAX_RELATIVE_ERROR = {torch.float32: 1e-4, torch.float64: 1e-8}  # others: a few roundings in 16 bits
_CACHE, _CHECKED = "_odyssey_separate_documents", "_odyssey_separate_documents_checked"


def takes_separate_documents(model: nn.Module, masked_inputs: Callable[..., dict[str, Any]]) -> bool:
    """Whether the documents of a row have to pass as rows of their own; the first call finds out and installs that.

    They need not where no layer mixes tokens but by attention, and where two documents under `masked_inputs(input_ids,
    position_ids, segments)` give what each gives alone. Raises MethodError where dropout is on and they have to.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    if vars(base).get(_CACHE) is None:
        config = base.config.get_text_config()
        separate = config.model_type not in FAMILIES and (has_mixer(base) or not _mask_works(base, masked_inputs))
        if separate:
            for part in {id(part): part for part in (base, base.base_model)}.values():
                vars(part)["forward"] = functools.update_wrapper(
                    functools.partial(_forward, part.forward), part.forward
                )
        vars(base)[_CACHE] = separate
    if vars(base)[_CACHE] and model.training and _CHECKED not in vars(model):
        _check_dropout(model, base.config.get_text_config().model_type)
        vars(model)[_CHECKED] = True
    return bool(vars(base)[_CACHE])


def _check_dropout(model: nn.Module, family: str) -> None:
    """Raises MethodError for dropout, whose masks belong to the rows of a batch as it was drawn."""
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        raise MethodError(
            f"dropout cannot be trained with on a {family} model: its documents pass in rows of their own, and "
            "masks of dropout belong to rows of a batch",
            "leave dropout out",
        )


def has_mixer(model: nn.Module) -> bool:
    """Whether a layer has a state, or a convolution over time."""
    kinds = {type(module).__name__ for module in model.modules()} - {"Conv1D"}  # that is GPT-2's linear map
    return any(MIXERS.search(kind.lower()) for kind in kinds)


def _mask_works(model: nn.Module, masked_inputs: Callable[..., dict[str, Any]]) -> bool:
    lengths, device = PROBE_TOKENS, next(model.parameters()).device
    config: Any = model.config
    ids_t = torch.arange(7, 7 + sum(lengths)) % config.get_text_config().vocab_size
    positions_t = torch.cat([torch.arange(n) for n in lengths])
    segments_t = torch.cat([torch.full((n,), number) for number, n in enumerate(lengths)])
    with scoring_mode(model):
        alone = [model(input_ids=part[None].to(device), use_cache=False).logits[0] for part in ids_t.split(lengths)]
        try:
            together = model(**masked_inputs(ids_t[None], positions_t[None], segments_t[None])).logits[0]
        except Exception:  # a family that does not take such a mask: it says so in its own ways
            return False
    expected = torch.cat(alone).double()
    limit = MAX_RELATIVE_ERROR.get(together.dtype, 4e-2)
    return bool((together.double() - expected).abs().max() <= limit * expected.abs().max())


def _forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`original` on the documents that an int32 attention mask (cu_seqlens) names, each for itself."""
    mask = kwargs.get("attention_mask")
    if mask is None or mask.dtype != torch.int32 or mask.dim() != 4:
        return original(*args, **kwargs)
    from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

    ids_bt = kwargs["input_ids"]
    parts, places = [], []
    for index_nl, is_token_nl in _buckets(mask.flatten().unique().tolist(), ids_bt.device):
        output = original(input_ids=ids_bt.flatten()[index_nl], use_cache=False)
        is_logits = "logits" in output
        hidden: Tensor = output["logits" if is_logits else "last_hidden_state"]
        parts.append(hidden[is_token_nl])
        places.append(index_nl[is_token_nl])
    order = torch.cat(places).argsort()
    rows = torch.cat(parts)[order].view(*ids_bt.shape, -1)
    return CausalLMOutput(logits=rows) if is_logits else BaseModelOutput(last_hidden_state=rows)


def _buckets(ends: list[int], device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """For documents between `ends`, by length: (places of their tokens [n, l], which of them are no padding [n, l])."""
    groups: dict[int, list[tuple[int, int]]] = {}
    for start, end in itertools.pairwise(ends):
        groups.setdefault(-(-(end - start) // LENGTH_BUCKET), []).append((start, end - start))
    found = []
    for members in groups.values():
        starts, lengths = torch.tensor(members, device=device).T
        steps = torch.arange(int(lengths.max()), device=device)
        is_token = steps < lengths[:, None]
        found.append((starts[:, None] + steps.clamp_max(lengths[:, None] - 1), is_token))
    return found
