"""What one decoder layer allocates, for every family, in the order of transformers' modules."""

from __future__ import annotations

from collections.abc import Callable

from peftodyssey.memory.attention_memory import attention
from peftodyssey.memory.autograd_simulator import SimTensor
from peftodyssey.memory.dropout_memory import EVERYWHERE, FEED_FORWARD, dropped
from peftodyssey.memory.layer_parts import Layer
from peftodyssey.memory.op_memory import (
    OpContext,
    add,
    elementwise,
    free_inputs,
    gated_product,
    layer_norm,
    olmo_layer_norm,
    python_gelu,
    rms_norm,
)
from peftodyssey.model_shape import ModelShape

LAYER_NORM = frozenset(["gpt2", "gpt_neox", "phi", "stablelm", "starcoder2", "olmo"])  # the others use RMSNorm
PYTHON_GELU = frozenset(["gpt2", "phi", "starcoder2"])
PRE_AND_POST_NORM = frozenset(["gemma2", "gemma3_text"])  # a norm before and after attention and feed-forward
POST_NORM = frozenset(["olmo2"])  # norms only after attention and feed-forward
PARALLEL = frozenset(["gpt_neox", "phi"])  # attention and feed-forward read the same input


def decoder_layer(layer: Layer, x: SimTensor, mlp: Callable[[SimTensor], SimTensor] | None = None) -> SimTensor:
    """The layer's output; `x` is freed. `mlp` replaces the feed-forward where that is checkpointed."""
    ctx, family = layer.ctx, layer.shape.family
    mlp = mlp or (lambda tensor: feed_forward(layer, tensor))
    pre_norm = family not in POST_NORM
    post_norm = family in PRE_AND_POST_NORM or not pre_norm
    normed = _layer_norm(layer, x, 1) if pre_norm else x
    attended = attention(layer, normed)
    if pre_norm:
        normed.release()
    attended = _dropped(layer, attended, EVERYWHERE)
    if post_norm:
        attended = free_inputs(_layer_norm(layer, attended, 2), attended)
    if family in PARALLEL:
        fed = _dropped(layer, mlp(_layer_norm(layer, x, 3)), EVERYWHERE)
        both = free_inputs(add(ctx, attended, fed), attended, fed)
        return free_inputs(add(ctx, both, x), both, x)
    middle = free_inputs(add(ctx, x, attended), x, attended)
    fed = mlp(_layer_norm(layer, middle, 3) if pre_norm else middle.alias())
    fed = _dropped(layer, fed, EVERYWHERE | FEED_FORWARD)
    if post_norm:
        fed = free_inputs(_layer_norm(layer, fed, 4), fed)
    return free_inputs(add(ctx, middle, fed), middle, fed)


def _dropped(layer: Layer, x: SimTensor, families: frozenset[str]) -> SimTensor:
    """`x` after the dropout that `families` apply there."""
    applies = layer.dropout and layer.shape.hidden_dropout and layer.shape.family in families
    return free_inputs(dropped(layer.ctx, x), x) if applies else x


def _layer_norm(layer: Layer, x: SimTensor, number: int) -> SimTensor:
    return norm(layer.ctx, layer.shape, x, f"{layer.name}.norm{number}")


def norm(ctx: OpContext, shape: ModelShape, x: SimTensor, name: str) -> SimTensor:
    """The family's norm over the hidden size."""
    if shape.family == "olmo":
        return olmo_layer_norm(ctx, x, name, shape.hidden)
    return (layer_norm if shape.family in LAYER_NORM else rms_norm)(ctx, x, name, shape.hidden)


def feed_forward(layer: Layer, x: SimTensor) -> SimTensor:
    """The feed-forward's two or three linear layers and the activation between them; `x` is freed."""
    ctx = layer.ctx
    products = [layer.linear(x, linear) for linear in layer.linears.up_projs]
    joint = products[0]
    if layer.shape.gated:
        if len(products) == 1:  # gate and up are one linear layer: two views of its product
            products = [joint.alias(joint.numel // 2), joint.alias(joint.numel // 2)]
            joint.release()
        inner = free_inputs(gated_product(ctx, *products), *products)
    elif layer.shape.family in PYTHON_GELU and not ctx.native:
        inner = free_inputs(python_gelu(ctx, joint), joint)
    else:
        inner = free_inputs(elementwise(ctx, joint, (joint.storage,)), joint)
    return free_inputs(layer.linear(inner, layer.linears.down_proj), inner, x)
