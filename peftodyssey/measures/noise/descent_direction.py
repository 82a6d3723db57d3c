"""The direction in which a text's loss falls fastest, along which the critical step is searched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.scoring.batches import batch, num_rows_that_fit, rows_of_windows
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.scoring.windows import corpus_windows

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index


def negative_gradient(
    model: nn.Module,
    tensors: Mapping[str, nn.Parameter],
    index: Index,
    spec: ScoreSpec,
    settings: ScoreSettings,
    *,
    prefix: int | None,
) -> dict[str, torch.Tensor]:
    """Minus the gradient of the text's mean NLL with regard to `tensors`, float32, by name, over the tokens that
    `score_index` scores.

    All logits of a batch exist at once here, so a batch has a quarter of the tokens of a scoring pass.
    """
    device = torch.device(settings.device)
    table = corpus_windows(index.token, index.starts, spec, prefix)
    rows, total = rows_of_windows(table, "padded"), int(table.scored.sum())
    batch_tokens = max(settings.tokens_per_batch // 4, spec.context)
    direction = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in tensors.items()}
    required_grad = {name: weight.requires_grad for name, weight in tensors.items()}
    try:
        for weight in tensors.values():
            weight.requires_grad_(True)
        while rows:
            count = num_rows_that_fit(table, rows, batch_tokens)
            current, rows = batch(table, rows[:count]), rows[count:]
            input_ids, position, target = (
                torch.from_numpy(array).to(device) for array in (current.input_ids_bt, current.position, current.target)
            )
            logits = model(input_ids=input_ids, use_cache=False).logits.flatten(0, 1)[position].float()
            nll = cross_entropy(logits, target, reduction="sum") / total
            for name, gradient in zip(tensors, torch.autograd.grad(nll, list(tensors.values())), strict=True):
                direction[name] -= gradient.float()
    finally:
        for name, weight in tensors.items():
            weight.requires_grad_(required_grad[name])
    return direction
