"""Whether a model predicts a text as trained weights do: by the context, and better than near-uniform guesses.

Random or partly loaded weights fail one of two comparisons. Most predict no better than their own average distribution.
Where they do, because a tied head makes a token likelier after itself, they are no nearer to the frequencies of the
text's own tokens than to guessing among all tokens of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.scoring.nll import scoring_context
from peftodyssey.scoring.settings import ScoreSettings

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index

SENSE_TOKENS = 1024
DOCUMENT_TOKENS = 256  # at most of one document, where there are enough documents
NUM_ERRORS = 2.0  # standard errors by which the model has to be better
BLOCK_TOKENS = 32  # neighbouring tokens are no independent evidence: standard errors are those of means of blocks
CHUNK_ROWS = 64  # rows of logits at a time
LOADED = "are its weights loaded?"


class Sense(NamedTuple):
    """Both comparisons on `tokens` tokens, in nats per token."""

    tokens: int
    nll_nats: float
    average_nll_nats: float = 0.0  # of the mean of all predicted distributions
    standard_error_nats: float = 0.0  # of average_nll_nats - nll_nats
    halfway_nll_nats: float = 0.0  # between guessing among all tokens and the frequencies of the text's own tokens
    halfway_error_nats: float = 0.0  # of halfway_nll_nats - nll_nats

    @property
    def problem(self) -> str:
        """What speaks against the model; empty where nothing does, or where there are too few tokens to tell."""
        if self.tokens < 2 * BLOCK_TOKENS:
            return ""
        numbers = f"({self.nll_nats:.3f} nats per token, %s %.3f, on {self.tokens} tokens)"
        if self.average_nll_nats - self.nll_nats <= NUM_ERRORS * self.standard_error_nats:
            numbers %= ("its average", self.average_nll_nats)
            return f"this model predicts no better than its own average here; {LOADED} {numbers}"
        if self.halfway_nll_nats - self.nll_nats <= NUM_ERRORS * self.halfway_error_nats:
            numbers %= ("halfway", self.halfway_nll_nats)
            return (
                "this model's predictions are not halfway from guessing among all tokens to the frequencies of the "
                f"text's own tokens; {LOADED} {numbers}"
            )
        return ""


def sense(model: nn.Module, index: Index, settings: ScoreSettings, prefix: int | None) -> Sense:
    """NLL of 1,024 tokens from the beginnings of documents of `index` under `model`, under the mean of what it predicts
    at these tokens, and halfway between the uniform distribution and the frequencies in the whole text.

    `prefix` is the token before every document, whose first token is left out where there is none. A token's own
    occurrence does not count in its frequency (tokens seen once: Good and Turing's estimate, Good 1953).
    """
    own, average, chosen = [], torch.zeros(()), []
    with scoring_context(model, settings):
        for logits_nv, target_n in _predictions(model, index, torch.device(settings.device), prefix):
            log_p_nv = logits_nv.float().log_softmax(-1)
            own.append(-log_p_nv.gather(1, target_n[:, None])[:, 0].double().cpu())
            average = average + log_p_nv.exp().sum(0).double().cpu()
            chosen.append(target_n.cpu())
    if not own:
        return Sense(0, 0.0)
    own_n, target = torch.cat(own).numpy(), torch.cat(chosen).numpy()
    average_n = -(average / len(own_n)).clamp_min(1e-300).log().numpy()[target]
    halfway_n = (math.log(len(average)) + _frequency_nll(index.token, target, len(average))) / 2
    return Sense(
        len(own_n),
        float(own_n.mean()),
        float(average_n.mean()),
        _block_error(average_n - own_n),
        float(halfway_n.mean()),
        _block_error(halfway_n - own_n),
    )


def _frequency_nll(text: np.ndarray, target: np.ndarray, vocabulary: int) -> np.ndarray:
    """float64 [tokens]: nats of each token of `target` by the frequencies in `text`, its own occurrence left out."""
    counts = np.bincount(text, minlength=vocabulary)
    unseen = max(int((counts == 1).sum()), 1) / len(text)
    seen = (counts[target] - 1) / max(len(text) - 1, 1)
    nats: np.ndarray = -np.log((1 - unseen) * seen + unseen / vocabulary)
    return nats


def _block_error(difference_n: np.ndarray) -> float:
    """Standard error of the mean, from means of blocks of neighbouring tokens; 0 where there are fewer than two."""
    blocks = len(difference_n) // BLOCK_TOKENS
    if blocks < 2:
        return 0.0
    means = difference_n[: blocks * BLOCK_TOKENS].reshape(blocks, BLOCK_TOKENS).mean(1)
    return float(means.std(ddof=1) / math.sqrt(blocks))


def _predictions(
    model: nn.Module, index: Index, device: torch.device, prefix: int | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(logits [n, vocabulary], target ids [n]) at the beginnings of documents, some rows at a time."""
    parts, left = split_lm_head(model), SENSE_TOKENS
    longest = max(DOCUMENT_TOKENS, -(-SENSE_TOKENS // max(len(index.starts) - 1, 1)))
    positions = getattr(model.config, "max_position_embeddings", None) or longest
    for start, end in zip(index.starts[:-1], index.starts[1:], strict=True):
        first = [] if prefix is None or index.token[start] == prefix else [prefix]
        ids = [*first, *index.token[start:end].tolist()][: min(left + 1, longest + 1, positions)]
        if left <= 0:
            return
        if len(ids) < 2:
            continue
        left -= len(ids) - 1
        target_n = torch.tensor(ids[1:], device=device)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids[:-1]], device=device), "use_cache": False}
        rows = parts[0](**inputs)[0][0] if parts else model(**inputs).logits[0]
        for at in range(0, len(target_n), CHUNK_ROWS):
            chunk = rows[at : at + CHUNK_ROWS]
            yield (parts[1](chunk) if parts else chunk), target_n[at : at + CHUNK_ROWS]
