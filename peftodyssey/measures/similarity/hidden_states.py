"""Mean hidden states of fixed-length chunks of text under one base."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peftodyssey.errors import DoesNotFit, TrainingError
from peftodyssey.models import host_memory
from peftodyssey.scoring.nll import Progress, scoring_context
from peftodyssey.scoring.settings import ScoreSettings

if TYPE_CHECKING:
    from torch import nn


def mean_states(
    model: nn.Module,
    token_ct: np.ndarray,
    settings: ScoreSettings,
    *,
    layer: int,
    prefix: int | None,
    on_progress: Progress | None = None,
) -> np.ndarray:
    """Hidden states of a layer, averaged over the tokens of each chunk: float32 [chunks, width].

    `layer` counts as in `transformers`: 0 the embeddings, k the output of the k-th decoder layer, -1 the last after the
    final norm. `prefix` is read before every chunk and left out of the mean; without a prefix the chunk's first token
    is left out instead, because the first token often has a state hundreds of times as long as the others.
    `on_progress(chunks done, in all)` is called after every batch; batches are halved where memory runs out. Raises
    DoesNotFit where not even one chunk fits, TrainingError where states are not finite.
    """
    ids_ct = token_ct if prefix is None else np.insert(token_ct, 0, prefix, axis=1)
    rows = max(1, settings.tokens_per_batch // ids_ct.shape[1])
    means: list[np.ndarray] = []
    done = 0
    with scoring_context(model, settings):
        while done < len(ids_ct):
            ids_bt = torch.from_numpy(ids_ct[done : done + rows].astype(np.int64)).to(settings.device)
            try:
                means.append(_states(model, ids_bt, layer)[:, 1:].float().mean(1).cpu().numpy())
            except Exception as error:
                if not host_memory.is_out_of_memory(error):
                    raise
                if rows == 1:
                    raise DoesNotFit(
                        f"one chunk of {ids_ct.shape[1]} tokens does not fit {settings.device}",
                        "lower similarity.chunk_tokens",
                    ) from error
                rows = max(1, rows // 2)
                continue
            done += len(ids_bt)
            if on_progress:
                on_progress(done, len(ids_ct))
    states = np.concatenate(means)
    if not np.isfinite(states).all():
        raise TrainingError(
            f"layer {layer} of the model gives hidden states that are not finite", "use bf16 or fp32 instead of fp16"
        )
    return states


def _states(model: Any, ids_bt: torch.Tensor, layer: int) -> torch.Tensor:
    if layer == -1:
        return model.base_model(input_ids=ids_bt, use_cache=False).last_hidden_state
    return model.base_model(input_ids=ids_bt, use_cache=False, output_hidden_states=True).hidden_states[layer]
