"""One training step from the weights to the update as lifetimes: what `plan.memory` adds up. No torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from peftodyssey.constants import SCORE_CHUNK_BYTES, SCORE_MIN_CHUNK_ROWS
from peftodyssey.memory.autograd_simulator import Grads, Storage, Tape, Var
from peftodyssey.memory.layer_memory import feed_forward, layer, norm, parts_of, shape_of
from peftodyssey.memory.op_memory import OpContext
from peftodyssey.memory.step_spec import BYTES, StepSpec
from peftodyssey.model_shape import LinearShape, ModelShape

SMALL_STATE_NUMBERS = 4096  # below, 8-bit optimisers keep fp32
STATE_BLOCK = 256  # numbers per constant of an 8-bit state
UPDATE_CHUNK_BYTES = 32 << 20  # fp32 temporaries of an update that is not torch's fused one


class Program:
    """Runs a step on a tape: what stands before it, its forward and backward passes, its update."""

    def __init__(self, anatomy: ModelShape, step: StepSpec, tape: Tape, kernel_workspace: bool) -> None:
        self.anatomy, self.step, self.tape = anatomy, step, tape
        own = step.engine == "native"
        width = BYTES[step.precision]
        masters = step.full and step.master == "fp32"
        self.math = OpContext(
            tape=tape,
            width=width,
            stream=4 if masters else width,
            lean=own,
            quant=step.quant,
            trains_base=step.full,
            autocast=(masters or step.engine == "trl") and width < 4,
            weight_width=4 if masters else width,
            host_gradients=step.offload_optimizer,
            members=step.multi_lora_size,
        )
        self.shape = shape_of(anatomy, step, kernel_workspace)
        self.tokens = self.shape.tokens

    @cached_property
    def rank(self) -> int:
        """The adapters' rank; for other methods the rank whose matrices hold as many numbers."""
        step = self.step
        if step.full or step.adapter_rank:
            return step.adapter_rank
        around = sum(m.in_features + m.out_features for m in self.anatomy.linears)
        return -(-step.trainable // around) if step.trainable else 0

    def allocate_persistent(self) -> None:
        """What is there before the first step: weights, adapters, optimiser states, the batch."""
        anatomy, tape = self.anatomy, self.tape
        width = 4 if self.step.full and self.step.master == "fp32" else BYTES[self.step.precision]
        tape.make(anatomy.embedding_parameters, width, "weights")
        tape.make(anatomy.head_parameters, width, "weights")
        tape.make(anatomy.norm_parameters, width, "weights")
        for matrix in anatomy.linears:
            self._weight(matrix, width)
            if matrix.bias:
                tape.make(matrix.out_features, width, "weights")
        sizes = [numbers for _, numbers in self._trained()]
        if self.step.multi_lora_size > 1:
            tape.transient(
                *[4 * numbers for numbers in sizes], term="adapters"
            )  # each member's own is drawn and taken off
            self._adapter_buckets(sum(sizes) * self.step.multi_lora_size)
        else:
            for numbers in sizes:
                tape.make(0 if self.step.full else numbers, 4, "adapters")
                tape.make(numbers if self.step.keeps_initial_weights else 0, 4, "start weights")
            if self.step.engine == "native":
                self._all_states(sizes)
        tape.make(self.tokens * 4, 8, "batch")
        tape.make(self.tokens * anatomy.head_dim * 2, BYTES[self.step.precision], "batch")  # cos and sin

    def _adapter_buckets(self, numbers: int) -> None:
        """A fleet's numbers, their copies in the narrow type, gradients that stay, and moments: one matrix each."""
        narrow = BYTES[self.step.precision]
        self.tape.make(numbers, 4, "adapters")
        self.tape.make(numbers if narrow < 4 else 0, narrow, "adapters")
        self.tape.make(numbers, 4, "gradients")
        self.tape.make(2 * numbers, 4, "optimiser states")

    def _weight(self, matrix: LinearShape, width: int) -> None:
        numbers, quant = matrix.in_features * matrix.out_features, self.step.quant
        if quant is None:
            self.tape.make(numbers, width, "weights")
        elif quant.kind == "int8":
            self.tape.make(numbers, 1, "weights")
            self.tape.make(matrix.out_features, 4, "weights")
        else:
            blocks = -(-numbers // 64)
            self.tape.make(-(-numbers // 2), 1, "weights")
            self.tape.make(blocks, 1 if quant.double_quant else 4, "weights")
            self.tape.make(16, 4, "weights")
            if quant.double_quant:
                for constants in (-(-blocks // 256), 256, 1):
                    self.tape.make(constants, 4, "weights")

    def _trained(self) -> list[tuple[str, int]]:
        """Name and size of every trained tensor."""
        anatomy = self.anatomy
        if self.step.full:
            rest = anatomy.embedding_parameters + anatomy.head_parameters + anatomy.norm_parameters
            biases = sum(m.out_features for m in anatomy.linears if m.bias)
            return [("rest", rest + biases), *((m.name, m.in_features * m.out_features) for m in anatomy.linears)]
        found = []
        for matrix in anatomy.linears:
            if self.step.targets is None or matrix.leaf in self.step.targets:
                found += [
                    (f"{matrix.name}.A", self.rank * matrix.in_features),
                    (f"{matrix.name}.B", self.rank * matrix.out_features),
                ]
        return found

    def _all_states(self, sizes: list[int]) -> None:
        step, make = self.step, self.tape.make
        for numbers in () if step.offload_optimizer else sizes:
            small = numbers < SMALL_STATE_NUMBERS
            width = 4 if step.master == "fp32" or not step.full or small else BYTES[step.precision]
            for _ in range(2):
                eight_bit = step.optimizer == "adamw8bit" and not small
                make(numbers, 1 if eight_bit else width, "optimiser states")
                make(-(-numbers // STATE_BLOCK) if eight_bit else 0, 4, "optimiser states")
            make(1, 4, "optimiser states")

    def run(self) -> None:
        """Forward, loss, backward, update: each twice where the second time differs.

        Gradients of an earlier micro-batch are there in the second; elsewhere the optimiser makes its states after the
        first backward pass, with the gradients still there.
        """

        def step() -> None:
            for _ in range(2 if self.step.accumulates else 1):
                self._pass()

        if self.step.engine != "native":
            step()
            self._all_states([numbers for _, numbers in self._trained()])
            self._update()
        step()
        self._update()

    def score(self) -> None:
        """A forward pass without gradients, and a chunk of logits in fp32 with what is computed from them."""
        self.tape.recording = False
        hidden = self._forward()
        rows = max(SCORE_MIN_CHUNK_ROWS, SCORE_CHUNK_BYTES[self.step.device] // (4 * self.anatomy.vocabulary))
        chunk = min(rows, self.tokens) * self.anatomy.vocabulary
        self.tape.transient(chunk * self.math.width, chunk * 4, chunk * 4, term="logits and loss")
        hidden.drop()

    def _forward(self) -> Var:
        tape, anatomy, math = self.tape, self.anatomy, self.math
        x = tape.op(
            [],
            tape.make(self.tokens * anatomy.hidden, math.stream),
            self.tokens * anatomy.hidden,
            math.stream,
            self._embedding_backward,
            trains=self.step.full,
        )
        for number in range(anatomy.layers):
            x = self._layer(number, x)
        normed = norm(math, anatomy, x, "norm")
        x.drop()
        return normed

    def _pass(self) -> None:
        tape = self.tape
        self.math.casts = []
        normed = self._forward()
        loss = self._own_loss(normed) if self.step.engine == "native" else self._stock_loss(normed)
        normed.drop()
        for copy in self.math.casts:
            copy.drop()
        self.math.casts = None  # what a backward pass computes again casts for itself
        root = tape.make(1, 4)
        loss.drop()
        for grad in tape.backward(loss, root).values():
            grad.drop()

    def _embedding_backward(self, grad: Storage) -> Grads:
        anatomy = self.anatomy
        if self.step.full:
            self.math.gradient("embedding", anatomy.embedding_parameters)
        return []

    def _layer(self, number: int, x: Var) -> Var:
        anatomy, math, step = self.anatomy, self.math, self.step
        parts, name = parts_of(anatomy, number, self.rank, step.targets), f"layer{number}"
        if step.gradient_checkpointing == "full":
            return self._checkpointed(
                x, lambda v: layer(math, anatomy, parts, self.shape, v, name), step.offload_activations
            )
        if step.gradient_checkpointing == "selective":
            feed: Callable[[Var], Var] = lambda v: self._checkpointed(
                v, lambda w: feed_forward(math, anatomy, parts, w), False
            )
            return layer(math, anatomy, parts, self.shape, x, name, feed)
        return layer(math, anatomy, parts, self.shape, x, name)

    def _checkpointed(self, x: Var, run: Callable[[Var], Var], offloaded: bool) -> Var:
        """`run` without keeping anything but its input, and again with everything when the gradient comes back."""
        tape = self.tape
        recording, tape.recording = tape.recording, False
        inner = Var(x.storage.hold(), x.numbers, x.width)
        made = run(inner)
        tape.recording = recording
        kept = tape.make(0, 1) if offloaded else x.storage.hold()

        def backward(grad: Storage) -> Grads:
            start = tape.make(x.numbers, x.width) if offloaded else x.storage.hold()
            inner = Var(start, x.numbers, x.width, None, x.needs_grad)
            until = len(tape.nodes)
            again = run(inner)
            again.storage.drop()
            grads = tape.backward(again, grad.hold(), until)
            found = grads.pop(inner, None)
            for other in grads.values():
                other.drop()
            return [found]

        trains = self.rank > 0 or self.step.full
        out = tape.op([x], made.storage.hold(), made.numbers, made.width, backward, [kept], trains=trains)
        made.drop()
        kept.drop()
        x.drop()
        return out

    def _own_loss(self, hidden: Var) -> Var:
        """The chunked loss: gradients by the hidden states are there when its forward ends; logits a chunk at a time."""
        tape, anatomy, step = self.tape, self.anatomy, self.step
        numbers, narrow = hidden.numbers, BYTES[step.precision]
        head = anatomy.vocabulary * anatomy.hidden
        copy = tape.make(head if self.math.autocast and step.full else 0, narrow, "logits and loss")
        grad_hidden = tape.make(numbers, hidden.width, "logits and loss")
        grad_head = tape.make(head if step.full else 0, 4, "logits and loss")
        rows = max(16, step.loss_chunk_bytes // (4 * anatomy.vocabulary))
        for begin in range(0, self.tokens, rows):
            self._loss_chunk(min(rows, self.tokens - begin), narrow)
        copy.drop()

        def backward(grad: Storage) -> Grads:
            made = tape.make(numbers, hidden.width)
            if step.full:
                tape.transient(4 * head, term="logits and loss")
                self._head_gradient(head)
            return [made]

        loss = tape.op([hidden], tape.make(1, 4), 1, 4, backward, [grad_hidden, grad_head], trains=step.full)
        for storage in (grad_hidden, grad_head):
            storage.drop()
        return loss

    def _loss_chunk(self, rows: int, narrow: int) -> None:
        """Logits, the same in fp32, their gradient in the narrow type, its products with the head and the hidden
        states.
        """
        tape, anatomy, term = self.tape, self.anatomy, "logits and loss"
        chunk = rows * anatomy.vocabulary
        logits = tape.make(chunk, narrow, term)
        if narrow < 4:
            wide = tape.make(chunk, 4, term)
            logits.drop()
            logits = tape.make(chunk, narrow, term)
            wide.drop()
        tape.transient(rows * anatomy.hidden * narrow, term=term)
        if self.step.full:
            tape.transient(anatomy.vocabulary * anatomy.hidden * (narrow if narrow < 4 else 0), term=term)
        logits.drop()

    def _stock_loss(self, hidden: Var) -> Var:
        """transformers' loss: all logits, again in fp32, their log-softmax, and in backward its gradient twice."""
        tape, step, numbers = self.tape, self.step, self.tokens * self.anatomy.vocabulary
        narrow = BYTES[step.precision]
        head = self.anatomy.vocabulary * self.anatomy.hidden
        term = "logits and loss"
        copy = tape.make(head if step.full and self.math.autocast else 0, narrow, "weight copies")
        logits = tape.make(numbers, narrow, term)
        wide = tape.make(numbers if narrow < 4 else 0, 4, term)
        log_softmax = tape.make(numbers, 4, term)
        wide.drop()
        logits.drop()

        def backward(grad: Storage) -> Grads:
            first = tape.make(numbers, 4, term)
            second = tape.make(numbers, 4, term)
            first.drop()
            log_softmax.drop()
            third = second if narrow == 4 else tape.make(numbers, narrow, term)
            if third is not second:
                second.drop()
            made = tape.make(hidden.numbers, hidden.width)
            if step.full:
                self._head_gradient(head)
            third.drop()
            return [made]

        loss = tape.op(
            [hidden], tape.make(1, 4), 1, 4, backward, [hidden.storage, copy] if step.full else [], trains=step.full
        )
        copy.drop()
        return loss

    def _head_gradient(self, numbers: int) -> None:
        """A tied head's gradient waits for the embedding's and is added to it."""
        self.math.gradient("embedding" if self.anatomy.tied else "head", numbers)

    def _update(self) -> None:
        """torch's fused AdamW needs nothing more; others work in chunks of fp32, and so does what measures the change."""
        step, measured = self.step, UPDATE_CHUNK_BYTES if self.step.keeps_initial_weights else 0
        fused = step.optimizer == "adamw" and (not step.full or step.master == "fp32")
        if not fused or step.offload_optimizer or step.multi_lora_size > 1:
            self.tape.transient(*[UPDATE_CHUNK_BYTES] * 4, term="update buffers")
        self.tape.transient(
            min(measured, 4 * max((size for _, size in self._trained()), default=0)), term="update buffers"
        )
        for storage in (*self.math.gradients.values(), *self.math.leaving):
            storage.drop()
        self.math.gradients, self.math.leaving = {}, []
