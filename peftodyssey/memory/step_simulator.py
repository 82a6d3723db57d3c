"""One training step as a sequence of allocations, from the weights to the update. `memory_plan` reads its peak."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

from peftodyssey.constants import SCORE_CHUNK_BYTES, SCORE_MIN_CHUNK_ROWS
from peftodyssey.memory.autograd_simulator import Grads, SimTensor, Storage, Tape
from peftodyssey.memory.dropout_memory import EVERYWHERE, dropped
from peftodyssey.memory.layer_memory import decoder_layer, feed_forward, norm
from peftodyssey.memory.layer_parts import Layer, batch_shape, layer_linears
from peftodyssey.memory.loss_memory import chunked_loss, transformers_loss
from peftodyssey.memory.op_memory import OpContext, free_inputs
from peftodyssey.memory.step_spec import BYTES, StepSpec
from peftodyssey.model_shape import LinearShape, ModelShape

FP32_STATE_NUMEL = 4096  # smaller tensors keep fp32 states under an 8-bit optimiser
STATE_BLOCK = 256  # elements per constant of an 8-bit state
UPDATE_CHUNK_BYTES = 32 << 20  # fp32 temporaries of an update that is not torch's fused one


class StepSimulator:
    """Runs a step on a tape: what is allocated before it, its forward and backward passes, its update."""

    def __init__(self, shape: ModelShape, step: StepSpec, tape: Tape, kernel_workspace: bool) -> None:
        self.shape, self.step, self.tape = shape, step, tape
        itemsize = BYTES[step.precision]
        fp32_weights = step.full and step.master == "fp32"
        self.weight_itemsize = 4 if fp32_weights else itemsize
        self.ctx = OpContext(
            tape=tape,
            itemsize=itemsize,
            residual_itemsize=self.weight_itemsize,
            native=step.engine == "native",
            quant=step.quant,
            trains_base=step.full,
            autocast=(fp32_weights or step.engine == "trl") and itemsize < 4,
            weight_itemsize=self.weight_itemsize,
            offload_grads=step.offload_optimizer,
            multi_lora_size=step.multi_lora_size,
        )
        self.batch = batch_shape(shape, step, kernel_workspace)
        self.tokens = self.batch.tokens

    @cached_property
    def rank(self) -> int:
        """The adapters' rank; for other methods the LoRA rank with as many parameters."""
        step = self.step
        if step.full or step.adapter_rank:
            return step.adapter_rank
        per_rank = sum(linear.in_features + linear.out_features for linear in self.shape.linears)
        return -(-step.trainable // per_rank) if step.trainable else 0

    def allocate_persistent(self) -> None:
        """What exists before the first step: weights, adapters, optimiser states, the batch."""
        shape, step, tape = self.shape, self.step, self.tape
        for numel in (shape.embedding_parameters, shape.head_parameters, shape.norm_parameters):
            tape.alloc(numel, self.weight_itemsize, "weights")
        for linear in shape.linears:
            self._weight(linear)
            if linear.bias:
                tape.alloc(linear.out_features, self.weight_itemsize, "weights")
        if step.multi_lora_size > 1:
            # each adapter is first initialised on its own and then copied into the joint matrices
            tape.transient(*[4 * numel for numel in self._trained_numels()], term="adapters")
            self._joint_adapters(sum(self._trained_numels()) * step.multi_lora_size)
        else:
            for numel in self._trained_numels():
                tape.alloc(0 if step.full else numel, 4, "adapters")
                tape.alloc(numel if step.keeps_initial_weights else 0, 4, "start weights")
            if step.engine == "native":
                self._optimizer_states()
        tape.alloc(self.tokens * 4, 8, "batch")
        tape.alloc(self.tokens * shape.head_dim * 2, BYTES[step.precision], "batch")  # cos and sin

    def _joint_adapters(self, numel: int) -> None:
        """All adapters of a multi-LoRA training, their copies in the compute type, their gradients and moments."""
        itemsize = BYTES[self.step.precision]
        self.tape.alloc(numel, 4, "adapters")
        self.tape.alloc(numel if itemsize < 4 else 0, itemsize, "adapters")
        self.tape.alloc(numel, 4, "gradients")
        self.tape.alloc(2 * numel, 4, "optimiser states")

    def _weight(self, linear: LinearShape) -> None:
        numel, quant = linear.in_features * linear.out_features, self.step.quant
        if quant is None:
            self.tape.alloc(numel, self.weight_itemsize, "weights")
        elif quant.kind == "int8":
            self.tape.alloc(numel, 1, "weights")
            self.tape.alloc(linear.out_features, 4, "weights")
        else:
            blocks = -(-numel // 64)
            self.tape.alloc(-(-numel // 2), 1, "weights")
            self.tape.alloc(blocks, 1 if quant.double_quant else 4, "weights")
            self.tape.alloc(16, 4, "weights")
            if quant.double_quant:
                for constants in (-(-blocks // 256), 256, 1):
                    self.tape.alloc(constants, 4, "weights")

    def _trained_numels(self) -> list[int]:
        """Elements of every trained tensor."""
        shape, targets = self.shape, self.step.targets
        if self.step.full:
            biases = sum(linear.out_features for linear in shape.linears if linear.bias)
            others = shape.embedding_parameters + shape.head_parameters + shape.norm_parameters + biases
            return [others, *(linear.in_features * linear.out_features for linear in shape.linears)]
        adapted = [linear for linear in shape.linears if targets is None or linear.leaf in targets]
        return [self.rank * side for linear in adapted for side in (linear.in_features, linear.out_features)]

    def _optimizer_states(self) -> None:
        step, alloc = self.step, self.tape.alloc
        for numel in () if step.offload_optimizer else self._trained_numels():
            small = numel < FP32_STATE_NUMEL
            itemsize = 4 if step.master == "fp32" or not step.full or small else BYTES[step.precision]
            eight_bit = step.optimizer == "adamw8bit" and not small
            for _ in range(2):
                alloc(numel, 1 if eight_bit else itemsize, "optimiser states")
                alloc(-(-numel // STATE_BLOCK) if eight_bit else 0, 4, "optimiser states")
            alloc(1, 4, "optimiser states")

    def run(self) -> None:
        """Forward, loss, backward, update: each twice where the second time differs.

        The second micro-batch adds to gradients of the first. Other engines create the optimiser states after the
        first backward pass, while its gradients exist.
        """

        def micro_batches() -> None:
            for _ in range(2 if self.step.accumulates else 1):
                self._forward_and_backward()

        if self.step.engine != "native":
            micro_batches()
            self._optimizer_states()
            self._update()
        micro_batches()
        self._update()

    def score(self) -> None:
        """A forward pass without gradients, and a chunk of logits in fp32 with what is computed from them."""
        self.tape.recording = False
        hidden = self._forward()
        rows = max(SCORE_MIN_CHUNK_ROWS, SCORE_CHUNK_BYTES[self.step.device] // (4 * self.shape.vocabulary))
        numel = min(rows, self.tokens) * self.shape.vocabulary
        self.tape.transient(numel * self.ctx.itemsize, numel * 4, numel * 4, term="logits and loss")
        hidden.release()

    def _forward(self) -> SimTensor:
        tape, ctx = self.tape, self.ctx

        def backward(grad: Storage) -> Grads:
            if self.step.full:
                ctx.accumulate_grad("embedding", self.shape.embedding_parameters)
            return []

        embedded = tape.tensor(self.tokens * self.shape.hidden, ctx.residual_itemsize)
        x = tape.record([], embedded, backward, trains=self.step.full)
        if self.step.dropout and self.shape.hidden_dropout and self.shape.family in EVERYWHERE:
            x = free_inputs(dropped(ctx, x), x)
        for number in range(self.shape.layers):
            x = self._layer(number, x)
        normed = norm(ctx, self.shape, x, "norm")
        x.release()
        return normed

    def _forward_and_backward(self) -> None:
        tape, ctx = self.tape, self.ctx
        ctx.autocast_cache = []
        hidden = self._forward()
        loss = (chunked_loss if ctx.native else transformers_loss)(ctx, self.shape, self.step, hidden)
        hidden.release()
        tape.free(*ctx.autocast_cache)
        ctx.autocast_cache = None  # layers that are recomputed in the backward pass cast again
        grad = tape.alloc(1, 4)
        loss.release()
        tape.free(*tape.backward(loss, grad).values())

    def _layer(self, number: int, x: SimTensor) -> SimTensor:
        step = self.step
        linears = layer_linears(self.shape, number, self.rank, step.targets)
        layer = Layer(self.ctx, self.shape, self.batch, linears, f"layer{number}", step.dropout)

        def checkpointed_mlp(tensor: SimTensor) -> SimTensor:
            return self._checkpointed(tensor, lambda inner: feed_forward(layer, inner), offload=False)

        if step.gradient_checkpointing == "full":
            return self._checkpointed(x, lambda inner: decoder_layer(layer, inner), step.offload_activations)
        return decoder_layer(layer, x, checkpointed_mlp if step.gradient_checkpointing == "selective" else None)

    def _checkpointed(self, x: SimTensor, run: Callable[[SimTensor], SimTensor], offload: bool) -> SimTensor:
        """Gradient checkpointing: `run` saves only its input, and runs again, recorded, in the backward pass."""
        tape = self.tape
        recording, tape.recording = tape.recording, False
        output = run(x.detach())
        tape.recording = recording
        saved = tape.alloc(0, 1) if offload else x.storage.retain()

        def backward(grad: Storage) -> Grads:
            start = tape.alloc(x.numel, x.itemsize) if offload else x.storage.retain()
            inner = SimTensor(start, x.numel, x.itemsize, requires_grad=x.requires_grad)
            until = len(tape.nodes)
            recomputed = run(inner)
            recomputed.release()
            grads = tape.backward(recomputed, grad.retain(), until)
            grad_x = grads.pop(inner, None)
            tape.free(*grads.values())
            return [grad_x]

        trains = self.rank > 0 or self.step.full
        result = tape.record([x], output.detach(), backward, [saved], trains=trains)
        tape.free(output.storage, saved, x.storage)
        return result

    def _update(self) -> None:
        """torch's fused AdamW needs no buffers; others work in chunks of fp32, as does what measures the update."""
        step, ctx = self.step, self.ctx
        fused = step.optimizer == "adamw" and (not step.full or step.master == "fp32")
        if not fused or step.offload_optimizer or step.multi_lora_size > 1:
            self.tape.transient(*[UPDATE_CHUNK_BYTES] * 4, term="update buffers")
        measured_bytes = UPDATE_CHUNK_BYTES if step.keeps_initial_weights else 0
        largest_bytes = 4 * max(self._trained_numels(), default=0)
        self.tape.transient(min(measured_bytes, largest_bytes), term="update buffers")
        self.tape.free(*ctx.weight_grads.values(), *ctx.grads_in_flight)
        ctx.weight_grads, ctx.grads_in_flight = {}, []
