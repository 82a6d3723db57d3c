"""A training step whose passes were traced: weights, states and the update are simulated, the passes are one number."""

from __future__ import annotations

from peftodyssey.constants import SCORE_CHUNK_BYTES, SCORE_MIN_CHUNK_ROWS
from peftodyssey.memory.autograd_simulator import Storage
from peftodyssey.memory.step_simulator import StepSimulator
from peftodyssey.memory.step_trace import trace_scoring, trace_step


class TracedStepSimulator(StepSimulator):
    """The step of a family that `StepSimulator` does not know."""

    _gradients: Storage | None = None

    def run(self) -> None:
        """As `StepSimulator.run`; the trace holds both micro-batches where gradients accumulate."""
        if self.step.engine != "native":
            self._passes()
            self._optimizer_states()
            self._update()
        self._passes()
        self._update()

    def score(self) -> None:
        """A traced forward pass, then a chunk of logits in fp32 with what is computed from them."""
        self.tape.transient(trace_scoring(self.shape, self.step, self.tokens), term="activations")
        rows = max(SCORE_MIN_CHUNK_ROWS, SCORE_CHUNK_BYTES[self.step.device] // (4 * self.shape.vocabulary))
        numel = min(rows, self.tokens) * self.shape.vocabulary
        hidden = self.tape.alloc(self.tokens * self.shape.hidden, self.ctx.itemsize, "activations")
        self.tape.transient(numel * self.ctx.itemsize, numel * 4, numel * 4, term="logits and loss")
        self.tape.free(hidden)

    def _passes(self) -> None:
        trace = trace_step(self.shape, self.step, 0 if self.step.full else self.rank)
        self._gradients = self.tape.alloc(trace.gradient_bytes, 1, "gradients")
        passing = [self.tape.alloc(trace.peak_bytes - trace.gradient_bytes, 1, "activations")]
        if self.step.quant and self.shape.linears:  # the largest matrix, dequantised while it is used
            largest = max(m.in_features * m.out_features for m in self.shape.linears)
            passing.append(self.tape.alloc(largest, self.ctx.itemsize, "weight copies"))
        self.tape.free(*passing)

    def _update(self) -> None:
        super()._update()
        if self._gradients is not None:
            self.tape.free(self._gradients)
        self._gradients = None
