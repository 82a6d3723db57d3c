"""One decoder layer of every family as lifetimes, in the order of transformers' modules. Called by `plan.program`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peftodyssey.constants import CHUNK_BYTES, MIN_VARLEN_TOKENS_CPU
from peftodyssey.memory.autograd_simulator import Grads, Storage, Var
from peftodyssey.memory.linear_memory import linear
from peftodyssey.memory.op_memory import (
    OpContext,
    add,
    cast,
    composed_gelu,
    gated_product,
    layer_norm,
    rms_norm,
    same_size,
    wide_layer_norm,
)
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.model_shape import LinearShape, ModelShape
from peftodyssey.models.shape_from_config import FAMILIES

LAYER_NORMS = frozenset(["gpt2", "gpt_neox", "phi", "stablelm", "starcoder2", "olmo"])
COMPOSED_GELU = frozenset(["gpt2", "phi", "starcoder2"])
SANDWICHED = frozenset(["gemma2", "gemma3_text"])  # a norm after each half as well
NORMED_AFTER = frozenset(["olmo2"])  # norms after the halves only
HEAD_NORMS = frozenset(["qwen3", "gemma3_text", "olmo2"])  # queries and keys are normalised
PARALLEL = frozenset(["gpt_neox", "phi"])  # attention and feed-forward read the same input
ROTARY = {"gpt2": 0.0, "gpt_neox": 0.25, "phi": 0.5, "stablelm": 0.25}  # share of a head that is rotated; else all
EAGER = "gemma2"  # transformers gives it no fused attention
SHORT_DOCUMENT = (
    512  # tokens; a kernel's own buffers grow by 128 rows a document, and are planned for documents of this length
)
LEAN_ROTATION = frozenset(
    ["llama", "mistral", "qwen2", "qwen3", "olmo2"]
)  # whose attention `models.lean_attention` knows
OUT_PROJECTIONS = frozenset(["o_proj", "dense", "c_proj"])


@dataclass(frozen=True)
class Shape:
    """The micro-batch: `blocks` of `seq_len` tokens, and what the attention kernel does with it."""

    blocks: int
    seq_len: int
    masked: bool  # several documents a block: a mask of seq_len x seq_len
    ends: bool  # attention is told where documents end, and takes and gives its tensors by token
    documents: int  # that a CUDA kernel is told of; 0 where it takes rows
    kernel_workspace: bool  # a CUDA kernel's own buffers are counted

    @property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return self.blocks * self.seq_len


def shape_of(anatomy: ModelShape, step: StepSpec, kernel_workspace: bool) -> Shape:
    """The micro-batch of a step: known families are told documents by their ends, in bf16 on a card, in long rows on a
    CPU.
    """
    blocks = step.micro_batch_size * step.multi_lora_size
    on_card = step.device == "cuda"
    ends = (
        step.engine == "native"
        and anatomy.family in FAMILIES
        and anatomy.family != EAGER
        and (step.precision == "bf16" if on_card else step.seq_len >= MIN_VARLEN_TOKENS_CPU)
    )
    documents = 2 * max(blocks, blocks * step.seq_len // SHORT_DOCUMENT if step.packed else 0)  # up to a power of two
    return Shape(
        blocks, step.seq_len, step.packed and not ends, ends, documents if ends and on_card else 0, kernel_workspace
    )


@dataclass(frozen=True)
class LayerParts:
    """The matrices of one layer by their place, and the rank of each one's adapter (0: none)."""

    reads: tuple[LinearShape, ...]  # queries, keys, values; or one for all three
    out: LinearShape
    ups: tuple[LinearShape, ...]  # gate and up; or one
    down: LinearShape
    ranks: dict[str, int]


def parts_of(anatomy: ModelShape, layer: int, rank: int, targets: tuple[str, ...] | None) -> LayerParts:
    """The parts of a layer, adapters of `rank` on the matrices whose leaf name is in `targets` (None: all)."""
    matrices = [m for m in anatomy.linears if m.layer == layer]
    feed = [m for m in matrices if ".mlp." in m.name]
    attention = [m for m in matrices if ".mlp." not in m.name]
    out = next(m for m in attention if m.leaf in OUT_PROJECTIONS)
    ranks = {m.name: rank for m in matrices if targets is None or m.leaf in targets}
    return LayerParts(tuple(m for m in attention if m is not out), out, tuple(feed[:-1]), feed[-1], ranks)


def layer(
    math: OpContext,
    anatomy: ModelShape,
    parts: LayerParts,
    shape: Shape,
    x: Var,
    name: str,
    feed: Callable[[Var], Var] | None = None,
) -> Var:
    """The layer's output; `x` is dropped. `feed` stands for the feed-forward where that is recomputed."""
    feed = feed or (lambda v: feed_forward(math, anatomy, parts, v))
    family = anatomy.family
    before = family not in NORMED_AFTER
    read = norm(math, anatomy, x, f"{name}.norm1") if before else x
    attended = attention(math, anatomy, parts, shape, read, name)
    if before:
        read.drop()
    if family in SANDWICHED or not before:
        attended = _replaced(norm(math, anatomy, attended, f"{name}.norm2"), attended)
    if family in PARALLEL:
        fed_on = norm(math, anatomy, x, f"{name}.norm3")
        fed = feed(fed_on)
        both = _replaced(add(math, attended, fed), attended, fed)
        return _replaced(add(math, both, x), both, x)
    middle = _replaced(add(math, x, attended), x, attended)
    read = norm(math, anatomy, middle, f"{name}.norm3") if before else middle
    fed = feed(read if before else Var(read.storage.hold(), read.numbers, read.width, read.node, read.needs_grad))
    if family in SANDWICHED or not before:
        fed = _replaced(norm(math, anatomy, fed, f"{name}.norm4"), fed)
    return _replaced(add(math, middle, fed), middle, fed)


def _replaced(new: Var, *old: Var) -> Var:
    for var in old:
        var.drop()
    return new


def norm(math: OpContext, anatomy: ModelShape, x: Var, name: str) -> Var:
    """The family's norm over the hidden size."""
    if anatomy.family == "olmo":
        return wide_layer_norm(math, x, name, anatomy.hidden)
    return (layer_norm if anatomy.family in LAYER_NORMS else rms_norm)(math, x, name, anatomy.hidden)


def attention(math: OpContext, anatomy: ModelShape, parts: LayerParts, shape: Shape, x: Var, name: str) -> Var:
    """Queries, keys and values, their rotation, the fused attention kernel and the output map."""
    if math.lean and anatomy.family in LEAN_ROTATION:
        query, key, value = _lean_reads(math, anatomy, parts, x, name)
    else:
        query, key, value = _reads(math, anatomy, parts, shape, x, name)
    mixed = _attended(math, anatomy, shape, query, key, value)
    if 0.0 < ROTARY.get(anatomy.family, 1.0) < 1.0 and not shape.ends:
        mixed = _replaced(same_size(math, mixed), mixed)  # put together by head, laid out by token again
    out = linear(math, mixed, parts.out, parts.ranks.get(parts.out.name, 0))
    for var in (mixed, query, key, value):
        var.drop()
    return out


def _reads(math: OpContext, anatomy: ModelShape, parts: LayerParts, shape: Shape, x: Var, name: str) -> Sequence[Var]:
    """Queries, keys and values; then norms and rotations."""
    made = [linear(math, x, m, parts.ranks.get(m.name, 0)) for m in parts.reads]
    if len(made) == 1:
        made = _split(math, anatomy, made[0], shape.tokens)
    query, key, value = made
    if anatomy.family in HEAD_NORMS:
        query = _replaced(rms_norm(math, query, f"{name}.q_norm", anatomy.head_dim), query)
        key = _replaced(rms_norm(math, key, f"{name}.k_norm", anatomy.head_dim), key)
    if share := ROTARY.get(anatomy.family, 1.0):
        query = _replaced(_rotated(math, query, share), query)
        key = _replaced(_rotated(math, key, share), key)
        query, key = (_replaced(cast(math, v, math.width), v) for v in (query, key))
    return query, key, value


def _lean_reads(math: OpContext, anatomy: ModelShape, parts: LayerParts, x: Var, name: str) -> Sequence[Var]:
    """Queries, then keys, each normalised and rotated before the next product is made; then values."""
    made = []
    for matrix, norm in zip(parts.reads, ("q_norm", "k_norm", None), strict=True):
        var = linear(math, x, matrix, parts.ranks.get(matrix.name, 0))
        if norm and anatomy.family in HEAD_NORMS:
            var = _replaced(rms_norm(math, var, f"{name}.{norm}", anatomy.head_dim), var)
        made.append(_replaced(_lean_rotated(math, var), var) if norm else var)
    return made


def _split(math: OpContext, anatomy: ModelShape, joint: Var, tokens: int) -> list[Var]:
    """Views of one product; their gradients are laid side by side again."""
    sizes = [tokens * anatomy.head_dim * heads for heads in (anatomy.heads, anatomy.kv_heads, anatomy.kv_heads)]
    views = [Var(joint.storage.hold(), size, joint.width) for size in sizes]
    joint.drop()

    def backward(grad: object) -> Grads:
        return [math.tape.make(joint.numbers, joint.width)]

    if joint.needs_grad:
        # one node for the three: its gradient is made when the last of them has come
        whole = math.tape.op([joint], joint.storage.hold(), joint.numbers, joint.width, backward)
        whole.drop()
        for view, size in zip(views, sizes, strict=True):
            node_view = math.tape.op([whole], joint.storage.hold(), size, joint.width, lambda g: [g.hold()])
            view.node, view.needs_grad = node_view.node, True
            node_view.drop()
    return views


def _rotated(math: OpContext, x: Var, share: float) -> Var:
    """x * cos + rotate_half(x) * sin, written out in Python; cos and sin have the residual stream's type."""
    tape, narrow, size = math.tape, int(x.numbers * x.width * share), int(x.numbers * math.stream * share)
    straight = tape.make(size, 1)
    half = tape.make(narrow // 2, 1)
    turned = tape.make(narrow, 1)
    half.drop()
    scaled = tape.make(size, 1)
    turned.drop()
    out = tape.make(size, 1)
    for storage in (straight, scaled):
        storage.drop()
    if share < 1:
        rotated, out = out, tape.make(x.numbers, math.stream)
        rotated.drop()

    def backward(grad: object) -> Grads:
        turned_grad = tape.make(size, 1)
        tape.transient(narrow // 2, narrow)
        made = tape.make(x.numbers, x.width)
        tape.transient(size)
        turned_grad.drop()
        return [made]

    return tape.op([x], out, x.numbers, math.stream, backward)


def _lean_rotated(math: OpContext, x: Var) -> Var:
    """A query or key rotated, some rows at a time."""

    def turned() -> Storage:
        out = math.tape.make(x.numbers, x.width)
        wide = min(x.numbers * math.stream, CHUNK_BYTES // 4 * math.stream)
        math.tape.transient(*([wide, wide, wide // 2] if math.stream > x.width else [wide // 2]))
        return out

    return math.tape.op([x], turned(), x.numbers, x.width, lambda grad: [turned()])


def _attended(math: OpContext, anatomy: ModelShape, shape: Shape, query: Var, key: Var, value: Var) -> Var:
    """The fused kernel: it keeps its inputs, its output and one number a token and head; never the scores."""
    tape, grouped = math.tape, anatomy.heads != anatomy.kv_heads
    if grouped and shape.masked:  # with a mask transformers repeats keys and values for every query head
        key, value = (_repeated(math, v, query.numbers) for v in (key, value))
    else:
        key, value = (Var(v.storage.hold(), v.numbers, v.width, v.node, v.needs_grad) for v in (key, value))
    out = tape.make(query.numbers, query.width)
    sums = tape.make(shape.tokens * anatomy.heads, 4)
    mask = tape.make(shape.blocks * shape.seq_len**2 if shape.masked else 0, math.width, "attention mask")

    def backward(grad: object) -> Grads:
        kernel = _kernel_bytes(anatomy, shape, query, grouped) if shape.kernel_workspace else 0
        made: Grads = [tape.make(v.numbers, v.width) for v in (query, key, value)]
        tape.transient(kernel)
        return made

    saved = [query.storage, key.storage, value.storage, out, sums, mask]
    result = tape.op([query, key, value], out, query.numbers, query.width, backward, saved)
    for storage in (sums, mask, key.storage, value.storage):
        storage.drop()
    return result


def _kernel_bytes(anatomy: ModelShape, shape: Shape, query: Var, grouped: bool) -> int:
    """FlashAttention 2's backward: fp32 sums of the query gradient and one number a token and head, rounded up."""
    rows = -(-shape.seq_len // 128) * 128 * shape.blocks * anatomy.heads
    if shape.documents:
        rows = (shape.tokens + 128 * shape.documents) * anatomy.heads
    columns = -(-anatomy.head_dim // 32) * 32
    expanded = 2 * query.numbers * query.width if grouped and not shape.masked else 0
    return rows * columns * 4 + rows * 4 + expanded


def _repeated(math: OpContext, x: Var, numbers: int) -> Var:
    out = math.tape.make(numbers, x.width)
    return math.tape.op([x], out, numbers, x.width, lambda g: [math.tape.make(x.numbers, x.width)])


def feed_forward(math: OpContext, anatomy: ModelShape, parts: LayerParts, x: Var) -> Var:
    """The two or three maps of the feed-forward and what is between them; `x` is dropped."""
    made = [linear(math, x, m, parts.ranks.get(m.name, 0)) for m in parts.ups]
    if anatomy.gated:
        if len(made) == 1:  # gate and up are one map: two views of its product
            made = [
                made[0],
                Var(made[0].storage.hold(), made[0].numbers // 2, made[0].width, made[0].node, made[0].needs_grad),
            ]
            made[0] = Var(made[0].storage, made[0].numbers // 2, made[0].width, made[0].node, made[0].needs_grad)
        inner = _replaced(gated_product(math, made[0], made[1]), *made)
    elif anatomy.family in COMPOSED_GELU and not math.lean:
        inner = _replaced(composed_gelu(math, made[0]), made[0])
    else:
        inner = _replaced(same_size(math, made[0], (made[0].storage,)), made[0])
    out = linear(math, inner, parts.down, parts.ranks.get(parts.down.name, 0))
    inner.drop()
    x.drop()
    return out
