"""What the language-model loss allocates: the native engine's chunked loss, and transformers' over all logits."""

from __future__ import annotations

from peftodyssey.memory.autograd_simulator import Grads, SimTensor, Storage
from peftodyssey.memory.op_memory import OpContext
from peftodyssey.memory.step_spec import BYTES, StepSpec
from peftodyssey.model_shape import ModelShape

TERM = "logits and loss"
MIN_CHUNK_ROWS = 16


def chunked_loss(ctx: OpContext, shape: ModelShape, step: StepSpec, hidden: SimTensor) -> SimTensor:
    """The native engine's: the forward pass computes the gradients too; it holds a chunk of the logits at a time."""
    tape, itemsize = ctx.tape, BYTES[step.precision]
    tokens, head_numel = hidden.numel // shape.hidden, shape.vocabulary * shape.hidden
    head_copy = tape.alloc(head_numel if ctx.autocast and step.full else 0, itemsize, TERM)
    grad_hidden = tape.alloc(hidden.numel, hidden.itemsize, TERM)
    grad_head = tape.alloc(head_numel if step.full else 0, 4, TERM)
    rows = max(MIN_CHUNK_ROWS, step.loss_chunk_bytes // (4 * shape.vocabulary))
    for begin in range(0, tokens, rows):
        _loss_chunk(ctx, shape, step, min(rows, tokens - begin))
    head_copy.release()

    def backward(grad: Storage) -> Grads:
        scaled_grad = tape.alloc(hidden.numel, hidden.itemsize)
        if step.full:
            tape.transient(4 * head_numel, term=TERM)
            _head_grad(ctx, shape)
        return [scaled_grad]

    loss = tape.record([hidden], tape.tensor(1, 4), backward, [grad_hidden, grad_head], trains=step.full)
    tape.free(grad_hidden, grad_head)
    return loss


def _loss_chunk(ctx: OpContext, shape: ModelShape, step: StepSpec, rows: int) -> None:
    """Logits, their copy in fp32, their gradient in the narrow type, and the gradients of head and hidden states."""
    tape, itemsize = ctx.tape, BYTES[step.precision]
    numel = rows * shape.vocabulary
    logits = tape.alloc(numel, itemsize, TERM)
    if itemsize < 4:
        wide = tape.alloc(numel, 4, TERM)
        logits.release()
        logits = tape.alloc(numel, itemsize, TERM)
        wide.release()
    tape.transient(rows * shape.hidden * itemsize, term=TERM)
    if step.full:
        tape.transient(shape.vocabulary * shape.hidden * (itemsize if itemsize < 4 else 0), term=TERM)
    logits.release()


def transformers_loss(ctx: OpContext, shape: ModelShape, step: StepSpec, hidden: SimTensor) -> SimTensor:
    """transformers': all logits, their copy in fp32, its log-softmax, and in backward the gradient twice."""
    tape, itemsize = ctx.tape, BYTES[step.precision]
    numel = hidden.numel // shape.hidden * shape.vocabulary
    head_numel = shape.vocabulary * shape.hidden
    head_copy = tape.alloc(head_numel if step.full and ctx.autocast else 0, itemsize, "weight copies")
    logits = tape.alloc(numel, itemsize, TERM)
    wide = tape.alloc(numel if itemsize < 4 else 0, 4, TERM)
    log_softmax = tape.alloc(numel, 4, TERM)
    wide.release()
    logits.release()

    def backward(grad: Storage) -> Grads:
        grad_log_softmax = tape.alloc(numel, 4, TERM)
        grad_logits = tape.alloc(numel, 4, TERM)
        grad_log_softmax.release()
        log_softmax.release()
        if itemsize < 4:
            wide_grad, grad_logits = grad_logits, tape.alloc(numel, itemsize, TERM)
            wide_grad.release()
        grad_hidden = tape.alloc(hidden.numel, hidden.itemsize)
        if step.full:
            _head_grad(ctx, shape)
        grad_logits.release()
        return [grad_hidden]

    saved = [hidden.storage, head_copy] if step.full else []
    loss = tape.record([hidden], tape.tensor(1, 4), backward, saved, trains=step.full)
    head_copy.release()
    return loss


def _head_grad(ctx: OpContext, shape: ModelShape) -> None:
    """The head's gradient; that of a tied head is added to the embedding's."""
    ctx.accumulate_grad("embedding" if shape.tied else "head", shape.vocabulary * shape.hidden)
