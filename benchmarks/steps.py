"""The steps that are measured: plain transformers + PEFT + torch, and this package's loop."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from peftodyssey.corpora.packing import PackedSequences
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.methods import base_dropout
from peftodyssey.models.load import linear_names
from peftodyssey.multi_lora.adapters import adapter_of
from peftodyssey.multi_lora.trainer import Member, train_adapters
from peftodyssey.training.loop import train
from peftodyssey.training.settings import TrainSettings

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def adapted(model: Any, step: StepSpec) -> Any:
    """PEFT's LoRA on the linear maps that the step names; the model itself, opened, where all of it trains."""
    if step.full:
        if step.master == "fp32":
            model = model.float()
        if step.dropout:
            base_dropout.switch_on(model)
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model

    leaves = sorted({name.rsplit(".", 1)[-1] for name in linear_names(model)})
    targets = [leaf for leaf in leaves if step.targets is None or leaf in step.targets]
    config = LoraConfig(r=step.adapter_rank, lora_alpha=2 * step.adapter_rank, target_modules=targets)
    return get_peft_model(model, config).train()


def stock_step(model: Any, step: StepSpec, steps: int = 2) -> list[float]:
    """Optimiser steps of the model's own loss with torch's AdamW on random tokens; seconds are not taken here."""
    wrapped = adapted(model, step)
    if step.gradient_checkpointing == "full":
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if not step.full:
            model.enable_input_require_grads()
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], fused=True)
    ids_bt = torch.randint(0, model.config.vocab_size, (step.micro_batch_size, step.seq_len), device=device)
    masters = step.full and step.master == "fp32" and step.precision in HALVES
    losses = []
    for _ in range(steps):
        for _ in range(2 if step.accumulates else 1):
            with torch.autocast(device.type, HALVES[step.precision]) if masters else contextlib.nullcontext():
                loss = wrapped(input_ids=ids_bt, labels=ids_bt).loss
            loss.backward()
            losses.append(loss.detach())
            del loss
        optimizer.step()
        optimizer.zero_grad()
    return losses


def own_step(model: Any, step: StepSpec, steps: int = 2) -> Any:
    """The same by `peftodyssey.training.loop.train`: one document a block."""
    wrapped = adapted(model, step)
    trainable = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    batch = step.micro_batch_size * (2 if step.accumulates else 1)
    return train(
        wrapped,
        trainable,
        random_blocks(batch, step.seq_len, model.config.vocab_size),
        settings_of(step, steps),
        device=next(model.parameters()).device,
    )


def multi_lora_step(model: Any, step: StepSpec, steps: int = 2) -> None:
    """The same by `peftodyssey.multi_lora.trainer`: `step.multi_lora_size` adapters of one rank together."""
    batch = step.micro_batch_size * (2 if step.accumulates else 1)
    wrapped = adapted(model, step)
    start = adapter_of(wrapped)
    plain = wrapped.unload()
    plain.requires_grad_(False)
    blocks = random_blocks(batch, step.seq_len, model.config.vocab_size)
    with tempfile.TemporaryDirectory() as folder:
        members = [
            Member(settings_of(step, steps), blocks, start, Path(folder) / str(number), str(number))
            for number in range(step.multi_lora_size)
        ]
        del wrapped, start
        train_adapters(plain, members, device=next(plain.parameters()).device)


def settings_of(step: StepSpec, steps: int) -> TrainSettings:
    """How `step` is asked of the training loop."""
    return TrainSettings(
        lr=1e-4,
        steps=steps,
        batch_size=step.micro_batch_size * (2 if step.accumulates else 1),
        micro_batch_size=step.micro_batch_size,
        schedule="constant",
        precision=step.precision,
        gradient_checkpointing=step.gradient_checkpointing,
        optimizer=step.optimizer,
        offload_activations=step.offload_activations,
        offload_optimizer=step.offload_optimizer,
        loss_chunk_bytes=step.loss_chunk_bytes,
    )


def random_blocks(blocks: int, seq_len: int, vocabulary: int) -> PackedSequences:
    """Random tokens, each block one document."""
    draw = np.random.default_rng(0)
    ids = draw.integers(0, vocabulary, (blocks, seq_len + 1)).astype(np.int32)
    positions = np.tile(np.arange(seq_len, dtype=np.int32), (blocks, 1))
    return PackedSequences(ids[:, :-1].copy(), ids[:, 1:].copy(), positions, np.zeros_like(positions))
