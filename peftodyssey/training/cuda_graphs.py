"""Micro-batches replayed as CUDA graphs: where a pass is short, launching its kernels takes longer than running them.

`train.gradients` runs its passes through `Graphs` where `train.loop` or `train.multi_lora` hands it some. A pass is run
as it is first, then captured, and the first replay is held against the pass itself: loss and gradients. Where anything
differs or fails, training goes on launch by launch and says so once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from peftodyssey.training.settings import OnNote, TrainSettings

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "olmo2", "smollm3"})  # whose passes never ask the host
EAGER_FAMILIES = frozenset(
    {"gpt2", "gpt_neox", "olmo", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "starcoder2", "stablelm"}
)
MAX_HIDDEN_ELEMENTS = 4096 * 4096  # of a pass's hidden states: beyond, its kernels run longer than they take to launch
MOST_GRAPHS = 4  # of different shapes: each keeps its memory
CLOSE = 0.02  # relative distance of the gradients of two runs of one pass: atomics and the order of sums in 16 bits

Body = Callable[..., Tensor]  # device tensors -> the summed losses (k,); adds the gradients


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    losses: Tensor


class CudaGraphCache:
    """The captured passes of one training, by shape. `grads` gives the tensors that passes add their gradients to."""

    def __init__(self, grads: Callable[[], list[Tensor]], on_note: OnNote | None) -> None:
        self.grads, self.on_note = grads, on_note
        self._captured: dict[Hashable, _Graph] = {}
        self._met: set[Hashable] = set()
        self._refused = False

    @property
    def holds_graphs(self) -> bool:
        """Whether gradients must stay where they are in memory, because a graph writes to them."""
        return bool(self._captured)

    def run(self, inputs: Sequence[Tensor], first: bool, body: Body) -> Tensor:
        """`body(*inputs)`, by a graph where there is one; `first`: no gradients were added in this step before."""
        key = tuple(tuple(tensor.shape) for tensor in inputs)
        if (found := self._captured.get(key)) is not None:
            return _replayed(found, inputs)
        may = first and key in self._met and not self._refused and len(self._captured) < MOST_GRAPHS
        self._met.add(key)
        losses = body(*inputs)
        if may:
            self._capture(key, inputs, losses, body)
        return losses

    def drop(self) -> None:
        """Forget the graphs and give their memory back: their tensors, or what they are made of, are about to change."""
        self._captured.clear()
        self._met.clear()

    def _capture(self, key: Hashable, inputs: Sequence[Tensor], losses: Tensor, body: Body) -> None:
        """Capture a pass that has just been run, and keep it where its replay gives what the pass gave."""
        try:
            static = tuple(tensor.clone() for tensor in inputs)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                out = body(*static)
            made = _Graph(graph, static, out.detach())
        except (RuntimeError, torch.OutOfMemoryError) as error:  # nothing ran: the gradients are those of the pass
            self._refuse(f"{type(error).__name__}: {str(error).splitlines()[0]}")
            return
        expected = [grad.clone() for grad in self.grads()]
        for grad in self.grads():
            grad.zero_()
        again = _replayed(made, inputs)
        if _near([again], [losses]) and _near(self.grads(), expected):
            self._captured[key] = made
            return
        for grad, right in zip(self.grads(), expected, strict=True):
            grad.copy_(right)
        self._refuse("a replay differs from the pass")

    def _refuse(self, why: str) -> None:
        self._refused = True
        if self.on_note:
            self.on_note(f"no CUDA graph of this training's step, its kernels are launched one by one ({why})")


def _replayed(made: _Graph, inputs: Sequence[Tensor]) -> Tensor:
    for static, tensor in zip(made.inputs, inputs, strict=True):
        static.copy_(tensor, non_blocking=True)
    made.graph.replay()
    return made.losses.clone()


def _near(these: Sequence[Tensor], those: Sequence[Tensor]) -> bool:
    """Whether two lists of tensors are close, taken together; NaN is not."""
    apart = torch.stack([torch.linalg.vector_norm((a - b).float()) for a, b in zip(these, those, strict=True)]).norm()
    size = torch.stack([torch.linalg.vector_norm(b.float()) for b in those]).norm()
    return bool(apart <= CLOSE * size)


def graphs(
    model: nn.Module,
    settings: TrainSettings,
    device: torch.device,
    grads: Callable[[], list[Tensor]],
    on_note: OnNote | None,
) -> CudaGraphCache | None:
    """Graphs for a training of `model`; None where its passes cannot be captured. An architecture that nobody tried
    says so.
    """
    if device.type != "cuda":
        return None
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", type(model).__name__)
    if kind not in FAMILIES | EAGER_FAMILIES and on_note:
        on_note(f"{kind} is an architecture that was not tried here: it trains step by step as transformers wrote it")
    random = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    random |= (
        any(value for name, value in vars(config).items() if "dropout" in name and isinstance(value, float))
        if config
        else True
    )
    moving = settings.offload_activations or settings.offload_optimizer
    if kind not in FAMILIES or random or moving or settings.precision == "fp16":
        return None
    return CudaGraphCache(grads, on_note)
