"""How far one model's predictions are from another's on the same text: losses of both, and KL, token by token.

The logits of a text never exist at once: both heads are applied to the same few positions, and their distributions
compared.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from peftodyssey.constants import SCORE_CHUNK_BYTES, SCORE_MIN_CHUNK_ROWS
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.models.packed_inputs import to_device
from peftodyssey.scoring.batches import Batch, batch, num_rows_that_fit, rows_of_windows
from peftodyssey.scoring.nll import scoring_context
from peftodyssey.scoring.windows import corpus_windows

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index
    from peftodyssey.recipe.cell import ScoreSpec
    from peftodyssey.scoring.settings import ScoreSettings

Head = Callable[[torch.Tensor], torch.Tensor]


class Drift(NamedTuple):
    """Two models on one text, float32 [rows of the index] in nats; NaN where a token is not scored."""

    before_nll_nats: np.ndarray
    after_nll_nats: np.ndarray
    kl_nats: np.ndarray  # KL(before || after) of the predictions for the token


def drift(
    before: nn.Module, after: nn.Module, index: Index, spec: ScoreSpec, settings: ScoreSettings, prefix: int | None
) -> Drift:
    """Losses of each token of `index` under both models and the KL divergence of `after` from `before`.

    The windows are those of `score_adapters`; tokens of prompts are not scored.
    """
    table, device = corpus_windows(index.token, index.starts, spec, prefix), torch.device(settings.device)
    columns = np.full((3, len(index.token)), np.nan, np.float32)
    rows = rows_of_windows(table, "padded")
    with scoring_context(before, settings), scoring_context(after, settings):
        while rows:
            count = num_rows_that_fit(table, rows, settings.tokens_per_batch)
            current, rows = batch(table, rows[:count]), rows[count:]
            columns[:, current.index_row] = _batch_drift(before, after, current, device)
    columns[:, ~index.trained] = np.nan
    return Drift(*columns)


def _batch_drift(before: nn.Module, after: nn.Module, current: Batch, device: torch.device) -> np.ndarray:
    """Both losses and the KL divergence of what a batch scores: float32 [3, n]."""
    (before_nd, head), (after_nd, other_head) = (_states_and_head(model, current, device) for model in (before, after))
    target_n = to_device(current.target, device)
    vocabulary = head(before_nd[:1]).shape[-1]
    step = max(SCORE_CHUNK_BYTES.get(device.type, 4 << 20) // (4 * vocabulary), SCORE_MIN_CHUNK_ROWS)
    chunks = [
        compare_logits(head(left), other_head(right), target)
        for left, right, target in zip(before_nd.split(step), after_nd.split(step), target_n.split(step), strict=True)
    ]
    return torch.cat(chunks, 1).cpu().numpy()


def _states_and_head(model: nn.Module, current: Batch, device: torch.device) -> tuple[torch.Tensor, Head]:
    """What the head is applied to at the scored positions, and the head; logits and no head where it cannot be split
    off.
    """
    inputs: dict[str, Any] = {"input_ids": to_device(current.input_ids_bt, device), "use_cache": False}
    parts, position = split_lm_head(model), to_device(current.position, device)
    if parts is None:
        return model(**inputs).logits.flatten(0, 1)[position], lambda logits: logits
    return parts[0](**inputs)[0].flatten(0, 1)[position], parts[1]


def compare_logits(before_nv: torch.Tensor, after_nv: torch.Tensor, target_n: torch.Tensor) -> torch.Tensor:
    """NLL of the targets under both, and KL(before || after), in nats: float32 [3, n]."""
    log_p_nv, log_q_nv = before_nv.float().log_softmax(-1), after_nv.float().log_softmax(-1)
    losses = [-log_nv.gather(1, target_n[:, None])[:, 0] for log_nv in (log_p_nv, log_q_nv)]
    terms_nv = log_p_nv.exp() * (log_p_nv - log_q_nv)
    kl = terms_nv.where(log_p_nv > -torch.inf, 0.0).sum(-1)  # what has no probability adds nothing
    return torch.stack([*losses, kl.clamp_min(0)])
