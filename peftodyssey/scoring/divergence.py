"""How far training moved a model's predictions on a text: KL from base to tuned model, and changed first guesses.

Only one model is in memory. Its states before the head are kept for some thousand tokens as the base computes them,
then the same tokens go through the tuned model, and both heads are applied to the same few positions at a time.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from peftodyssey.constants import HELD_STATES_BYTES, SCORE_CHUNK_BYTES, SCORE_MIN_CHUNK_ROWS
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.models.packed_inputs import to_device
from peftodyssey.scoring.batches import Batch, batch, num_rows_that_fit, rows_of_windows
from peftodyssey.scoring.drift import compare_logits
from peftodyssey.scoring.nll import scoring_context
from peftodyssey.scoring.windows import corpus_windows

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index
    from peftodyssey.recipe.cell import ScoreSpec
    from peftodyssey.scoring.settings import ScoreSettings

Progress = Callable[[int, int], None]
Head = Callable[[torch.Tensor], torch.Tensor]


class Divergence(NamedTuple):
    """Row for row with the index; NaN where a token is not scored."""

    kl_nats: np.ndarray  # float32: KL(base || tuned) of the predictions for the token
    changed: np.ndarray  # float32: 1 where the two models' first guesses differ, else 0


def divergence(
    model: nn.Module,
    as_base: Callable[[], AbstractContextManager[None]],
    index: Index,
    spec: ScoreSpec,
    settings: ScoreSettings,
    *,
    prefix: int | None,
    on_progress: Progress | None = None,
) -> Divergence:
    """KL and changed first guesses of each token of `index`; under `as_base()` `model` computes what the base does.

    The windows are those of `score_adapters`; tokens of prompts are not scored.
    """
    table = corpus_windows(index.token, index.starts, spec, prefix)
    columns = np.full((2, len(index.token)), np.nan, np.float32)
    rows, total, done = rows_of_windows(table, "padded"), int(table.scored.sum()), 0
    parts = split_lm_head(model)
    config: Any = model.config
    width = parts[1].in_features if parts else config.get_text_config().vocab_size
    while rows:
        held: list[Batch] = []
        while rows and 4 * width * sum(len(one.position) for one in held) < HELD_STATES_BYTES:
            count = num_rows_that_fit(table, rows, settings.tokens_per_batch)
            held.append(batch(table, rows[:count]))
            rows = rows[count:]
        for current, values in zip(held, _of_batches(model, as_base, held, settings), strict=True):
            columns[:, current.index_row] = values
            done += len(current.index_row)
            if on_progress:
                on_progress(done, total)
    columns[:, ~index.trained] = np.nan
    return Divergence(*columns)


def _of_batches(
    model: nn.Module,
    as_base: Callable[[], AbstractContextManager[None]],
    batches: Sequence[Batch],
    settings: ScoreSettings,
) -> list[np.ndarray]:
    """KL and changed first guesses of what each batch scores: float32 [2, n]."""
    device = torch.device(settings.device)
    with as_base(), scoring_context(model, settings):
        before = [_states(model, current, device).cpu() for current in batches]
        head = _head(model)
        base_head = copy.deepcopy(head) if isinstance(head, nn.Module) else head  # a trained head differs
    with scoring_context(model, settings):
        return [
            _compare(before_nd.to(device), _states(model, current, device), base_head, _head(model), current)
            for before_nd, current in zip(before, batches, strict=True)
        ]


def _states(model: nn.Module, current: Batch, device: torch.device) -> torch.Tensor:
    """What the head is applied to at the scored positions; logits where the head cannot be split off."""
    inputs = {"input_ids": to_device(current.input_ids_bt, device), "use_cache": False}
    parts, position = split_lm_head(model), to_device(current.position, device)
    states = model(**inputs).logits if parts is None else parts[0](**inputs)[0]
    return states.flatten(0, 1)[position]


def _head(model: nn.Module) -> Head:
    parts = split_lm_head(model)
    return (lambda logits: logits) if parts is None else parts[1]


def _compare(
    before_nd: torch.Tensor, after_nd: torch.Tensor, base_head: Head, head: Head, current: Batch
) -> np.ndarray:
    target_n = to_device(current.target, before_nd.device)
    vocabulary = head(after_nd[:1]).shape[-1]
    step = max(SCORE_CHUNK_BYTES.get(before_nd.device.type, 4 << 20) // (4 * vocabulary), SCORE_MIN_CHUNK_ROWS)
    chunks = []
    for left, right, target in zip(before_nd.split(step), after_nd.split(step), target_n.split(step), strict=True):
        p_nv, q_nv = base_head(left), head(right)
        kl = compare_logits(p_nv, q_nv, target)[2]
        chunks.append(torch.stack([kl, (p_nv.argmax(-1) != q_nv.argmax(-1)).float()]))
    return torch.cat(chunks, 1).cpu().numpy()
