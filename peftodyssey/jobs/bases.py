"""The one base model that is held in memory, loaded when another is asked for. Shared by every job of a run."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from peftodyssey.models.load import load
from peftodyssey.models.tokenizer import TextTokenizer, load_tokenizer
from peftodyssey.plan.graph import BaseKey

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Bases:
    """Holds at most one base on `device`; `get` swaps it."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._key: BaseKey | None = None
        self._model: PreTrainedModel | None = None
        self._tokenizers: dict[str, TextTokenizer] = {}

    def get(self, key: BaseKey) -> PreTrainedModel:
        """The base that `key` names, frozen; ModelError where it cannot be loaded."""
        if self._model is None or _identity(key) != _identity(self._key):
            self.drop()
            self._model = load(key.source, precision=key.precision, quant=key.quant, device=self.device)
            self._key = key
        return self._model

    def tokenizer(self, key: BaseKey) -> TextTokenizer:
        """The tokenizer of the base, without loading the base."""
        name = f"{key.source.name}@{key.source.revision}"
        if name not in self._tokenizers:
            self._tokenizers[name] = load_tokenizer(key.source)
        return self._tokenizers[name]

    def drop(self) -> None:
        """Let go of the base and of the memory that it took."""
        self._model = self._key = None
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()


def _identity(key: BaseKey | None) -> tuple[object, ...] | None:
    return None if key is None else (key.source.name, key.source.fingerprint, key.precision, key.quant)
