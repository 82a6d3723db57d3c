"""Negative log-likelihood and rank of every token of an index under one model. Called by the score and adapt jobs.

The logits of a corpus never exist at once: the head is applied to the scored places only, some rows at a time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from peftodyssey.constants import SCORE_BATCH_TOKENS, SCORE_CHUNK_BYTES, SCORE_MIN_CHUNK_ROWS
from peftodyssey.errors import DoesNotFit, InputError, TrainingError
from peftodyssey.models import host_memory
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.models.packing import packed_inputs, to_device
from peftodyssey.models.patching import patch_model_on_cuda
from peftodyssey.models.scoring_mode import scoring_mode
from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.scoring.batches import LAYOUTS, Batch, batch, rows_of_windows, take
from peftodyssey.scoring.windows import WindowTable, corpus_windows

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class ScoreResult(NamedTuple):
    """One scored column. Row for row with the index; NaN and -1 where the policy does not score."""

    nll_nats: np.ndarray  # float32[n_rows]
    rank: np.ndarray  # int32[n_rows]: 1 + number of tokens with a strictly greater logit; ties share the best rank
    facts: dict[str, Any]  # tokens, windows, forward_tokens, layout, batch_tokens (as it ended), out_of_memory, seconds


def score_index(model: nn.Module, index: Index, settings: ScoreSpec, **how: Any) -> ScoreResult:
    """`score_together` of a model by itself."""
    return score_adapters(model, 1, index, settings, **how)[0]


def score_adapters(
    model: nn.Module,
    members: int,
    index: Index,
    settings: ScoreSpec,
    *,
    prefix: int | None,
    device: str | torch.device,
    batch_tokens: int | None = None,
    budget_bytes: int | None = None,
    layout: str = "padded",
    precision: str = "fp32",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ScoreResult]:
    """NLL in nats and rank of each token of `index` under `model`, each token once, by the windows of `settings`; a
    column for each of `members` models in one, which takes a batch's rows once for each, one after the other.

    `prefix` is the token before every text under first_token bos. `on_progress(tokens scored, tokens in all)` after
    every batch. Batches hold `batch_tokens` places (None: by the device), halved where memory runs out: the card's, the
    host's, or on a CPU `budget_bytes` of resident memory. `precision` bf16 or fp16 multiplies in it whatever the
    weights' type, so that a base and what was trained in float32 on it are compared alike. Every module has its own
    mode again afterwards. Raises InputError for a context the model cannot hold, DoesNotFit where one window does not
    fit the memory, TrainingError where the model's logits are not finite.
    """
    _check(model, settings, layout)
    table = corpus_windows(index.token, index.starts, settings, prefix)
    return score_windows(
        model,
        members,
        table,
        len(index.token),
        device=device,
        batch_tokens=batch_tokens,
        budget_bytes=budget_bytes,
        layout=layout,
        precision=precision,
        on_progress=on_progress,
    )


def score_windows(
    model: nn.Module,
    members: int,
    table: WindowTable,
    rows: int,
    *,
    device: str | torch.device,
    batch_tokens: int | None = None,
    budget_bytes: int | None = None,
    layout: str = "padded",
    precision: str = "fp32",
    on_progress: Callable[[int, int], None] | None = None,
) -> list[ScoreResult]:
    """NLL in nats and rank of what the windows of `table` score, at their places among `rows`; else as
    `score_together`.
    """
    device = torch.device(device)
    batch_tokens = batch_tokens or SCORE_BATCH_TOKENS.get(device.type, SCORE_BATCH_TOKENS["cpu"])
    shape = members, rows
    nll_nats, rank = np.full(shape, np.nan, np.float32), np.full(shape, -1, np.int32)
    facts: dict[str, Any] = {
        "layout": layout,
        "windows": len(table),
        "tokens": int(table.scored.sum()),
        "forward_tokens": 0,
    }
    done, began = 0, time.perf_counter()
    budget_bytes = budget_bytes if device.type == "cpu" else None
    with scoring_context(model, device, precision):
        for scored, nll, ranks, state in _scored_batches(
            model, members, table, layout, batch_tokens, device, budget_bytes
        ):
            nll_nats[:, scored.row], rank[:, scored.row] = nll, ranks
            facts |= state | {"forward_tokens": facts["forward_tokens"] + scored.input_ids_bt.size}
            done += len(scored.row)
            if on_progress:
                on_progress(done, facts["tokens"])
    facts |= {"seconds": (time.perf_counter() - began) / members} | ({"together": members} if members > 1 else {})
    for column in nll_nats:
        _check_finite(column, done)
    return [ScoreResult(*column, facts) for column in zip(nll_nats, rank, strict=True)]


def mean_nats(nll_nats: np.ndarray) -> float:
    """Mean NLL in nats per scored token, summed in float64; NaN rows are not scored and left out."""
    kept = nll_nats[~np.isnan(nll_nats)]
    return float(kept.sum(dtype=np.float64) / len(kept)) if len(kept) else float("nan")


def _check(model: nn.Module, settings: ScoreSpec, layout: str) -> None:
    assert layout in LAYOUTS, layout
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions and settings.context > positions:
        raise InputError(
            f"score.context is {settings.context} tokens, the model holds {positions}",
            f"set score.context to {positions} or less",
        )


def _check_finite(nll_nats: np.ndarray, scored: int) -> None:
    bad = scored - int(np.isfinite(nll_nats).sum())
    if bad:
        raise TrainingError(
            f"the model gives no finite likelihood to {bad} of {scored} tokens",
            "the weights have diverged or overflowed: lower the learning rate, or use bf16 or fp32 in place of fp16",
        )


def _scored_batches(
    model: nn.Module,
    members: int,
    table: WindowTable,
    layout: str,
    batch_tokens: int,
    device: torch.device,
    budget_bytes: int | None,
) -> Iterator[tuple[Batch, np.ndarray, np.ndarray, dict[str, int]]]:
    """Batches with their NLL and ranks, (members, n), and the state of the batch size; one that did not fit is tried in
    halves.
    """
    parts, rows, failures = split_lm_head(model), rows_of_windows(table, layout), 0
    with host_memory.rss_budget(budget_bytes) as watch:
        while rows:
            count = take(table, rows, batch_tokens // members)
            current = batch(table, rows[:count])
            watch.reset_peak()
            try:
                nll, ranks = _score_batch(model, parts, current, layout, device, members)
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
            failures, batch_tokens = failures + 1, max(members * current.input_ids_bt.size // 2, 1)
            host_memory.release_memory(device)  # only here are the tensors free that the error's frames held


def _does_not_fit(tokens: int, device: torch.device, budget_bytes: int | None, error: BaseException) -> DoesNotFit:
    room = f"{device}" if budget_bytes is None else host_memory.format_gib(budget_bytes)
    help_ = "free memory there" if budget_bytes is None else "raise --memory"
    return DoesNotFit(
        f"scoring one window of {tokens} tokens does not fit {room}: {error}", f"lower score.context, or {help_}"
    )


def _score_batch(
    model: nn.Module,
    parts: tuple[Callable[..., Any], nn.Linear] | None,
    current: Batch,
    layout: str,
    device: torch.device,
    members: int,
) -> tuple[np.ndarray, np.ndarray]:
    arrays = [np.tile(a, (members, 1)) for a in (current.input_ids_bt, current.position_ids_bt, current.segments_bt)]
    place, target = (torch.from_numpy(a).to(device).repeat(members) for a in (current.place, current.target))
    place += torch.arange(members, device=device).repeat_interleave(len(current.place)) * current.input_ids_bt.size
    inputs = (
        packed_inputs(model, *arrays, device)
        if layout == "packed"
        else {"input_ids": to_device(arrays[0], device), "use_cache": False}
    )
    if parts is None:
        logits = model(**inputs).logits
        nll, ranks = _in_chunks(logits.flatten(0, 1), place, target, lambda rows: rows, logits.shape[-1])
    else:
        backbone, head = parts
        hidden = backbone(**inputs)[0]
        nll, ranks = _in_chunks(hidden.flatten(0, 1), place, target, head, head.out_features)
    return nll.cpu().numpy().reshape(members, -1), ranks.cpu().numpy().reshape(members, -1)


@contextlib.contextmanager
def scoring_context(model: nn.Module, device: torch.device, precision: str) -> Iterator[None]:
    """The model as it is scored: without gradients, its modules' own modes aside, and in mixed precision where it is
    asked for, or where 16-bit weights meet float32 adapters on a card; there also in lean forms (`models.lean`).
    """
    stored = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    dtype = HALVES.get(precision, stored if device.type == "cuda" else torch.float32)
    compute = dtype if dtype in HALVES.values() else None
    with (
        scoring_mode(model),  # no_grad, not inference_mode: what modules cache there could not be trained through
        patch_model_on_cuda(model, compute, device) as mixed,
        torch.autocast(device.type, compute) if mixed else contextlib.nullcontext(),
    ):
        yield


def _in_chunks(
    source_nd: torch.Tensor, place: torch.Tensor, target: torch.Tensor, head: Callable, vocabulary: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """NLL float32[m] and rank int32[m] of `target` at the `place` rows of `source_nd`, by chunks of rows through
    `head`.
    """
    step = max(SCORE_CHUNK_BYTES.get(source_nd.device.type, 4 << 20) // (4 * vocabulary), SCORE_MIN_CHUNK_ROWS)
    out = [
        nll_and_rank(head(source_nd[p]).float(), t) for p, t in zip(place.split(step), target.split(step), strict=True)
    ]
    nll, ranks = zip(*out, strict=True)
    return torch.cat(nll), torch.cat(ranks)


def nll_and_rank(logits_nv: torch.Tensor, target_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """NLL in nats (float32) and rank from 1 (int32: 1 + strictly greater logits) of each row's target token."""
    true = logits_nv.gather(1, target_n[:, None])
    nll = (logits_nv.logsumexp(1) - true[:, 0]).clamp_min(0)
    return nll, (logits_nv > true).sum(1, dtype=torch.int32) + 1
