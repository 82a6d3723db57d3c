"""Job: how fast a training step is in fp32 and in bf16 on this CPU, with the shapes of a model and random weights."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from peftodyssey.corpora.packing import PackedSequences
from peftodyssey.memory.cpu_bf16 import Measurement
from peftodyssey.models.source import ModelSource
from peftodyssey.training.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

LAYERS = 2  # all of a model's decoder layers have the same shapes
SEQUENCES, SEQ_LEN = 4, 256
ROUNDS, STEPS = 3, 3
LR = 1e-9  # the weights stay what they are


def measure(source: ModelSource) -> Measurement:
    """Steps of full fine-tuning on random tokens, in both precisions in turns; the first step of each turn is not counted."""
    model = _model(source)
    blocks = _random_blocks(int(model.config.get_text_config().vocab_size))
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(ROUNDS):
        for precision, each in seconds.items():
            each += _step_seconds(model, blocks, precision)[1:]
    fp32, bf16 = (statistics.median(each) for each in seconds.values())
    return Measurement(source.name, fp32, bf16)


def _model(source: ModelSource) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from peftodyssey.models import varlen_attention
    from peftodyssey.models.load import base_config

    config, _ = base_config(source)
    text = config.get_text_config()
    text.num_hidden_layers = min(LAYERS, text.num_hidden_layers)
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[: text.num_hidden_layers]
    state = torch.random.get_rng_state()
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).train()
    torch.random.set_rng_state(state)
    varlen_attention.install(model)
    model.config.use_cache = False
    return model


def _step_seconds(model: nn.Module, blocks: PackedSequences, precision: str) -> list[float]:
    from peftodyssey.training.loop import train

    settings = TrainSettings(
        lr=LR, steps=STEPS, batch_size=SEQUENCES, micro_batch_size=SEQUENCES, schedule="constant", precision=precision
    )
    result = train(model, dict(model.named_parameters()), blocks, settings, device="cpu")
    return [record.seconds for record in result.log]


def _random_blocks(vocabulary: int) -> PackedSequences:
    """Random tokens, each sequence one document."""
    ids = np.random.default_rng(0).integers(0, vocabulary, (SEQUENCES, SEQ_LEN + 1)).astype(np.int32)
    positions = np.tile(np.arange(SEQ_LEN, dtype=np.int32), (SEQUENCES, 1))
    return PackedSequences(ids[:, :-1].copy(), ids[:, 1:].copy(), positions, np.zeros_like(positions))
