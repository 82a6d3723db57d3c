"""Mean hidden states of fixed-length chunks of text under one base. Called by `jobs.states`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from peftodyssey.constants import SCORE_BATCH_TOKENS
from peftodyssey.errors import DoesNotFit, TrainingError
from peftodyssey.models import host_memory
from peftodyssey.scoring.nll import scoring_context

if TYPE_CHECKING:
    from torch import nn


def mean_states(
    model: nn.Module,
    token_ct: np.ndarray,
    *,
    layer: int,
    prefix: int | None,
    device: str | torch.device,
    precision: str = "fp32",
    on_progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Hidden state of a layer, meant over the tokens of each chunk: float32 [chunks, width].

    `layer` counts as `transformers` does: 0 the embeddings, k what the k-th decoder layer gives, -1 the last after the
    final norm. `prefix` is read before every chunk and not meant over; without one the chunk's first token is left out
    in its place, because what a model sees first often gets a state of its own, hundreds of times as long as others.
    `on_progress(chunks done, in all)` after every batch; batches are halved where memory runs out. Raises DoesNotFit
    where not even one chunk fits, TrainingError where states are not finite.
    """
    device = torch.device(device)
    ids_ct = token_ct if prefix is None else np.insert(token_ct, 0, prefix, axis=1)
    rows = max(1, SCORE_BATCH_TOKENS.get(device.type, SCORE_BATCH_TOKENS["cpu"]) // ids_ct.shape[1])
    made: list[np.ndarray] = []
    done = 0
    with scoring_context(model, device, precision):
        while done < len(ids_ct):
            ids_bt = torch.from_numpy(ids_ct[done : done + rows].astype(np.int64)).to(device)
            try:
                made.append(_states(model, ids_bt, layer)[:, 1:].float().mean(1).cpu().numpy())
            except Exception as error:
                if not host_memory.is_out_of_memory(error):
                    raise
                if rows == 1:
                    raise DoesNotFit(
                        f"one chunk of {ids_ct.shape[1]} tokens does not fit {device}", "lower similarity.chunk_tokens"
                    ) from error
                rows = max(1, rows // 2)
                continue
            done += len(ids_bt)
            if on_progress:
                on_progress(done, len(ids_ct))
    found = np.concatenate(made)
    if not np.isfinite(found).all():
        raise TrainingError(
            f"layer {layer} of the model gives hidden states that are not finite", "use bf16 or fp32 in place of fp16"
        )
    return found


def _states(model: Any, ids_bt: torch.Tensor, layer: int) -> torch.Tensor:
    if layer == -1:
        return model.base_model(input_ids=ids_bt, use_cache=False).last_hidden_state
    return model.base_model(input_ids=ids_bt, use_cache=False, output_hidden_states=True).hidden_states[layer]
