"""The gradient of one step's batch, accumulated over micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from peftodyssey.corpora.packing import IGNORE_INDEX
from peftodyssey.models import varlen_attention
from peftodyssey.models.packed_inputs import packed_inputs, to_device
from peftodyssey.training import replay, sampler
from peftodyssey.training.cuda_graphs import MAX_HIDDEN_ELEMENTS, CudaGraphCache
from peftodyssey.training.dropout import SeededDropout
from peftodyssey.training.loss import BackboneAndHead, token_nll_sums
from peftodyssey.training.settings import TrainSettings

if TYPE_CHECKING:
    from peftodyssey.corpora.packing import PackedSequences

AUTOCAST_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Batch:
    """The sequences of one step of one training."""

    sequences: PackedSequences
    indices: np.ndarray  # int64, their numbers
    tokens: int  # trained ones among them
    seed: int
    first: int  # how many sequences the steps before have had

    def arrays(self, name: str, micro_batch: slice) -> np.ndarray:
        """One array of `PackedSequences` for a part of the batch, [b, t]."""
        array: np.ndarray = getattr(self.sequences, name)
        return array[self.indices[micro_batch]]


def batch(sequences: PackedSequences, settings: TrainSettings, step: int) -> Batch:
    """The batch of step `step`, counted from 0."""
    indices = replay.batch_indices(sequences, settings, step)
    first = step * settings.batch_size + replay.replayed_before(settings, step)
    return Batch(sequences, indices, sampler.trained_tokens(sequences, indices), settings.seed, first)


@dataclass(frozen=True)
class GradAccumulator:
    """Forward and backward passes of one model, micro-batch by micro-batch.

    Shapes: k members (adapters that train together; otherwise 1), b sequences of each in a micro-batch, t tokens of a
    sequence.
    """

    model: nn.Module
    backbone_and_head: BackboneAndHead
    settings: TrainSettings
    device: torch.device
    autocast: bool  # whether products need autocast to the precision of `settings`
    dropout: SeededDropout
    scaler: torch.amp.GradScaler
    graphs: CudaGraphCache | None

    def accumulate(self, batches: Sequence[Batch], micro_batch_size: int, check: Callable[[], None]) -> Tensor:
        """Adds the gradients of the batches' mean losses; returns these losses (k,), nats per token.

        The members' batches have equally many sequences and pass through the model side by side. `check()` is called
        after each micro-batch; where it raises, or memory runs out, the gradients added so far stay.
        """
        losses = torch.zeros(len(batches), dtype=torch.float64, device=self.device)
        token_counts = [max(batch.tokens, 1) for batch in batches]
        weights = 1.0 / torch.tensor(token_counts, dtype=torch.float64, device=self.device)
        use_cu_seqlens = varlen_attention.supports_varlen(self.model, self.device, batches[0].sequences.labels.shape[1])
        for begin in range(0, len(batches[0].indices), micro_batch_size):
            part = slice(begin, min(begin + micro_batch_size, len(batches[0].indices)))
            rows = [range(batch.first + part.start, batch.first + part.stop) for batch in batches]
            self.dropout.set_rows([batch.seed for batch in batches], rows)
            if self.graphs is not None and not self.autocast and self._can_capture(batches, part, use_cu_seqlens):
                inputs = self._static_inputs(batches, part, use_cu_seqlens)
                losses += self.graphs.run([weights, *inputs], begin == 0, self._forward_backward)
            else:
                dtype = AUTOCAST_DTYPES.get(self.settings.precision)
                with torch.autocast(self.device.type, dtype, enabled=self.autocast):
                    nll = self._nll_sums(batches, part)
                self.scaler.scale((nll * weights.to(nll.dtype)).sum()).backward()
                losses += nll.detach()
            check()
        return losses * weights

    def _nll_sums(self, batches: Sequence[Batch], part: slice) -> Tensor:
        """Each member's summed negative log-likelihood (k,) in nats, with gradient."""

        def joined(name: str) -> np.ndarray:
            return np.concatenate([batch.arrays(name, part) for batch in batches])

        labels = [batch.arrays("labels", part) for batch in batches]
        trained = [np.flatnonzero(labels_bt != IGNORE_INDEX) for labels_bt in labels]
        ids, position_ids, segment_ids = joined("input_ids"), joined("position_ids"), joined("segment_ids")
        inputs = packed_inputs(self.model, ids, position_ids, segment_ids, self.device)
        trained_rows = [
            None if rows.size == labels_bt.size else to_device(rows, self.device)
            for rows, labels_bt in zip(trained, labels, strict=True)
        ]
        on_gpu = [to_device(labels_bt, self.device) for labels_bt in labels]
        chunk_bytes = self.settings.loss_chunk_bytes
        return torch.stack(
            token_nll_sums(self.model, self.backbone_and_head, inputs, on_gpu, trained_rows, chunk_bytes)
        )

    def _forward_backward(
        self, weights: Tensor, ids: Tensor, position_ids: Tensor, labels_kbt: Tensor, *cu_seqlens: Tensor
    ) -> Tensor:
        """A micro-batch as a function of device tensors that never waits for the host, so that it can be captured."""
        attention_mask = cu_seqlens[0] if cu_seqlens else None
        inputs = {
            "input_ids": ids,
            "position_ids": position_ids,
            "use_cache": False,
            "attention_mask": attention_mask,
        }
        every_row = [None] * len(labels_kbt)
        chunk_bytes = self.settings.loss_chunk_bytes
        nll = torch.stack(
            token_nll_sums(self.model, self.backbone_and_head, inputs, list(labels_kbt), every_row, chunk_bytes)
        )
        (nll * weights.to(nll.dtype)).sum().backward()
        return nll.detach()

    def _can_capture(self, batches: Sequence[Batch], part: slice, use_cu_seqlens: bool) -> bool:
        """Whether the pass is short and has the same form as every other such pass.

        That is: every position has a label, and cu_seqlens or positions alone tell the documents of a sequence apart.
        """
        tokens = sum(batch.indices[part].size for batch in batches) * batches[0].sequences.labels.shape[1]
        config: Any = self.model.config
        if tokens * config.get_text_config().hidden_size > MAX_HIDDEN_ELEMENTS:
            return False
        for batch in batches:
            if (batch.arrays("labels", part) == IGNORE_INDEX).any():
                return False
            by_positions = np.diff(batch.arrays("position_ids", part)) != 1
            by_segments = np.diff(batch.arrays("segment_ids", part)) != 0
            if not use_cu_seqlens and (by_positions != by_segments).any():
                return False
        return True

    def _static_inputs(self, batches: Sequence[Batch], part: slice, use_cu_seqlens: bool) -> list[Tensor]:
        """Token ids and positions (k * b, t), labels (k, b, t) and, if they tell documents apart, cu_seqlens."""

        def stacked(name: str) -> np.ndarray:
            return np.stack([batch.arrays(name, part) for batch in batches])

        ids_kbt, positions_kbt, labels_kbt = (
            to_device(stacked(name), self.device) for name in ("input_ids", "position_ids", "labels")
        )
        inputs = [ids_kbt.flatten(0, 1), positions_kbt.flatten(0, 1), labels_kbt]
        if use_cu_seqlens:
            segments = stacked("segment_ids")
            cu_seqlens = torch.from_numpy(varlen_attention.cu_seqlens(segments.reshape(-1, segments.shape[-1])))
            inputs.append(cu_seqlens.to(self.device, non_blocking=True))
        return inputs
