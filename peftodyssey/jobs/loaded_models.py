"""The one base model in memory, shared by all jobs of a run and replaced when another one is needed."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

from peftodyssey.memory.step_spec import BYTES
from peftodyssey.models.layer_offload import layers_on_gpu, offload_layers
from peftodyssey.models.load import load
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.models.source import ModelSource
from peftodyssey.models.tokenizer import TextTokenizer, load_tokenizer
from peftodyssey.plan.tasks import BaseModelKey

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LoadedModels:
    """Holds at most one base on `device`; on a GPU `budget_bytes` of it may be used.

    `free_disk` is called with a model before it is loaded, which downloads it where need be; `on_note` is told what
    loading a base found.
    """

    def __init__(
        self,
        device: str,
        budget_bytes: int,
        free_disk: Callable[[ModelSource], None] | None = None,
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        self.device, self.budget_bytes, self.free_disk, self.on_note = device, budget_bytes, free_disk, on_note
        self._key: BaseModelKey | None = None
        self._model: PreTrainedModel | None = None
        self._tokenizers: dict[str, TextTokenizer] = {}

    def get(self, key: BaseModelKey) -> PreTrainedModel:
        """The base that `key` names, frozen; ModelError where it cannot be loaded."""
        if self._model is None or _identity(key) != _identity(self._key):
            self.drop()
            if self.free_disk is not None:
                self.free_disk(key.source)
            self._model = self._load(key)
            self._key = key
        return self._model

    def _load(self, key: BaseModelKey) -> PreTrainedModel:
        """The base on the device; the last layers of an unquantized one larger than the GPU stay in host memory."""
        if self.device == "cpu" or key.quant or key.source.stored_quant:
            return self._read(key, self.device)
        shape = shape_from_config(key.source.config)
        on_gpu = layers_on_gpu(shape, BYTES[key.precision], self.budget_bytes)
        if on_gpu == shape.layers:
            return self._read(key, self.device)
        import torch

        return offload_layers(self._read(key, "cpu"), on_gpu, torch.device(self.device))

    def _read(self, key: BaseModelKey, device: str) -> PreTrainedModel:
        return load(key.source, precision=key.precision, quant=key.quant, device=device, on_note=self.on_note)

    def tokenizer(self, key: BaseModelKey) -> TextTokenizer:
        """The tokenizer of the base, without loading the base."""
        name = f"{key.source.name}@{key.source.revision}"
        if name not in self._tokenizers:
            self._tokenizers[name] = load_tokenizer(key.source)
        return self._tokenizers[name]

    def give_back(self) -> None:
        """Returns what a finished task freed: to the system on a CPU, so that the next one begins with what is free."""
        from peftodyssey.models.host_memory import trim_heap

        gc.collect()
        if self.device == "cpu":
            trim_heap()

    def drop(self) -> None:
        """Frees the base and its memory."""
        self._model = self._key = None
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()


def _identity(key: BaseModelKey | None) -> tuple[object, ...] | None:
    return None if key is None else (key.source.name, key.source.fingerprint, key.precision, key.quant)
