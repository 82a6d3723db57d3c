"""The gradient of one step's batch, micro-batch by micro-batch. For `train.loop`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from peftodyssey.corpora.blocks import IGNORED
from peftodyssey.models.packing import packed_inputs
from peftodyssey.train import batches
from peftodyssey.train.loss import token_nll_sum
from peftodyssey.train.settings import TrainSettings

if TYPE_CHECKING:
    from peftodyssey.corpora.blocks import Blocks

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Parts = tuple[Callable[..., Any], nn.Linear] | None


def accumulate(
    model: nn.Module,
    parts: Parts,
    blocks: Blocks,
    chosen: np.ndarray,
    tokens: int,
    scaler: torch.amp.GradScaler,
    settings: TrainSettings,
    device: torch.device,
    autocast: bool,
    micro_blocks: int,
    check: Callable[[], None],
) -> Tensor:
    """Adds the gradient of the batch's mean loss to `.grad`; returns that loss, nats a token.

    `check()` is called after each micro-batch; where it raises, or memory runs out, what was added so far stays.
    """
    loss = torch.zeros((), dtype=torch.float64, device=device)
    for piece in batches.micro_batches(chosen, micro_blocks):
        with torch.autocast(device.type, HALVES.get(settings.precision), enabled=autocast):
            nll = _nll(model, parts, blocks, piece, device, settings.loss_chunk_bytes)
        scaler.scale(nll / max(tokens, 1)).backward()
        loss += nll.detach()
        check()
    return loss / max(tokens, 1)


def _nll(
    model: nn.Module,
    parts: Parts,
    blocks: Blocks,
    piece: np.ndarray,
    device: torch.device,
    chunk_bytes: int | None,
) -> Tensor:
    def on_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64)).to(device)

    labels = blocks.labels[piece]
    kept = np.flatnonzero(labels != IGNORED)
    inputs = packed_inputs(
        model,
        on_device(blocks.input_ids[piece]),
        on_device(blocks.position_ids[piece]),
        on_device(blocks.segments[piece]),
    )
    kept_rows = None if kept.size == labels.size else on_device(kept)
    return token_nll_sum(model, parts, inputs, on_device(labels), kept_rows, chunk_bytes)
