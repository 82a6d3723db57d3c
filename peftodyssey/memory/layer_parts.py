"""What one decoder layer works on: its linear layers by role, and the micro-batch as attention sees it."""

from __future__ import annotations

from dataclasses import dataclass

from peftodyssey.constants import MIN_VARLEN_TOKENS_CPU
from peftodyssey.errors import ModelError
from peftodyssey.memory.autograd_simulator import SimTensor
from peftodyssey.memory.linear_memory import linear_layer
from peftodyssey.memory.op_memory import OpContext
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.model_shape import LinearShape, ModelShape
from peftodyssey.models.shape_from_config import FAMILIES

EAGER = "gemma2"  # transformers gives it no fused attention
SHORT_DOCUMENT_TOKENS = 512  # a kernel's buffers grow by 128 rows per document: planned for documents of this length
OUT_PROJECTIONS = frozenset(["o_proj", "dense", "c_proj"])


@dataclass(frozen=True)
class BatchShape:
    """The micro-batch: `blocks` of `seq_len` tokens, and what the attention kernel does with it."""

    blocks: int
    seq_len: int
    masked: bool  # several documents per block: a mask of seq_len x seq_len
    varlen: bool  # attention gets cu_seqlens, and its tensors are laid out by token
    documents: int  # in the cu_seqlens of a CUDA kernel; 0 where it works on rows
    kernel_workspace: bool  # a CUDA kernel's own buffers are counted

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.blocks * self.seq_len


def batch_shape(shape: ModelShape, step: StepSpec, kernel_workspace: bool) -> BatchShape:
    """The micro-batch of a step: known families get cu_seqlens, on a card in bf16, on a CPU for long rows."""
    blocks = step.micro_batch_size * step.multi_lora_size
    on_card = step.device == "cuda"
    varlen = (
        step.engine == "native"
        and not (step.dropout and shape.attention_dropout)
        and shape.family in FAMILIES
        and shape.family != EAGER
        and (step.precision == "bf16" if on_card else step.seq_len >= MIN_VARLEN_TOKENS_CPU)
    )
    documents = max(blocks, blocks * step.seq_len // SHORT_DOCUMENT_TOKENS if step.packed else 0)
    return BatchShape(
        blocks=blocks,
        seq_len=step.seq_len,
        masked=step.packed and not varlen,
        varlen=varlen,
        documents=2 * documents if varlen and on_card else 0,  # padded to a power of two
        kernel_workspace=kernel_workspace,
    )


@dataclass(frozen=True)
class LayerLinears:
    """The linear layers of one decoder layer by role, and the rank of each one's adapter (0: none)."""

    qkv: tuple[LinearShape, ...]  # queries, keys, values; or one for all three
    out_proj: LinearShape
    up_projs: tuple[LinearShape, ...]  # gate and up; or one
    down_proj: LinearShape
    ranks: dict[str, int]  # by module name


def layer_linears(shape: ModelShape, layer: int, rank: int, targets: tuple[str, ...] | None) -> LayerLinears:
    """The linear layers of layer `layer`, adapters of `rank` on those whose leaf name is in `targets` (None: all).

    Raises ModelError for layers that are not attention and one feed-forward: experts, state-space and other mixers.
    """
    linears = [linear for linear in shape.linears if linear.layer == layer]
    mlp = [linear for linear in linears if ".mlp." in linear.name]
    attention = [linear for linear in linears if ".mlp." not in linear.name]
    out_proj = next((linear for linear in attention if linear.leaf in OUT_PROJECTIONS), None)
    if out_proj is None or not mlp:
        there = ", ".join(dict.fromkeys(linear.leaf for linear in linears)) or "none"
        raise ModelError(
            f"the memory of family {shape.family!r} cannot be planned: its decoder layer {layer} is not attention and "
            f"one feed-forward of linear layers (linear layers there: {there})",
            "experts, state-space layers and other mixers can be scored (`peftodyssey score`), not trained",
        )
    ranks = {linear.name: rank for linear in linears if targets is None or linear.leaf in targets}
    qkv = tuple(linear for linear in attention if linear is not out_proj)
    return LayerLinears(qkv, out_proj, tuple(mlp[:-1]), mlp[-1], ranks)


@dataclass(frozen=True)
class Layer:
    """One decoder layer on one micro-batch."""

    ctx: OpContext
    shape: ModelShape
    batch: BatchShape
    linears: LayerLinears
    name: str
    dropout: bool = False  # that of the base's config is on

    def linear(self, x: SimTensor, linear: LinearShape) -> SimTensor:
        """One of its linear layers with its adapter."""
        return linear_layer(self.ctx, x, linear, self.linears.ranks.get(linear.name, 0))
