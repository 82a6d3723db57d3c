"""The settings of a training step that its memory depends on."""

from __future__ import annotations

from dataclasses import dataclass

from peftodyssey.memory_settings import MemorySettings
from peftodyssey.recipe.cell import QuantSpec

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, kw_only=True)
class StepSpec(MemorySettings):
    """Everything that the memory of a training step depends on, beside the model's shape."""

    precision: str  # fp32 | bf16 | fp16
    quant: QuantSpec | None
    trainable: int  # trained parameters
    full: bool  # the weights themselves are trained
    adapter_rank: int  # 0 where there is no adapter
    seq_len: int  # tokens
    engine: str  # native | trl | stock
    device: str  # cpu | cuda
    optimizer: str = "adamw"  # adamw | adamw8bit
    master: str = "fp32"  # fp32 | bf16: type of the trained weights
    accumulates: bool = False  # several micro-batches per step: gradients exist from the second one on
    packed: bool = False  # several documents per block: attention needs a mask or cu_seqlens
    multi_lora_size: int = 1  # adapters trained together over one base
    targets: tuple[str, ...] | None = None  # leaf names of the adapted layers; None: every linear layer
    loss_chunk_bytes: int = 64 << 20  # float32 logits of one chunk
    keeps_initial_weights: bool = False  # a copy of the initial weights stays on the device, for l2_sp and norm_ball
    replays: bool = False  # a step has replayed blocks beside its batch
    kept_copies: int = 0  # copies of the trained weights that early_stop and wise_ft keep in host memory
    dropout: bool = False  # that of the base's config is on (full fine-tuning)
    large_cublas_workspace: bool = False  # cuBLAS on this card needs 32 MiB
