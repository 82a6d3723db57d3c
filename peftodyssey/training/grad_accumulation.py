"""The gradient of one step's batch, micro-batch by micro-batch. For `train.loop` and `train.multi_lora`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from peftodyssey.corpora.packing import IGNORE_INDEX
from peftodyssey.models import varlen_attention
from peftodyssey.models.packing import packed_inputs, to_device
from peftodyssey.training import replay, sampler
from peftodyssey.training.cuda_graphs import MAX_HIDDEN_ELEMENTS, CudaGraphCache
from peftodyssey.training.dropout import SeededDropout
from peftodyssey.training.loss import token_nll_sums
from peftodyssey.training.settings import TrainSettings

if TYPE_CHECKING:
    from peftodyssey.corpora.packing import PackedSequences

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
Parts = tuple[Callable[..., Any], nn.Linear] | None


@dataclass(frozen=True)
class Batch:
    """The blocks of one step of one training."""

    blocks: PackedSequences
    chosen: np.ndarray  # int64, their numbers
    tokens: int  # trained ones among them
    seed: int
    first: int  # the place of the first of them in the whole training


def batch(blocks: PackedSequences, settings: TrainSettings, step: int) -> Batch:
    """The batch of step `step`, counted from 0."""
    chosen = replay.batch_indices(blocks, settings, step)
    first = step * settings.batch_size + replay.replayed_before(settings, step)
    return Batch(blocks, chosen, sampler.trained_tokens(blocks, chosen), settings.seed, first)


def accumulate(
    model: nn.Module,
    parts: Parts,
    members: Sequence[Batch],
    draws: SeededDropout,
    scaler: torch.amp.GradScaler,
    settings: TrainSettings,
    device: torch.device,
    autocast: bool,
    graphs: CudaGraphCache | None,
    micro_batch_size: int,
    check: Callable[[], None],
) -> Tensor:
    """Adds the gradients of the batches' mean losses; returns these losses, nats a token, one for each member.

    One training has one member; those of a fleet have equally many blocks, and pass through the model side by side, by
    `graphs` where there are some. `check()` is called after each micro-batch; where it raises, or memory runs out, what
    was added so far stays.
    """
    losses = torch.zeros(len(members), dtype=torch.float64, device=device)
    weights = 1.0 / torch.tensor([max(of.tokens, 1) for of in members], dtype=torch.float64, device=device)
    for begin in range(0, len(members[0].chosen), micro_batch_size):
        pieces = [of.chosen[begin : begin + micro_batch_size] for of in members]
        draws.at(
            [of.seed for of in members],
            [range(of.first + begin, of.first + begin + micro_batch_size) for of in members],
        )
        by_ends = varlen_attention.supports_varlen(model, device, members[0].blocks.labels.shape[1])
        if graphs is not None and not autocast and _uniform(model, members, pieces, by_ends):
            inputs = _uniform_inputs(members, pieces, device, by_ends)
            losses += graphs.run([weights, *inputs], begin == 0, _pass(model, parts, settings))
        else:
            with torch.autocast(device.type, HALVES.get(settings.precision), enabled=autocast):
                nll = torch.stack(_nlls(model, parts, members, pieces, device, settings.loss_chunk_bytes))
            scaler.scale((nll * weights.to(nll.dtype)).sum()).backward()
            losses += nll.detach()
        check()
    return losses * weights


def _pass(model: nn.Module, parts: Parts, settings: TrainSettings) -> Callable[..., Tensor]:
    """A micro-batch as a function of device tensors alone, which asks nothing of the host: it can be captured."""

    def forward_and_backward(
        weights: Tensor, ids_bt: Tensor, positions_bt: Tensor, labels_kbt: Tensor, *ends: Tensor
    ) -> Tensor:
        inputs = {
            "input_ids": ids_bt,
            "position_ids": positions_bt,
            "use_cache": False,
            "attention_mask": ends[0] if ends else None,
        }
        nll = torch.stack(
            token_nll_sums(model, parts, inputs, list(labels_kbt), [None] * len(labels_kbt), settings.loss_chunk_bytes)
        )
        (nll * weights.to(nll.dtype)).sum().backward()
        return nll.detach()

    return forward_and_backward


def _uniform(model: Any, members: Sequence[Batch], pieces: Sequence[np.ndarray], by_ends: bool) -> bool:
    """Whether a pass is short, every position has a label, and ends or positions tell the documents of a block apart:
    no pass differs in form.
    """
    tokens = sum(piece.size for piece in pieces) * members[0].blocks.labels.shape[1]
    if tokens * model.config.get_text_config().hidden_size > MAX_HIDDEN_ELEMENTS:
        return False
    return all(
        bool((of.blocks.labels[piece] != IGNORE_INDEX).all())
        and (
            by_ends
            or bool(
                ((np.diff(of.blocks.position_ids[piece]) != 1) == (np.diff(of.blocks.segment_ids[piece]) != 0)).all()
            )
        )
        for of, piece in zip(members, pieces, strict=True)
    )


def _uniform_inputs(
    members: Sequence[Batch], pieces: Sequence[np.ndarray], device: torch.device, by_ends: bool
) -> list[Tensor]:
    """Token ids and positions (k * b, t), labels (k, b, t) and, where documents are told apart by them, their ends."""

    def stacked(field: str) -> np.ndarray:
        return np.stack([getattr(of.blocks, field)[piece] for of, piece in zip(members, pieces, strict=True)])

    ids, positions, labels = (to_device(stacked(field), device) for field in ("input_ids", "position_ids", "labels"))
    segments = stacked("segment_ids")
    ends = (
        [
            torch.from_numpy(varlen_attention.cu_seqlens(segments.reshape(-1, segments.shape[-1]))).to(
                device, non_blocking=True
            )
        ]
        if by_ends
        else []
    )
    return [ids.flatten(0, 1), positions.flatten(0, 1), labels, *ends]


def _nlls(
    model: nn.Module,
    parts: Parts,
    members: Sequence[Batch],
    pieces: Sequence[np.ndarray],
    device: torch.device,
    chunk_bytes: int | None,
) -> list[Tensor]:
    def joined(field: str) -> np.ndarray:
        return np.concatenate([getattr(of.blocks, field)[piece] for of, piece in zip(members, pieces, strict=True)])

    labels = [of.blocks.labels[piece] for of, piece in zip(members, pieces, strict=True)]
    kept = [np.flatnonzero(own != IGNORE_INDEX) for own in labels]
    inputs = packed_inputs(model, joined("input_ids"), joined("position_ids"), joined("segment_ids"), device)
    kept_rows = [
        None if rows.size == own.size else to_device(rows, device) for rows, own in zip(kept, labels, strict=True)
    ]
    return token_nll_sums(model, parts, inputs, [to_device(own, device) for own in labels], kept_rows, chunk_bytes)
