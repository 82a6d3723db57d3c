"""Log-likelihood of every choice behind its prompt, under one model. Called by `jobs.choices`.

The same sums as lm-eval's `loglikelihood` requests: the tokens of the choice alone count, each given the prompt and
those before it; what is longer than the model loses the beginning of its prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from peftodyssey.errors import InputError
from peftodyssey.scoring.nll import score_windows
from peftodyssey.scoring.windows import WindowTable


class Pair(Protocol):
    """A prompt and one choice as ids; `corpora.questions.Request` is one."""

    @property
    def context(self) -> list[int]: ...
    @property
    def choice(self) -> list[int]: ...


class ChoiceScores(NamedTuple):
    """One number for each request, in their order."""

    loglik_nats: np.ndarray  # float64 [requests], summed over the tokens of the choice
    tokens: np.ndarray  # int32 [requests], tokens of the choice
    facts: dict[str, Any]  # those of `score.nll`, and truncated: requests that lost the beginning of their prompt


def score_choices(
    model: nn.Module,
    requests: Sequence[Pair],
    *,
    prefix: int | None,
    device: str | torch.device,
    batch_tokens: int | None = None,
    budget_bytes: int | None = None,
    precision: str = "fp32",
    on_progress: Callable[[int, int], None] | None = None,
) -> ChoiceScores:
    """Log-likelihood in nats of each request's choice given `prefix` (a token before every prompt, or None) and its
    prompt.

    Raises InputError where a choice alone is longer than the model's positions, or nothing stands before it; else as
    `score.nll.score_index`.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    sequences = [_sequence(request, prefix, positions) for request in requests]
    chosen = np.array([len(request.choice) for request in requests], np.int64)
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    begin = np.cumsum(lengths) - lengths
    table = WindowTable(np.concatenate(sequences), begin, lengths - 1, begin + 1, chosen)
    [scored] = score_windows(
        model,
        1,
        table,
        int(lengths.sum()),
        device=device,
        batch_tokens=batch_tokens,
        budget_bytes=budget_bytes,
        precision=precision,
        on_progress=on_progress,
    )
    nats = np.nan_to_num(scored.nll_nats.astype(np.float64))
    whole = np.array([len(r.context) + len(r.choice) + (prefix is not None) for r in requests])
    facts = scored.facts | {"truncated": int(np.count_nonzero(whole > lengths))}
    return ChoiceScores(-np.add.reduceat(nats, begin), chosen.astype(np.int32), facts)


def _sequence(request: Pair, prefix: int | None, positions: int | None) -> np.ndarray:
    """What the model reads and predicts: at most one token more than it has positions, from the right."""
    ids = [*([] if prefix is None else [prefix]), *request.context, *request.choice]
    kept = ids if positions is None else ids[-(positions + 1) :]
    if len(request.choice) >= len(kept):
        raise InputError(
            f"a choice of {len(request.choice)} tokens has nothing before it"
            + (f" within {positions} positions" if positions else ""),
            "shorten the choices, write a prompt before them, or set score.first_token: bos",
        )
    return np.array(kept, np.int64)
