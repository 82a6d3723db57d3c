"""Whether a model predicts a text better than its own average distribution, which random weights do not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.scoring.nll import scoring_context
from peftodyssey.scoring.settings import ScoreSettings

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index

SENSE_TOKENS = 256
NUM_ERRORS = 2.0  # standard errors by which the model has to be better
CHUNK_ROWS = 64  # rows of logits at a time
NONSENSE = "this model predicts no better than its own average here; are its weights loaded?"


class Sense(NamedTuple):
    """The comparison on `tokens` tokens, in nats per token."""

    tokens: int
    nll_nats: float
    average_nll_nats: float  # of the mean of all predicted distributions
    standard_error_nats: float  # of the difference of the two

    @property
    def makes_sense(self) -> bool:
        """Whether the model is better by two standard errors; True where there are too few tokens to tell."""
        if self.tokens < CHUNK_ROWS:
            return True
        return self.average_nll_nats - self.nll_nats > NUM_ERRORS * self.standard_error_nats


def sense(model: nn.Module, index: Index, settings: ScoreSettings, prefix: int | None) -> Sense:
    """NLL of the first 256 tokens of `index` under `model`, and under the mean of what it predicts at these tokens.

    `prefix` is the token before every document, whose first token is left out where there is none. The difference is
    the information that the context gives, so a model without its weights has none. A few passes of 256 tokens.
    """
    own, average, chosen = [], torch.zeros(()), []
    with scoring_context(model, settings):
        for logits_nv, target_n in _predictions(model, index, torch.device(settings.device), prefix):
            log_p_nv = logits_nv.float().log_softmax(-1)
            own.append(-log_p_nv.gather(1, target_n[:, None])[:, 0].double().cpu())
            average = average + log_p_nv.exp().sum(0).double().cpu()
            chosen.append(target_n.cpu())
    if not own:
        return Sense(0, 0.0, 0.0, 0.0)
    own_n = torch.cat(own)
    difference_n = -(average / len(own_n)).clamp_min(1e-300).log()[torch.cat(chosen)] - own_n
    error = float(difference_n.std() / len(own_n) ** 0.5) if len(own_n) > 1 else 0.0
    return Sense(len(own_n), float(own_n.mean()), float((own_n + difference_n).mean()), error)


def _predictions(
    model: nn.Module, index: Index, device: torch.device, prefix: int | None
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(logits [n, vocabulary], target ids [n]) of the first documents, some rows at a time."""
    parts, left = split_lm_head(model), SENSE_TOKENS
    positions = getattr(model.config, "max_position_embeddings", None) or SENSE_TOKENS
    for start, end in zip(index.starts[:-1], index.starts[1:], strict=True):
        ids = [*([prefix] if prefix is not None else []), *index.token[start:end].tolist()][: min(left + 1, positions)]
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
