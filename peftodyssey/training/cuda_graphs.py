"""Micro-batches replayed as CUDA graphs: where a pass is short, launching its kernels takes longer than running them.

A pass is run eagerly first, then captured, and the first replay is compared with the eager pass: loss and gradients.
Where they differ or capturing fails, training continues eagerly and says so once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from peftodyssey.constants import ATTENTION_DROPOUT
from peftodyssey.training.settings import OnNote, TrainSettings

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "olmo2", "smollm3"})  # whose passes never wait for the host
EAGER_FAMILIES = frozenset(
    {"gpt2", "gpt_neox", "olmo", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "starcoder2", "stablelm"}
)
MAX_HIDDEN_ELEMENTS = 4096 * 4096  # of a pass's hidden states: beyond, its kernels run longer than they take to launch
MAX_GRAPHS = 4  # of different shapes: each keeps its memory
TOLERANCE = 0.02  # relative distance of the gradients of two runs of one pass: atomics and the order of sums in 16 bits

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
    """The captured passes of one training, by shape. `grads` gives the tensors that passes add their gradients to."""

    def __init__(self, grads: Callable[[], list[Tensor]], on_note: OnNote) -> None:
        self.grads, self.on_note = grads, on_note
        self._graphs: dict[Hashable, Graph] = {}
        self._seen_shapes: set[Hashable] = set()
        self._disabled = False

    @property
    def holds_graphs(self) -> bool:
        """Whether gradients must stay where they are in memory, because a graph writes to them."""
        return bool(self._graphs)

    def run(self, inputs: Sequence[Tensor], first: bool, run_pass: Pass) -> Tensor:
        """`run_pass(*inputs)`, by a graph where there is one; `first`: the gradients of this step are still zero."""
        shapes = tuple(tuple(tensor.shape) for tensor in inputs)
        if (graph := self._graphs.get(shapes)) is not None:
            return graph.replay(inputs)
        capture = first and shapes in self._seen_shapes and not self._disabled and len(self._graphs) < MAX_GRAPHS
        self._seen_shapes.add(shapes)
        losses = run_pass(*inputs)
        if capture:
            self._capture(shapes, inputs, losses, run_pass)
        return losses

    def drop(self) -> None:
        """Drops the graphs and their memory: call it before the tensors that they use change."""
        self._graphs.clear()
        self._seen_shapes.clear()

    def _capture(self, shapes: Hashable, inputs: Sequence[Tensor], losses: Tensor, run_pass: Pass) -> None:
        """Captures a pass that has just run eagerly, and keeps it where its replay gives the same."""
        try:
            static = tuple(tensor.clone() for tensor in inputs)
            cuda_graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(cuda_graph):
                captured_losses = run_pass(*static)
            graph = Graph(cuda_graph, static, captured_losses.detach())
        except (RuntimeError, torch.OutOfMemoryError) as error:  # nothing ran: the gradients are those of the pass
            self._disable(f"{type(error).__name__}: {str(error).splitlines()[0]}")
            return
        expected = [grad.clone() for grad in self.grads()]
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


def _close(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are close, taken together; NaN is not."""
    differences = [torch.linalg.vector_norm((a - b).float()) for a, b in zip(actual, expected, strict=True)]
    norms = [torch.linalg.vector_norm(b.float()) for b in expected]
    return bool(torch.stack(differences).norm() <= TOLERANCE * torch.stack(norms).norm())


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
    config = getattr(model, "config", None)
    family = getattr(config, "model_type", type(model).__name__)
    if family not in FAMILIES | EAGER_FAMILIES:
        on_note(f"the architecture {family} was not tested here: it trains eagerly, by transformers' own code")
    offload = settings.offload_activations or settings.offload_optimizer
    if family not in FAMILIES or _has_dropout(model, config) or offload or settings.precision == "fp16":
        return None
    return CudaGraphCache(grads, on_note)


def _has_dropout(model: nn.Module, config: object | None) -> bool:
    """Whether passes draw random numbers, by the model's modules or by its config."""
    if config is None or vars(model).get(ATTENTION_DROPOUT):
        return True
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return True
    return any(value for name, value in vars(config).items() if "dropout" in name and isinstance(value, float))
