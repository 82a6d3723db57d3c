"""Small models and sequences for the training tests: made in memory, no files, no tokenizer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from peftodyssey.corpora.packing import PackedSequences
from peftodyssey.models import varlen_attention
from peftodyssey.models.shapes import named_configs

VOCABULARY = 97
DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout")


def sequences(
    num_sequences: int = 6,
    seq_len: int = 24,
    seed: int = 0,
    documents: tuple[int, ...] = (9, 5, 10),
    masked_share: float = 0.0,
) -> PackedSequences:
    """Random tokens; every sequence holds documents of these lengths; the target of a document's last token is 0."""
    assert sum(documents) == seq_len
    draw = np.random.default_rng(seed)
    ids = draw.integers(1, VOCABULARY, (num_sequences, seq_len)).astype(np.int32)
    labels = np.roll(ids, -1, axis=1)
    labels[:, np.cumsum(documents) - 1] = 0
    labels[draw.random(labels.shape) < masked_share] = -100
    positions = np.tile(np.concatenate([np.arange(n) for n in documents]), (num_sequences, 1)).astype(np.int32)
    segments = np.tile(np.repeat(np.arange(len(documents)), documents), (num_sequences, 1)).astype(np.int32)
    return PackedSequences(ids, labels, positions, segments)


def random_model(family: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """The tiny model of a family with a small vocabulary, frozen, in evaluation mode."""
    config = AutoConfig.for_model(
        **{
            **named_configs()[f"tiny-{family}"],
            "vocab_size": VOCABULARY,
            "use_cache": False,
            "pad_token_id": 0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            **changes,
        }
    )
    for name in DROPOUTS:  # as models.load does
        if hasattr(config, name):
            setattr(config, name, 0.0)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).to(dtype).requires_grad_(False).eval()
    varlen_attention.install(model)
    return model


def all_trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """Full fine-tuning: every parameter once."""
    model.requires_grad_(True)
    return dict(model.named_parameters())


def with_lora(
    model: Any, rank: int = 4, dropout: float = 0.0, seed: int = 1
) -> tuple[Any, dict[str, torch.nn.Parameter]]:
    """PEFT's own LoRA on all linear maps, with B away from zero so that A's gradient is not zero either."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = get_peft_model(model, config, autocast_adapter_dtype=False)
    trainable = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for name, parameter in trainable.items():
            if "lora_B" in name:
                parameter.normal_(std=0.02)
    return adapted, trainable
