"""What the attention of one decoder layer allocates, for every family, in the order of transformers' modules."""

from __future__ import annotations

from peftodyssey.constants import CHUNK_BYTES
from peftodyssey.memory.autograd_simulator import Grads, SimTensor, Storage
from peftodyssey.memory.dropout_memory import attention_with_dropout
from peftodyssey.memory.layer_parts import Layer
from peftodyssey.memory.op_memory import OpContext, cast, elementwise, free_inputs, rms_norm

QK_NORMS = frozenset(["qwen3", "gemma3_text", "olmo2"])  # queries and keys are normalised
ROTARY_SHARE = {"gpt2": 0.0, "gpt_neox": 0.25, "phi": 0.5, "stablelm": 0.25}  # of a head that is rotated; else all
FUSED_ROPE = frozenset(["llama", "mistral", "qwen2", "qwen3", "olmo2"])  # those of `models.fused_rope_attention`


def attention(layer: Layer, x: SimTensor) -> SimTensor:
    """Queries, keys and values, their rotation, the fused attention kernel and the output projection."""
    family = layer.shape.family
    drops = layer.dropout and layer.shape.attention_dropout and layer.ctx.native
    query, key, value = (_fused_rope_qkv if layer.ctx.native and family in FUSED_ROPE and not drops else _qkv)(layer, x)
    mixed = (attention_with_dropout if drops else _scaled_dot_product)(layer, query, key, value)
    if 0.0 < ROTARY_SHARE.get(family, 1.0) < 1.0 and not layer.batch.varlen:
        mixed = free_inputs(elementwise(layer.ctx, mixed), mixed)  # concatenated by head: copied to the order of tokens
    return free_inputs(layer.linear(mixed, layer.linears.out_proj), mixed, query, key, value)


def _qkv(layer: Layer, x: SimTensor) -> list[SimTensor]:
    """Queries, keys and values; then norms and rotations."""
    ctx, head_dim = layer.ctx, layer.shape.head_dim
    products = [layer.linear(x, linear) for linear in layer.linears.qkv]
    query, key, value = products if len(products) == 3 else _split(layer, products[0])
    if layer.shape.family in QK_NORMS:
        query = free_inputs(rms_norm(ctx, query, f"{layer.name}.q_norm", head_dim), query)
        key = free_inputs(rms_norm(ctx, key, f"{layer.name}.k_norm", head_dim), key)
    if share := ROTARY_SHARE.get(layer.shape.family, 1.0):
        query = free_inputs(_rotated(ctx, query, share), query)
        key = free_inputs(_rotated(ctx, key, share), key)
        query, key = (free_inputs(cast(ctx, tensor, ctx.itemsize), tensor) for tensor in (query, key))
    return [query, key, value]


def _fused_rope_qkv(layer: Layer, x: SimTensor) -> list[SimTensor]:
    """Queries, then keys, each normalised and rotated before the next product is computed; then values."""
    ctx, results = layer.ctx, []
    for linear, norm in zip(layer.linears.qkv, ("q_norm", "k_norm", None), strict=True):
        tensor = layer.linear(x, linear)
        if norm and layer.shape.family in QK_NORMS:
            tensor = free_inputs(rms_norm(ctx, tensor, f"{layer.name}.{norm}", layer.shape.head_dim), tensor)
        results.append(free_inputs(_fused_rotated(ctx, tensor), tensor) if norm else tensor)
    return results


def _split(layer: Layer, joint: SimTensor) -> list[SimTensor]:
    """Views of one product; their gradients are concatenated again."""
    tape, shape = layer.ctx.tape, layer.shape
    sizes = [layer.batch.tokens * shape.head_dim * heads for heads in (shape.heads, shape.kv_heads, shape.kv_heads)]
    views = [joint.detach(size) for size in sizes]
    joint.release()
    if joint.requires_grad:
        # one node for the three: its gradient is allocated when the last of them has come
        node = tape.record([joint], joint.detach(), lambda grad: [tape.alloc(joint.numel, joint.itemsize)])
        node.release()
        for view in views:
            tape.record([node], view, lambda grad: [grad.retain()])
    return views


def _rotated(ctx: OpContext, x: SimTensor, share: float) -> SimTensor:
    """x * cos + rotate_half(x) * sin in Python operations; cos and sin have the residual stream's type."""
    tape = ctx.tape
    narrow_bytes, wide_bytes = int(x.numel * x.itemsize * share), int(x.numel * ctx.residual_itemsize * share)
    straight = tape.alloc(wide_bytes, 1)
    negated_half = tape.alloc(narrow_bytes // 2, 1)
    rotated_half = tape.alloc(narrow_bytes, 1)
    negated_half.release()
    crossed = tape.alloc(wide_bytes, 1)
    rotated_half.release()
    rotated = tape.alloc(wide_bytes, 1)
    tape.free(straight, crossed)
    output = SimTensor(rotated, x.numel, ctx.residual_itemsize)
    if share < 1:
        output = tape.tensor(x.numel, ctx.residual_itemsize)
        rotated.release()

    def backward(grad: Storage) -> Grads:
        grad_rotated_half = tape.alloc(wide_bytes, 1)
        tape.transient(narrow_bytes // 2, narrow_bytes)
        grad_x = tape.alloc(x.numel, x.itemsize)
        tape.transient(wide_bytes)
        grad_rotated_half.release()
        return [grad_x]

    return tape.record([x], output, backward)


def _fused_rotated(ctx: OpContext, x: SimTensor) -> SimTensor:
    """A query or key rotated by the native engine, some rows at a time."""

    def rotate() -> Storage:
        output = ctx.tape.alloc(x.numel, x.itemsize)
        wide_bytes = min(x.numel, CHUNK_BYTES // 4) * ctx.residual_itemsize
        buffers = [wide_bytes, wide_bytes] if ctx.residual_itemsize > x.itemsize else []
        ctx.tape.transient(*buffers, wide_bytes // 2)
        return output

    return ctx.tape.record([x], SimTensor(rotate(), x.numel, x.itemsize), lambda grad: [rotate()])


def _scaled_dot_product(layer: Layer, query: SimTensor, key: SimTensor, value: SimTensor) -> SimTensor:
    """The fused kernel: it saves its inputs, its output and one number per token and head, never the scores."""
    tape, batch, heads = layer.ctx.tape, layer.batch, layer.shape.heads
    if batch.masked and heads != layer.shape.kv_heads:  # transformers repeats keys and values for every query head
        key, value = (_repeated(layer.ctx, tensor, query.numel) for tensor in (key, value))
    else:
        key, value = key.alias(), value.alias()
    output = tape.tensor(query.numel, query.itemsize)
    log_sum_exp = tape.alloc(batch.tokens * heads, 4)
    mask = tape.alloc(batch.blocks * batch.seq_len**2 if batch.masked else 0, layer.ctx.itemsize, "attention mask")

    def backward(grad: Storage) -> Grads:
        grads = [tape.alloc(tensor.numel, tensor.itemsize) for tensor in (query, key, value)]
        tape.transient(_kernel_bytes(layer, query) if batch.kernel_workspace else 0)
        return grads

    saved = [query.storage, key.storage, value.storage, output.storage, log_sum_exp, mask]
    tape.record([query, key, value], output, backward, saved)
    tape.free(log_sum_exp, mask, key.storage, value.storage)
    return output


def _kernel_bytes(layer: Layer, query: SimTensor) -> int:
    """FlashAttention 2's backward: fp32 sums of the query gradient and one number per token and head, rounded up."""
    batch, shape = layer.batch, layer.shape
    rows = -(-batch.seq_len // 128) * 128 * batch.blocks * shape.heads
    if batch.documents:
        rows = (batch.tokens + 128 * batch.documents) * shape.heads
    columns = -(-shape.head_dim // 32) * 32
    grouped = shape.heads != shape.kv_heads and not batch.masked
    return rows * columns * 4 + rows * 4 + (2 * query.numel * query.itemsize if grouped else 0)


def _repeated(ctx: OpContext, x: SimTensor, numel: int) -> SimTensor:
    output = ctx.tape.tensor(numel, x.itemsize)
    return ctx.tape.record([x], output, lambda grad: [ctx.tape.alloc(x.numel, x.itemsize)])
