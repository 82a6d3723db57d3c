"""Small models, texts and a plain transformers loop for the scoring tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from peftodyssey.models.shapes import named_configs
from peftodyssey.recipe.cell import ScoreSpec

PREFIX = 0


def tiny_model(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """The random model `random/tiny-<family>` in float32, no dropout, weights large enough to tell tokens apart."""
    config = AutoConfig.for_model(**{**named_configs()[f"tiny-{family}"], **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def index(*lengths: int, seed: int = 0, vocabulary: int = 200) -> SimpleNamespace:
    """An index of random tokens: documents of these lengths."""
    token = np.random.default_rng(seed).integers(1, vocabulary, sum(lengths)).astype(np.int32)
    return index_of(token, lengths)


def index_of(token: np.ndarray, lengths: tuple[int, ...] | list[int]) -> SimpleNamespace:
    """The fields of a corpora.index.Index that scoring reads."""
    return SimpleNamespace(token=token, starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def point(context: int, stride: int, first_token: str = "bos", mode: str = "documents") -> ScoreSpec:
    """How to score; no cap on tokens."""
    return ScoreSpec(context=context, stride=stride, tokens=None, first_token=first_token, mode=mode)


@torch.no_grad()
def plain_logits(model: PreTrainedModel, text: list[int], context: int, stride: int) -> torch.Tensor:
    """Float32 logits [tokens, vocabulary] that predict each token of one text after PREFIX, one window a forward."""
    model.eval()
    sequence, rows, done = [PREFIX, *text], [], 0
    while done < len(text):
        end = min(len(text), done + stride if done else context)
        logits = (
            model(input_ids=torch.tensor([sequence[max(0, end - context) : end]]), use_cache=False).logits[0].float()
        )
        rows.append(logits[-(end - done) :])
        done = end
    return torch.cat(rows)


def plain_nll(model: PreTrainedModel, text: list[int], context: int, stride: int) -> np.ndarray:
    """NLL in nats of each token of one text by transformers and log_softmax alone."""
    log_p = torch.log_softmax(plain_logits(model, text, context, stride), -1)
    return -log_p[torch.arange(len(text)), torch.tensor(text)].numpy()
