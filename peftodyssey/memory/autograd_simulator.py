"""Autograd's memory without torch: a tensor is only a size, an operation is only what it allocates and what it saves.

`Tape.backward` walks the recorded operations in reverse, as torch's engine does: it frees an operation's saved tensors
after its backward ran, and accumulates gradients in place. Every allocation is counted by term of the memory plan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peftodyssey.memory.allocator import Allocator

ALIGNMENT_BYTES = 512


class Storage:
    """Bytes on the device, allocated until the last reference is released."""

    __slots__ = ("key", "nbytes", "refcount", "tape", "term")

    def __init__(self, tape: Tape, nbytes: int, term: str) -> None:
        self.tape, self.term, self.refcount = tape, term, 1
        self.nbytes = -(-nbytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self.key = tape.count_alloc(self)

    def retain(self) -> Storage:
        """Add a reference."""
        self.refcount += 1
        return self

    def release(self) -> None:
        """Remove a reference; the last one frees the bytes."""
        self.refcount -= 1
        assert self.refcount >= 0, self.term
        if not self.refcount:
            self.tape.count_free(self)


Grads = Sequence["Storage | None"]
Backward = Callable[[Storage], Grads]  # gradient of the output -> gradients of the inputs


@dataclass(eq=False)
class Node:
    """One recorded operation: its inputs, the tensors that it saved for backward, and its backward."""

    inputs: tuple[SimTensor, ...]
    saved: tuple[Storage, ...]
    backward: Backward


@dataclass(eq=False)
class SimTensor:
    """A tensor of the forward pass: a size in place of numbers. It owns one reference to its storage."""

    storage: Storage
    numel: int
    itemsize: int  # bytes per element
    grad_fn: Node | None = None
    requires_grad: bool = False

    def release(self) -> None:
        """The variable goes out of scope."""
        self.storage.release()

    def alias(self, numel: int | None = None) -> SimTensor:
        """Another variable of the same tensor, or of its first `numel` elements."""
        size = self.numel if numel is None else numel
        return SimTensor(self.storage.retain(), size, self.itemsize, self.grad_fn, self.requires_grad)

    def detach(self, numel: int | None = None) -> SimTensor:
        """The same storage without its history."""
        return SimTensor(self.storage.retain(), self.numel if numel is None else numel, self.itemsize)


class OverBudget(Exception):
    """More bytes are allocated than the budget allows."""


class Tape:
    """Allocated bytes by term, their peak, and the operations recorded for the backward pass.

    Raises OverBudget as soon as more than `budget_bytes` are allocated.
    """

    def __init__(self, allocator: Allocator | None = None, budget_bytes: int | None = None) -> None:
        self.allocator = allocator
        self.budget_bytes = float("inf") if budget_bytes is None else budget_bytes
        self.allocated_bytes = self.peak_bytes = 0
        self.bytes_by_term: dict[str, int] = {}
        self.peak_terms: dict[str, int] = {}
        self.recording = True
        self.nodes: list[Node] = []
        self._keys = 0

    def count_alloc(self, storage: Storage) -> int:
        """Count a new storage; returns its key for the allocator."""
        self._keys += 1
        size = storage.nbytes
        self.allocated_bytes += size
        self.bytes_by_term[storage.term] = self.bytes_by_term.get(storage.term, 0) + size
        if size and self.allocator is not None:
            self.allocator.alloc(self._keys, size)
        if self.allocated_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_terms = self.allocated_bytes, dict(self.bytes_by_term)
            if self.allocated_bytes > self.budget_bytes:
                raise OverBudget
        return self._keys

    def count_free(self, storage: Storage) -> None:
        """Subtract a storage whose last reference was released."""
        self.allocated_bytes -= storage.nbytes
        self.bytes_by_term[storage.term] -= storage.nbytes
        if storage.nbytes and self.allocator is not None:
            self.allocator.free(storage.key)

    def alloc(self, numel: int, itemsize: int, term: str = "activations") -> Storage:
        """New bytes with one reference."""
        return Storage(self, numel * itemsize, term)

    def tensor(self, numel: int, itemsize: int, term: str = "activations") -> SimTensor:
        """A new tensor without history."""
        return SimTensor(self.alloc(numel, itemsize, term), numel, itemsize)

    @staticmethod
    def free(*storages: Storage | None) -> None:
        """Release one reference to each of the storages."""
        for storage in storages:
            if storage is not None:
                storage.release()

    def transient(self, *sizes_bytes: int, term: str = "workspace") -> None:
        """Buffers that are allocated together and freed again inside one kernel or function."""
        self.free(*[Storage(self, size, term) for size in sizes_bytes])

    def record(
        self,
        inputs: Sequence[SimTensor],
        output: SimTensor,
        backward: Backward,
        saved: Sequence[Storage] = (),
        trains: bool = False,
    ) -> SimTensor:
        """`output`; recorded with `saved` where an input requires a gradient or the operation `trains` a weight."""
        if self.recording and (trains or any(tensor.requires_grad for tensor in inputs)):
            output.grad_fn = Node(tuple(inputs), tuple(storage.retain() for storage in saved), backward)
            output.requires_grad = True
            self.nodes.append(output.grad_fn)
        return output

    def backward(self, root: SimTensor, grad: Storage, until: int = 0) -> dict[Node | SimTensor, Storage]:
        """Run backward from the newest node down to the first `until` ones; returns the gradients of what lies below.

        Gradients are kept by the node that made a tensor, as several variables may share it, or by the leaf.
        """
        grads: dict[Node | SimTensor, Storage] = {root.grad_fn or root: grad}
        while len(self.nodes) > until:
            node = self.nodes.pop()
            grad_output = grads.pop(node, None)
            if grad_output is None:
                self.free(*node.saved)
                continue
            grad_inputs = node.backward(grad_output)
            self.free(*node.saved)
            for tensor, grad_input in zip(node.inputs, grad_inputs, strict=True):
                if grad_input is None:
                    continue
                target = tensor.grad_fn or tensor
                if not tensor.requires_grad or target in grads:
                    grad_input.release()  # not needed, or added in place to the one that exists
                else:
                    grads[target] = grad_input
            grad_output.release()
        return grads
