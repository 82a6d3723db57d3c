"""Job: how fast a training step is in fp32 and in bf16 on this CPU, with the shapes of a model and random weights."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from peftodyssey.corpora.packing import PackedSequences
from peftodyssey.memory.cpu_bf16 import Measurement
from peftodyssey.models.source import ModelSource, resolve
from peftodyssey.training.settings import TrainCallbacks, TrainSettings

if TYPE_CHECKING:
    from torch import nn

MAX_PARAMETERS = 200_000_000
SMALLER = "random/smollm2-135m"  # whose shapes stand for those of models above MAX_PARAMETERS
LAYERS = 2  # all of a model's decoder layers have the same shapes
SEQUENCES, SEQ_LEN = 4, 256
ROUNDS, STEPS = 3, 3
LR = 1e-9  # the weights stay what they are


def measure(source: ModelSource, parameters: int) -> Measurement:
    """Steps of full fine-tuning on random tokens, in both precisions in turns.

    `source` is a model of so many `parameters`. The first step of each turn is not counted.
    """
    source = source if parameters <= MAX_PARAMETERS else resolve(SMALLER)
    model = _model(source)
    text = model.config.get_text_config()
    seq_len = min(SEQ_LEN, getattr(text, "max_position_embeddings", SEQ_LEN))
    blocks = _random_blocks(int(text.vocab_size), int(seq_len))
    seconds: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for _ in range(ROUNDS):
        for precision, each in seconds.items():
            each += _step_seconds(model, blocks, precision)
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
    """Processor seconds of each step, which other programs on the machine change less than the clock's."""
    from peftodyssey.training.loop import train

    settings = TrainSettings(
        lr=LR, steps=STEPS, batch_size=SEQUENCES, micro_batch_size=SEQUENCES, schedule="constant", precision=precision
    )
    ends: list[float] = []
    callbacks = TrainCallbacks(on_step=lambda record: ends.append(time.process_time()))
    train(model, dict(model.named_parameters()), blocks, settings, device="cpu", callbacks=callbacks)
    return [after - before for before, after in pairwise(ends)]


def _random_blocks(vocabulary: int, seq_len: int) -> PackedSequences:
    """Random tokens, each sequence one document."""
    ids = np.random.default_rng(0).integers(0, vocabulary, (SEQUENCES, seq_len + 1)).astype(np.int32)
    positions = np.tile(np.arange(seq_len, dtype=np.int32), (SEQUENCES, 1))
    return PackedSequences(ids[:, :-1].copy(), ids[:, 1:].copy(), positions, np.zeros_like(positions))
