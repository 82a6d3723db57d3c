"""The gradient of one step's batch, micro-batch by micro-batch, smaller ones where memory runs out. For
`train.loop`.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from peftodyssey.corpora.blocks import IGNORED
from peftodyssey.errors import TrainingError
from peftodyssey.models.packing import packed_inputs
from peftodyssey.train import batches, checkpoint
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
    micro_blocks: int,
    scaler: torch.amp.GradScaler,
    settings: TrainSettings,
    device: torch.device,
    autocast: bool,
) -> tuple[Tensor, int]:
    """Adds the gradient of the batch's mean loss to `.grad`; returns that loss (nats a token) and the micro-
    batch used.

    Where a GPU's memory runs out, what was added is dropped, the micro-batch halved and the batch begun again
    with the same random states. Raises TrainingError where one block does not fit.
    """
    while True:
        states = checkpoint.random_state(device)
        with contextlib.suppress(torch.OutOfMemoryError):
            loss = torch.zeros((), dtype=torch.float64, device=device)
            for piece in batches.micro_batches(chosen, micro_blocks):
                with torch.autocast(device.type, HALVES.get(settings.precision), enabled=autocast):
                    nll = _nll(model, parts, blocks, piece, device)
                scaler.scale(nll / max(tokens, 1)).backward()
                loss += nll.detach()
            return loss / max(tokens, 1), micro_blocks
        if micro_blocks == 1:
            raise TrainingError(
                "the GPU's memory does not hold the forward and backward pass of one block",
                "shorten train.seq_len, quantise the base (qlora), or see what `peftodyssey plan` suggests",
            )
        micro_blocks = (micro_blocks + 1) // 2
        model.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.empty_cache()
        checkpoint.set_random_state(states, device)


def _nll(model: nn.Module, parts: Parts, blocks: Blocks, piece: np.ndarray, device: torch.device) -> Tensor:
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
    return token_nll_sum(
        model, parts, inputs, on_device(labels), None if kept.size == labels.size else on_device(kept)
    )

