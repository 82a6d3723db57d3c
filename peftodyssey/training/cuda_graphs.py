"""Micro-batches replayed as CUDA graphs: where a pass is short, launching its kernels takes longer than running them.

A pass is run eagerly first, then captured, and a replay is compared with the eager pass, tensor by tensor: at once and
again after some steps, when gradients that begin at zero have grown. Where they differ, where the pass waits for the
host, or where capturing fails, training continues eagerly and says so once.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from peftodyssey.models import host_memory
from peftodyssey.training import capturable
from peftodyssey.training.settings import OnNote, TrainSettings

MAX_HIDDEN_ELEMENTS = 4096 * 4096  # of a pass's hidden states: beyond, its kernels run longer than they take to launch
MAX_GRAPHS = 4  # of different shapes
CHECK_AGAIN_AFTER = 8  # replays of a graph
TOLERANCE = 0.02  # relative distance of a gradient of two runs of one pass: atomics and the order of sums in 16 bits
NOISE_SHARE = 1e-6  # of the norm of all gradients: what a gradient that is nearly zero may differ by

Pass = Callable[..., Tensor]  # device tensors -> the summed losses (k,); adds the gradients


class Graph(NamedTuple):
    """A captured pass with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    losses: Tensor

    def replay(self, inputs: Sequence[Tensor]) -> Tensor:
        """The summed losses (k,) of the pass on `inputs`; adds the gradients."""
        for static, tensor in zip(self.inputs, inputs, strict=True):
            static.copy_(tensor, non_blocking=True)
        self.graph.replay()
        return self.losses.clone()


class CudaGraphCache:
    """The captured passes of one training, by shape. `grads` gives the tensors that passes add their gradients to.

    All graphs share one memory pool: they are replayed one after the other, and what a pass leaves is copied.
    """

    def __init__(self, grads: Callable[[], list[Tensor]], on_note: OnNote) -> None:
        self.grads, self.on_note = grads, on_note
        self._graphs: dict[Hashable, Graph] = {}
        self._until_check: dict[Hashable, int] = {}  # replays of graphs that are checked once more
        self._seen_shapes: set[Hashable] = set()
        self._pool: Any = None
        self._disabled = False

    @property
    def holds_graphs(self) -> bool:
        """Whether gradients must stay where they are in memory, because a graph writes to them."""
        return bool(self._graphs)

    def run(self, inputs: Sequence[Tensor], first: bool, run_pass: Pass) -> Tensor:
        """`run_pass(*inputs)`, by a graph where there is one; `first`: the gradients of this step are still zero."""
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        graph = self._graphs.get(shapes)
        if graph is not None and not (first and self._until_check.get(shapes) == 0):
            self._until_check |= {shapes: left - 1} if (left := self._until_check.get(shapes)) else {}
            return graph.replay(inputs)
        capture = first and shapes in self._seen_shapes and not self._disabled and len(self._graphs) < MAX_GRAPHS
        self._seen_shapes.add(shapes)
        if graph is not None:
            losses = run_pass(*inputs)
            del self._until_check[shapes]
            self._keep_if_same(graph, shapes, inputs, losses)
            return losses
        if not capture:
            return run_pass(*inputs)
        with _synchronisations() as waits:
            losses = run_pass(*inputs)
        if waits:
            self._disable(f"a pass waits for the host: {waits[0]}")
        else:
            self._capture(shapes, inputs, losses, run_pass)
        return losses

    def drop(self) -> None:
        """Drops the graphs and their memory: call it before the tensors that they use change."""
        self._graphs.clear()
        self._seen_shapes.clear()
        self._until_check.clear()
        self._pool = None

    def _capture(self, shapes: Hashable, inputs: Sequence[Tensor], losses: Tensor, run_pass: Pass) -> None:
        """Captures a pass that has just run eagerly, and keeps it where its replay gives the same."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        try:
            static = tuple(tensor.clone() for tensor in inputs)
            graph = _captured(static, run_pass, self._pool)
        except (RuntimeError, torch.OutOfMemoryError) as error:  # nothing ran: the gradients are those of the pass
            self._disable(f"{type(error).__name__}: {str(error).splitlines()[0]}")
            return
        self._until_check[shapes] = CHECK_AGAIN_AFTER
        self._keep_if_same(graph, shapes, inputs, losses)

    def _keep_if_same(self, graph: Graph, shapes: Hashable, inputs: Sequence[Tensor], losses: Tensor) -> None:
        """Keeps the graph of a pass that has just run eagerly where a replay gives its losses and gradients.

        The gradients are afterwards those of one pass: the replay's where they are the same, else the eager ones.
        """
        self._graphs.pop(shapes, None)
        try:
            expected = [grad.clone() for grad in self.grads()]
        except (RuntimeError, torch.OutOfMemoryError) as error:
            if not host_memory.is_out_of_memory(error):
                raise
            self._disable("there is no memory to check a replay with")
            return
        for grad in self.grads():
            grad.zero_()
        replayed_losses = graph.replay(inputs)
        if _close([replayed_losses], [losses]) and _close(self.grads(), expected):
            self._graphs[shapes] = graph
            return
        for grad, eager in zip(self.grads(), expected, strict=True):
            grad.copy_(eager)
        self._disable("a replay differs from the pass")

    def _disable(self, reason: str) -> None:
        self._disabled = True
        self.on_note(f"this training's steps run without CUDA graphs ({reason})")


def _captured(static: tuple[Tensor, ...], run_pass: Pass, pool: Any) -> Graph:
    """The graph of `run_pass(*static)`, which does not run. Raises what capturing raises, with nothing left behind.

    Where ending a capture raises, `torch.cuda.graph` leaves the stream of the capture current and the pool in use.
    """
    stream, cuda_graph, ended = torch.cuda.current_stream(), torch.cuda.CUDAGraph(), False
    try:
        with torch.cuda.graph(cuda_graph, pool=pool):
            losses = run_pass(*static)
        ended = True
    finally:
        if not ended:
            torch.cuda.set_stream(stream)
            device = torch.cuda.current_device()
            for undo in (torch._C._cuda_endAllocateToPool, torch._C._cuda_releasePool):
                with contextlib.suppress(RuntimeError):  # it was done before the capture failed
                    undo(device, pool)
    return Graph(cuda_graph, static, losses.detach())


@contextlib.contextmanager
def _synchronisations() -> Iterator[list[str]]:
    """The operations in the body that made the host wait for the GPU, as far as torch notices; filled at its end.

    transformers looks whether a row holds several documents; it does not while a graph is captured.
    """
    found: list[str] = []
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode(before)
    found += [
        text
        for warning in caught
        if "called a synchronizing" in (text := str(warning.message)) and "masking_utils" not in warning.filename
    ]


def _close(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether each tensor is close to the expected one; NaN is not."""
    if not expected:
        return True
    differences = [torch.linalg.vector_norm((a - b).float()) for a, b in zip(actual, expected, strict=True)]
    norms = torch.stack([torch.linalg.vector_norm(b.float()) for b in expected])
    return bool((torch.stack(differences) <= TOLERANCE * norms + NOISE_SHARE * norms.norm()).all())


def graph_cache(
    model: nn.Module,
    settings: TrainSettings,
    device: torch.device,
    grads: Callable[[], list[Tensor]],
    on_note: OnNote,
) -> CudaGraphCache | None:
    """Graphs for a training of `model`; None where its passes cannot be captured. Notes an untested architecture."""
    if device.type != "cuda":
        return None
    if untested := capturable.untested(model):
        on_note(untested)
    return None if capturable.why_eager(model, settings) else CudaGraphCache(grads, on_note)
