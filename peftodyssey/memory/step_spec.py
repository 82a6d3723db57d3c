"""What a training step is made of, as far as memory goes: plain data. Read by all of `plan`."""

from __future__ import annotations

from dataclasses import dataclass

from peftodyssey.recipe.cell import QuantSpec

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True)
class StepSpec:
    """What a training step is made of, as far as memory goes."""

    precision: str  # fp32 | bf16 | fp16
    quant: QuantSpec | None
    trainable: int  # numbers trained
    full: bool  # the weights themselves are trained
    adapter_rank: int  # 0 where there is no adapter
    seq_len: int  # tokens
    micro_batch_size: int
    gradient_checkpointing: str  # none | selective | full
    engine: str  # own | trl | stock
    device: str  # cpu | cuda
    optimizer: str = "adamw"  # adamw | adamw8bit
    master: str = "fp32"  # fp32 | bf16: the type in which trained weights are kept
    offload_activations: bool = False  # the inputs of recomputed layers wait in pinned host memory
    offload_optimizer: bool = False  # gradients and optimiser states live in pinned host memory
    accumulates: bool = False  # several micro-batches a step: gradients are there from the second on
    packed: bool = False  # several documents a block: attention takes a mask of seq_len x seq_len
    multi_lora_size: int = 1  # adapters trained together over one base
    targets: tuple[str, ...] | None = None  # leaf names of the adapted matrices; None: every linear map of the layers
    loss_chunk_bytes: int = 64 << 20  # float32 logits alive at a time
    keeps_initial_weights: bool = (
        False  # a copy of the trained weights' start stays on the device, for l2_sp and norm_ball
    )
    replays: bool = False  # a step has general blocks beside the batch's own
    kept_copies: int = 0  # copies of the trained weights that early_stop and wise_ft keep in host memory
    large_cublas_workspace: bool = False  # the card's cuBLAS takes a larger workspace
