"""What autograd keeps and when it lets go, without torch: tensors that are only sizes, operations that are only
lifetimes.

`plan.layers` writes a model's forward in it; `Tape.backward` walks the operations in reverse as torch's engine does: an
operation's saved tensors die after it ran, gradients meet in place. Every birth and death goes through the counted
total, by term of the bill, and through the caching allocator's arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from peftodyssey.memory.allocator import Allocator

ROUNDED_TO_BYTES = 512


class Storage:
    """Some bytes on the device, alive while somebody holds them."""

    __slots__ = ("holders", "key", "size_bytes", "tape", "term")

    def __init__(self, tape: Tape, size_bytes: int, term: str) -> None:
        self.tape, self.term, self.holders = tape, term, 1
        self.size_bytes = -(-size_bytes // ROUNDED_TO_BYTES) * ROUNDED_TO_BYTES
        self.key = tape.alloc(self)

    def hold(self) -> Storage:
        """One more holder."""
        self.holders += 1
        return self

    def drop(self) -> None:
        """One holder less; the last one frees the bytes."""
        self.holders -= 1
        assert self.holders >= 0, self.term
        if not self.holders:
            self.tape.free(self)


Grads = Sequence["Storage | None"]


@dataclass(eq=False)
class Node:
    """One differentiable operation: what it saved, what it came from, and its backward: gradient in, gradients out."""

    inputs: tuple[Var, ...]
    saved: tuple[Storage, ...]
    backward: Callable[[Storage], Grads]


@dataclass(eq=False)
class Var:
    """A tensor in the forward pass. `storage` is held by the caller; `node` made it, None for what needs no gradient."""

    storage: Storage
    numbers: int  # of elements
    width: int  # bytes of one
    node: Node | None = None
    needs_grad: bool = False

    def drop(self) -> None:
        """The program's variable goes out of scope."""
        self.storage.drop()


class Overflow(Exception):
    """More bytes are alive than there may be."""


class Tape:
    """Live bytes by term, their peak, and the operations recorded for the backward pass.

    Raises Overflow as soon as more than `most_bytes` are alive.
    """

    def __init__(self, allocator: Allocator | None = None, most_bytes: int | None = None) -> None:
        self.allocator = allocator
        self.most_bytes = float("inf") if most_bytes is None else most_bytes
        self.live_bytes = self.peak_bytes = 0
        self.by_term: dict[str, int] = {}
        self.peak_terms: dict[str, int] = {}
        self.recording = True
        self.nodes: list[Node] = []
        self._keys = 0

    def alloc(self, storage: Storage) -> int:
        """Called by Storage: count it."""
        self._keys += 1
        size = storage.size_bytes
        self.live_bytes += size
        self.by_term[storage.term] = self.by_term.get(storage.term, 0) + size
        if size and self.allocator is not None:
            self.allocator.allocate(self._keys, size)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self.peak_terms = self.live_bytes, dict(self.by_term)
            if self.live_bytes > self.most_bytes:
                raise Overflow
        return self._keys

    def free(self, storage: Storage) -> None:
        """Called by Storage: it is gone."""
        self.live_bytes -= storage.size_bytes
        self.by_term[storage.term] -= storage.size_bytes
        if storage.size_bytes and self.allocator is not None:
            self.allocator.release(storage.key)

    def make(self, numbers: int, width: int, term: str = "activations") -> Storage:
        """New bytes, held once."""
        return Storage(self, numbers * width, term)

    def transient(self, *sizes_bytes: int, term: str = "workspace") -> None:
        """Bytes that come together and go again inside one kernel or function."""
        for storage in [Storage(self, size, term) for size in sizes_bytes]:
            storage.drop()

    def leaf(self, numbers: int, width: int, term: str = "activations", needs_grad: bool = False) -> Var:
        """A tensor that no operation made."""
        return Var(self.make(numbers, width, term), numbers, width, None, needs_grad)

    def op(
        self,
        inputs: Sequence[Var],
        output: Storage,
        numbers: int,
        width: int,
        backward: Callable[[Storage], Grads],
        saved: Sequence[Storage] = (),
        trains: bool = False,
    ) -> Var:
        """The output of an operation; recorded with `saved` where an input needs a gradient or it `trains` a weight."""
        result = Var(output, numbers, width)
        if self.recording and (trains or any(v.needs_grad for v in inputs)):
            node = Node(tuple(inputs), tuple(s.hold() for s in saved), backward)
            result.node, result.needs_grad = node, True
            self.nodes.append(node)
        return result

    def backward(self, root: Var, grad: Storage, until: int = 0) -> dict[Node | Var, Storage]:
        """Walk the nodes recorded after the first `until`, newest first; returns the gradients of what lies before
        them.

        Gradients are kept by the node that made a tensor (several variables may name it), or by the leaf.
        """
        grads: dict[Node | Var, Storage] = {root.node or root: grad}
        while len(self.nodes) > until:
            node = self.nodes.pop()
            incoming = grads.pop(node, None)
            if incoming is None:
                self._release(node)
                continue
            found = node.backward(incoming)
            self._release(node)
            for var, outgoing in zip(node.inputs, found, strict=True):
                if outgoing is None:
                    continue
                place = var.node or var
                if not var.needs_grad:
                    outgoing.drop()
                elif place in grads:
                    outgoing.drop()  # added in place to the one that is there
                else:
                    grads[place] = outgoing
            incoming.drop()
        return grads

    @staticmethod
    def _release(node: Node) -> None:
        for storage in node.saved:
            storage.drop()
