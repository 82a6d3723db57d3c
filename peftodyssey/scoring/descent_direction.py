"""The direction in which a text's loss falls fastest, for the search of the critical step. Called by `jobs.perturb`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from peftodyssey.constants import SCORE_BATCH_TOKENS
from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.scoring.batches import batch, rows_of_windows, take
from peftodyssey.scoring.windows import corpus_windows

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index


def negative_gradient(
    model: nn.Module,
    tensors: Mapping[str, nn.Parameter],
    index: Index,
    settings: ScoreSpec,
    *,
    prefix: int | None,
    device: str | torch.device,
    batch_tokens: int | None = None,
) -> dict[str, torch.Tensor]:
    """Minus the gradient of the text's mean NLL with regard to `tensors`, float32, by name; the same tokens as a
    column's.

    The logits of a batch are whole here: a batch is a quarter of a scoring pass.
    """
    device = torch.device(device)
    table = corpus_windows(index.token, index.starts, settings, prefix)
    rows, total = rows_of_windows(table, "padded"), int(table.scored.sum())
    places = max((batch_tokens or SCORE_BATCH_TOKENS[device.type]) // 4, settings.context)
    found = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in tensors.items()}
    asked = {name: weight.requires_grad for name, weight in tensors.items()}
    try:
        for weight in tensors.values():
            weight.requires_grad_(True)
        while rows:
            count = take(table, rows, places)
            part, rows = batch(table, rows[:count]), rows[count:]
            ids, place, target = (torch.from_numpy(a).to(device) for a in (part.input_ids_bt, part.place, part.target))
            logits = model(input_ids=ids, use_cache=False).logits.flatten(0, 1)[place].float()
            nll = cross_entropy(logits, target, reduction="sum") / total
            for name, gradient in zip(tensors, torch.autograd.grad(nll, list(tensors.values())), strict=True):
                found[name] -= gradient.float()
    finally:
        for name, weight in tensors.items():
            weight.requires_grad_(asked[name])
    return found
