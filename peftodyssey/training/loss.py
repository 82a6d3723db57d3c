"""Summed next-token loss of a batch without ever holding its logits: the head is applied chunk by chunk.

Each chunk of rows gives logits, their float32 log-softmax, the summed negative log-likelihood and at once the gradients
to the hidden states and (where it trains) to the head: nothing of the size (tokens, vocabulary) outlives its chunk, and
the head is not multiplied a second time in the backward pass. The idea is that of Wijmans et al., Cut Your Losses,
arXiv 2411.09009, and of Liger's fused linear cross entropy.
Shapes: b sequences, t tokens of a sequence, n = b * t, d hidden size, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftodyssey.corpora.packing import IGNORE_INDEX

LOGIT_BYTES = {"cpu": 16 << 20, "cuda": 64 << 20}  # float32 logits of one chunk, where the settings say nothing
BackboneAndHead = tuple[Callable[..., Any], nn.Linear] | None


def chunk_rows(vocabulary: int, chunk_bytes: int) -> int:
    """Rows (tokens) whose float32 logits are alive at one time."""
    return max(16, chunk_bytes // (4 * vocabulary))


def token_nll_sums(
    model: nn.Module,
    backbone_and_head: BackboneAndHead,
    inputs: dict[str, Any],
    labels: Sequence[Tensor],
    trained_rows: Sequence[Tensor | None],
    chunk_bytes: int | None = None,
) -> list[Tensor]:
    """Sums over trained positions of the negative log-likelihood in nats, float32 (or float64) scalars with gradient.

    One sum for each entry of `labels` [b, t], whose sequences follow each other in `inputs`: one training has one
    entry, several adapters that train together have one each. Labels are already shifted: position t's label is its
    target; -100 is not trained. `trained_rows` are the flat positions with a label, where the caller knows them; None:
    all. `backbone_and_head` is that of `lm_head.split_lm_head`; where it is None the model's own logits are used.
    `chunk_bytes`: bytes of float32 logits alive at a time; None: by the device.
    """
    if backbone_and_head is None:
        logits = _by_member(model(**inputs).logits, len(labels))
        wide = torch.promote_types(logits[0].dtype, torch.float32)
        return [
            nn.functional.cross_entropy(
                logits_nv.to(wide), labels_bt.reshape(-1), ignore_index=IGNORE_INDEX, reduction="sum"
            )
            for logits_nv, labels_bt in zip(logits, labels, strict=True)
        ]
    backbone, head = backbone_and_head
    sums = []
    hidden = _by_member(backbone(**inputs).last_hidden_state, len(labels))
    for hidden_nd, labels_bt, rows in zip(hidden, labels, trained_rows, strict=True):
        targets_n = labels_bt.reshape(-1)
        if rows is not None:  # positions without a label cost no product with the head
            hidden_nd, targets_n = hidden_nd.index_select(0, rows), targets_n.index_select(0, rows)
        sums.append(linear_nll_sum(hidden_nd, head.weight, head.bias, targets_n, chunk_bytes))
    return sums


def _by_member(x_btd: Tensor, members: int) -> Sequence[Tensor]:
    """The rows (n, d) of each member."""
    if members == 1:
        return [x_btd.reshape(-1, x_btd.shape[-1])]
    return x_btd.reshape(members, -1, x_btd.shape[-1]).unbind(0)


def linear_nll_sum(
    hidden_nd: Tensor,
    weight_vd: Tensor,
    bias_v: Tensor | None,
    targets_n: Tensor,
    chunk_bytes: int | None = None,
) -> Tensor:
    """Sum of cross entropies of `hidden @ weight.T + bias`, in autocast's dtype where autocast is on.

    The targets are all trained (no -100 among them). Differentiable once, by hidden, weight and bias.
    """
    default_bytes = LOGIT_BYTES.get(hidden_nd.device.type, LOGIT_BYTES["cuda"])
    rows = chunk_rows(weight_vd.shape[0], chunk_bytes or default_bytes)
    return _LinearNLL.apply(hidden_nd, weight_vd, bias_v, targets_n, rows, torch.is_grad_enabled())


class _LinearNLL(torch.autograd.Function):
    """The gradients are formed in `forward`, for an upstream gradient of 1; `backward` scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_nd: Tensor,
        weight_vd: Tensor,
        bias_v: Tensor | None,
        targets_n: Tensor,
        rows: int,
        with_grad: bool,
    ) -> Tensor:
        device_type = hidden_nd.device.type
        compute = torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else weight_vd.dtype
        wants_hidden, wants_weight, wants_bias = (with_grad and wanted for wanted in ctx.needs_input_grad[:3])
        with torch.autocast(device_type, enabled=False):
            weight = weight_vd.to(compute)
            wide = torch.promote_types(compute, torch.float32)
            grad_hidden = torch.empty_like(hidden_nd) if wants_hidden else None
            grad_weight = torch.zeros_like(weight_vd, dtype=wide) if wants_weight else None
            grad_bias = torch.zeros_like(bias_v, dtype=wide) if bias_v is not None and wants_bias else None
            total = torch.zeros((), dtype=wide, device=hidden_nd.device)
            for begin in range(0, hidden_nd.shape[0], rows):
                hidden = hidden_nd[begin : begin + rows].to(compute)
                logits = hidden @ weight.T
                if bias_v is not None:
                    logits += bias_v.to(compute)
                logits = logits.to(wide)
                nll, grad_logits = _chunk(logits, targets_n[begin : begin + rows])
                total += nll
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(0)
                grad_logits = grad_logits.to(compute)
                del logits
                if grad_hidden is not None:
                    grad_hidden[begin : begin + rows] = grad_logits @ weight
                if grad_weight is not None:
                    _add_outer(grad_weight, grad_logits, hidden)
                del grad_logits  # before the next chunk's logits
        ctx.dtypes = (weight_vd.dtype, None if bias_v is None else bias_v.dtype)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        return (
            None if grad_hidden is None else grad_hidden * upstream.to(grad_hidden.dtype),
            None if grad_weight is None else (grad_weight * upstream).to(weight_dtype),
            None if grad_bias is None else (grad_bias * upstream).to(bias_dtype),
            None,
            None,
            None,
        )


def _chunk(logits_nv: Tensor, targets_n: Tensor) -> tuple[Tensor, Tensor]:
    """Summed NLL of one chunk and its gradient by the logits, softmax - onehot, in the logits' own memory."""
    targets_n1 = targets_n[:, None]
    logits_nv -= logits_nv.amax(1, keepdim=True)
    target_logits_n1 = logits_nv.gather(1, targets_n1)
    probabilities_nv = logits_nv.exp_()
    sums_n1 = probabilities_nv.sum(1, keepdim=True)
    nll = (sums_n1.log() - target_logits_n1).sum()
    probabilities_nv /= sums_n1
    probabilities_nv.scatter_add_(1, targets_n1, torch.full_like(sums_n1, -1.0))
    return nll, probabilities_nv


def _add_outer(grad_weight_vd: Tensor, grad_logits_nv: Tensor, hidden_nd: Tensor) -> None:
    """grad_weight += grad_logits.T @ hidden, accumulated in grad_weight's (wide) type."""
    if grad_logits_nv.dtype == grad_weight_vd.dtype:
        grad_weight_vd.addmm_(grad_logits_nv.T, hidden_nd)
    else:
        grad_weight_vd += grad_logits_nv.T @ hidden_nd
