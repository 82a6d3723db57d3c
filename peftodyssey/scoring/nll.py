"""Negative log-likelihood and rank of every token of an index under one model.

The logits of a corpus never exist at once: the head is applied to the scored positions only, some rows at a time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from peftodyssey.constants import SCORE_CHUNK_BYTES, SCORE_MIN_CHUNK_ROWS
from peftodyssey.errors import DoesNotFit, InputError, NotFinite
from peftodyssey.models import host_memory
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.models.packed_inputs import packed_inputs, to_device
from peftodyssey.models.patching import patch_model_on_cuda
from peftodyssey.models.scoring_mode import scoring_mode
from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.scoring.batches import Batch, batch, num_rows_that_fit, rows_of_windows
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.scoring.windows import WindowTable, corpus_windows

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index

HALF_PRECISION = {"bf16": torch.bfloat16, "fp16": torch.float16}
Progress = Callable[[int, int], None]  # (done, in all)


class ScoreResult(NamedTuple):
    """One scored column, row for row with the index; NaN and -1 where a token is not scored."""

    nll_nats: np.ndarray  # float32 [rows]
    rank: np.ndarray  # int32 [rows]: 1 + number of tokens with a strictly greater logit; ties share the best rank
    facts: dict[str, Any]  # tokens, windows, forward_tokens, layout, batch_tokens (as it ended), out_of_memory, seconds


def score_index(
    model: nn.Module,
    index: Index,
    spec: ScoreSpec,
    settings: ScoreSettings,
    *,
    prefix: int | None,
    on_progress: Progress | None = None,
) -> ScoreResult:
    """`score_adapters` of a model without stacked adapters."""
    return score_adapters(model, 1, index, spec, settings, prefix=prefix, on_progress=on_progress)[0]


def score_adapters(
    model: nn.Module,
    num_adapters: int,
    index: Index,
    spec: ScoreSpec,
    settings: ScoreSettings,
    *,
    prefix: int | None,
    on_progress: Progress | None = None,
) -> list[ScoreResult]:
    """NLL in nats and rank of each token of `index` under `model`, each token once, by the windows of `spec`.

    One column for each of `num_adapters` adapters in `model`, which takes the rows of a batch once for each adapter,
    one block after the other. `prefix` is the token before every text under first_token bos. `on_progress(tokens
    scored, tokens in all)` is called after every batch. Every module has its own mode again afterwards. Raises
    InputError for a context longer than the model's positions, DoesNotFit where one window does not fit the memory,
    NotFinite where the model's logits are not finite.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and spec.context > positions:
        raise InputError(
            f"score.context is {spec.context} tokens, the model has {positions} positions",
            f"set score.context to {positions} or less",
        )
    table = corpus_windows(index.token, index.starts, spec, prefix)
    return score_windows(model, num_adapters, table, len(index.token), settings, on_progress)


def score_windows(
    model: nn.Module,
    num_adapters: int,
    table: WindowTable,
    num_rows: int,
    settings: ScoreSettings,
    on_progress: Progress | None = None,
) -> list[ScoreResult]:
    """NLL in nats and rank of what the windows of `table` score, at their rows of `num_rows`; see `score_adapters`."""
    nll_nats = np.full((num_adapters, num_rows), np.nan, np.float32)
    rank = np.full((num_adapters, num_rows), -1, np.int32)
    total, done, forward_tokens, start = int(table.scored.sum()), 0, 0, time.perf_counter()
    facts: dict[str, Any] = {"layout": settings.layout, "windows": len(table), "tokens": total}
    with scoring_context(model, settings):
        for current, batch_nll, batch_rank, batch_facts in _scored_batches(model, num_adapters, table, settings):
            nll_nats[:, current.index_row], rank[:, current.index_row] = batch_nll, batch_rank
            facts |= batch_facts
            forward_tokens += current.input_ids_bt.size
            done += len(current.index_row)
            if on_progress:
                on_progress(done, total)
    facts |= {"forward_tokens": forward_tokens, "seconds": (time.perf_counter() - start) / num_adapters}
    if num_adapters > 1:
        facts["together"] = num_adapters
    for column in nll_nats:
        _check_finite(column, done)
    return [ScoreResult(*columns, facts) for columns in zip(nll_nats, rank, strict=True)]


def mean_nats(nll_nats: np.ndarray) -> float:
    """Mean NLL in nats per scored token, summed in float64; rows that are not scored (NaN) are left out."""
    scored = nll_nats[~np.isnan(nll_nats)]
    return float(scored.sum(dtype=np.float64) / len(scored)) if len(scored) else float("nan")


def nll_and_rank(logits_nv: torch.Tensor, target_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """NLL in nats (float32) and rank from 1 (int32: 1 + strictly greater logits) of each row's target token."""
    true = logits_nv.gather(1, target_n[:, None])
    nll = (logits_nv.logsumexp(1) - true[:, 0]).clamp_min(0)
    return nll, (logits_nv > true).sum(1, dtype=torch.int32) + 1


@contextlib.contextmanager
def scoring_context(model: nn.Module, settings: ScoreSettings) -> Iterator[None]:
    """The model without gradients and dropout; in mixed precision where that is asked for, or where 16-bit weights meet
    float32 adapters on a GPU; on a GPU with the forward passes of `models.patching`.
    """
    device = torch.device(settings.device)
    weights_dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    dtype = HALF_PRECISION.get(settings.precision, weights_dtype if device.type == "cuda" else torch.float32)
    compute = dtype if dtype in HALF_PRECISION.values() else None
    with (
        scoring_mode(model),  # no_grad, not inference_mode: tensors that modules cache there cannot be trained through
        patch_model_on_cuda(model, compute, device) as mixed,
        torch.autocast(device.type, compute) if mixed else contextlib.nullcontext(),
    ):
        yield


def _check_finite(nll_nats: np.ndarray, scored: int) -> None:
    bad = scored - int(np.isfinite(nll_nats).sum())
    if bad:
        raise NotFinite(
            f"the model gives no finite likelihood to {bad} of {scored} tokens",
            "the weights have diverged or overflowed: lower the learning rate, or use bf16 or fp32 instead of fp16",
        )


def _scored_batches(
    model: nn.Module, num_adapters: int, table: WindowTable, settings: ScoreSettings
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray, dict[str, int]]]:
    """Batches with their NLL and ranks, (num_adapters, n), and the batch size; what does not fit is tried in halves."""
    parts, rows, device = split_lm_head(model), rows_of_windows(table, settings.layout), torch.device(settings.device)
    batch_tokens, failures = settings.tokens_per_batch, 0
    budget_bytes = settings.budget_bytes if device.type == "cpu" else None
    with host_memory.rss_budget(budget_bytes) as watch:
        while rows:
            count = num_rows_that_fit(table, rows, batch_tokens // num_adapters)
            current = batch(table, rows[:count])
            watch.reset_peak()
            try:
                nll, ranks = _score_batch(model, parts, current, settings, num_adapters)
                watch.check()
            except Exception as error:
                if not host_memory.is_out_of_memory(error):
                    raise
                if count == 1:
                    raise _does_not_fit(current.input_ids_bt.size, device, budget_bytes, error) from error
            else:
                yield current, nll, ranks, {"batch_tokens": batch_tokens, "out_of_memory": failures}
                rows = rows[count:]
                continue
            failures, batch_tokens = failures + 1, max(num_adapters * current.input_ids_bt.size // 2, 1)
            host_memory.release_memory(device)  # only here are the tensors free that the error's frames referred to


def _does_not_fit(tokens: int, device: torch.device, budget_bytes: int | None, error: BaseException) -> DoesNotFit:
    room = f"{device}" if budget_bytes is None else host_memory.format_gib(budget_bytes)
    advice = "free memory there" if budget_bytes is None else "raise --memory"
    return DoesNotFit(
        f"scoring one window of {tokens} tokens does not fit {room}: {error}", f"lower score.context, or {advice}"
    )


def _score_batch(
    model: nn.Module,
    parts: tuple[Callable[..., Any], nn.Linear] | None,
    current: Batch,
    settings: ScoreSettings,
    num_adapters: int,
) -> tuple[np.ndarray, np.ndarray]:
    device = torch.device(settings.device)
    input_ids, position_ids, segment_ids = (
        np.tile(array, (num_adapters, 1))
        for array in (current.input_ids_bt, current.position_ids_bt, current.segment_ids_bt)
    )
    position, target = (
        torch.from_numpy(array).to(device).repeat(num_adapters) for array in (current.position, current.target)
    )
    adapter = torch.arange(num_adapters, device=device).repeat_interleave(len(current.position))
    position += adapter * current.input_ids_bt.size
    if settings.layout == "packed":
        inputs = packed_inputs(model, input_ids, position_ids, segment_ids, device)
    else:
        inputs = {"input_ids": to_device(input_ids, device), "use_cache": False}
    if parts is None:
        logits = model(**inputs).logits
        nll, ranks = _in_chunks(logits.flatten(0, 1), position, target, lambda rows: rows, logits.shape[-1])
    else:
        backbone, head = parts
        nll, ranks = _in_chunks(backbone(**inputs)[0].flatten(0, 1), position, target, head, head.out_features)
    return nll.cpu().numpy().reshape(num_adapters, -1), ranks.cpu().numpy().reshape(num_adapters, -1)


def _in_chunks(
    source_nd: torch.Tensor, position: torch.Tensor, target: torch.Tensor, head: Callable[..., Any], vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """NLL float32 [m] and rank int32 [m] of `target` at rows `position` of `source_nd`, a chunk of rows at a time."""
    step = max(SCORE_CHUNK_BYTES.get(source_nd.device.type, 4 << 20) // (4 * vocabulary), SCORE_MIN_CHUNK_ROWS)
    chunks = [
        nll_and_rank(head(source_nd[p]).float(), t)
        for p, t in zip(position.split(step), target.split(step), strict=True)
    ]
    nll, ranks = zip(*chunks, strict=True)
    return torch.cat(nll), torch.cat(ranks)
