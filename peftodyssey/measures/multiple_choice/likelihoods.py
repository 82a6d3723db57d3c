"""Log-likelihood of every choice after its prompt, under one model.

The same sums as lm-eval's `loglikelihood` requests: only the tokens of the choice count, each given the prompt and the
tokens before it; a request that is longer than the model's positions loses the beginning of its prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import nn

from peftodyssey.errors import InputError
from peftodyssey.scoring.nll import Progress, score_windows
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.scoring.windows import WindowTable


class Pair(Protocol):
    """A prompt and one choice as ids; `corpora.multiple_choice.Request` is one."""

    @property
    def context(self) -> list[int]: ...
    @property
    def choice(self) -> list[int]: ...


class ChoiceScores(NamedTuple):
    """One number for each request, in their order."""

    loglik_nats: np.ndarray  # float64 [requests], summed over the tokens of the choice
    tokens: np.ndarray  # int32 [requests], tokens of the choice
    facts: dict[str, Any]  # those of `scoring.nll`, and truncated: requests that lost the beginning of their prompt


def score_choices(
    model: nn.Module,
    requests: Sequence[Pair],
    settings: ScoreSettings,
    *,
    prefix: int | None,
    on_progress: Progress | None = None,
) -> ChoiceScores:
    """Log-likelihood in nats of each request's choice given its prompt, after `prefix` (a token before every prompt).

    Raises InputError where a choice alone is longer than the model's positions, or no token comes before it; else as
    `score_adapters`.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    sequences = [_sequence(request, prefix, positions) for request in requests]
    choice_tokens = np.array([len(request.choice) for request in requests], np.int64)
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    begin = np.cumsum(lengths) - lengths
    table = WindowTable(np.concatenate(sequences), begin, lengths - 1, begin + 1, choice_tokens)
    [scored] = score_windows(model, 1, table, int(lengths.sum()), settings, on_progress)
    nats = np.nan_to_num(scored.nll_nats.astype(np.float64))
    full_lengths = np.array([len(r.context) + len(r.choice) + (prefix is not None) for r in requests])
    facts = scored.facts | {"truncated": int(np.count_nonzero(full_lengths > lengths))}
    return ChoiceScores(-np.add.reduceat(nats, begin), choice_tokens.astype(np.int32), facts)


def _sequence(request: Pair, prefix: int | None, positions: int | None) -> np.ndarray:
    """The last tokens of prefix, prompt and choice: at most one more than the model has positions."""
    ids = [*([] if prefix is None else [prefix]), *request.context, *request.choice]
    if positions is not None:
        ids = ids[-(positions + 1) :]
    if len(request.choice) >= len(ids):
        raise InputError(
            f"a choice of {len(request.choice)} tokens has nothing before it"
            + (f" within {positions} positions" if positions else ""),
            "shorten the choices, write a prompt before them, or set score.first_token: bos",
        )
    return np.array(ids, np.int64)
