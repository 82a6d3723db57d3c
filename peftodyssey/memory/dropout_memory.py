"""What dropout of a base's config allocates: masks of hidden states and of attention probabilities."""

from __future__ import annotations

from peftodyssey.memory.autograd_simulator import Grads, SimTensor, Storage
from peftodyssey.memory.layer_parts import Layer
from peftodyssey.memory.op_memory import OpContext, cast, elementwise, free_inputs

EVERYWHERE = frozenset(["gpt2", "gpt_neox", "phi"])  # families that drop embeddings, attention and feed-forward outputs
FEED_FORWARD = frozenset(["stablelm"])  # those that drop the feed-forward's output only


def dropped(ctx: OpContext, x: SimTensor) -> SimTensor:
    """Elements zeroed and the others scaled up; a mask of the tensor's type is kept. The native engine draws a mask of
    booleans for each row first.
    """
    tape = ctx.tape
    booleans = [tape.alloc(x.numel, 1, "workspace")] if ctx.native else []
    if ctx.native:
        booleans.append(tape.alloc(x.numel, 1, "workspace"))
        booleans.pop(0).release()
    mask = tape.alloc(x.numel, x.itemsize if ctx.native else 1)
    output = elementwise(ctx, x, (mask,))
    tape.free(mask, *booleans)
    return output


def attention_with_dropout(layer: Layer, query: SimTensor, key: SimTensor, value: SimTensor) -> SimTensor:
    """Scores and probabilities of all pairs of tokens, as `models.attention_dropout` computes them."""
    ctx, batch, tape = layer.ctx, layer.batch, layer.ctx.tape
    pairs = batch.blocks * layer.shape.heads * batch.seq_len**2
    groups = layer.shape.heads // layer.shape.kv_heads
    key, value = (_repeated(ctx, x, query.numel) if groups > 1 else x.alias() for x in (key, value))
    straight = elementwise(ctx, query)
    scaled = free_inputs(elementwise(ctx, straight), straight)
    straight_key = free_inputs(elementwise(ctx, key), key)
    scores = free_inputs(_product(ctx, scaled, straight_key, pairs), scaled, straight_key)
    mask = tape.alloc((batch.blocks if batch.masked else 1) * batch.seq_len**2, 1, "attention mask")
    masked = free_inputs(_masked(ctx, scores, mask), scores)
    mask.release()
    wide = free_inputs(_softmax(ctx, masked), masked)
    narrow = free_inputs(cast(ctx, wide, ctx.itemsize), wide)
    kept = free_inputs(dropped(ctx, narrow), narrow)
    straight_value = free_inputs(elementwise(ctx, value), value)
    mixed = free_inputs(_product(ctx, kept, straight_value, query.numel), kept, straight_value)
    return free_inputs(elementwise(ctx, mixed), mixed)


def _repeated(ctx: OpContext, x: SimTensor, numel: int) -> SimTensor:
    return ctx.tape.record([x], ctx.tape.tensor(numel, x.itemsize), lambda grad: [ctx.tape.alloc(x.numel, x.itemsize)])


def _product(ctx: OpContext, left: SimTensor, right: SimTensor, numel: int) -> SimTensor:
    """A batched product; its backward computes one gradient after the other."""

    def backward(grad: Storage) -> Grads:
        return [ctx.tape.alloc(left.numel, left.itemsize), ctx.tape.alloc(right.numel, right.itemsize)]

    output = ctx.tape.tensor(numel, left.itemsize)
    return ctx.tape.record([left, right], output, backward, [left.storage, right.storage])


def _masked(ctx: OpContext, scores: SimTensor, mask: Storage) -> SimTensor:
    """Scores in place; the inverted mask is kept."""
    inverted = ctx.tape.alloc(mask.nbytes, 1, "attention mask")
    output = ctx.tape.record(
        [scores], scores.detach(), lambda grad: [ctx.tape.alloc(scores.numel, scores.itemsize)], [inverted]
    )
    inverted.release()
    return output


def _softmax(ctx: OpContext, scores: SimTensor) -> SimTensor:
    """In float32, which is kept for backward; narrower scores are cast to it, and their gradient back."""
    wide = cast(ctx, scores, 4)
    output = ctx.tape.tensor(scores.numel, 4)
    ctx.tape.record([wide], output, lambda grad: [ctx.tape.alloc(scores.numel, 4)], [output.storage])
    return free_inputs(output, wide)
