"""What a run needs of the host: memory and disk, from sizes alone. No torch.

On a CPU the step itself is in host memory and is counted here too. Weight files are memory-mapped: the system drops
those pages when it needs them, so they are not counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peftodyssey.memory.memory_plan import MemoryPlan, Term, estimate
from peftodyssey.memory.step_spec import BYTES, StepSpec
from peftodyssey.methods.mmap_copy import MAPPED_COPY_BYTES
from peftodyssey.model_shape import ModelShape
from peftodyssey.models.checkpoint_disk import is_downloaded, needed_bytes
from peftodyssey.models.layer_offload import layers_on_gpu
from peftodyssey.models.source import ModelSource
from peftodyssey.plan.tasks import CellTask, IndexTask, Plan

CUDA_RUNTIME_BYTES = 900 << 20  # interpreter, torch with its CUDA libraries, transformers, bitsandbytes
LOADER_THREADS = 4  # tensors that transformers reads at a time
STATE_BLOCK = 256  # elements per constant of an 8-bit state
INDEX_ROW_BYTES = 26  # per token of a text in memory: the columns of index.parquet
BLOCK_TOKEN_BYTES = 32  # per token packed into blocks: ids, labels, positions, segments
TOKEN_TEXT_BYTES = 3  # bytes of text per token, at least on average
DISK_INDEX_BYTES, DISK_COLUMN_BYTES = 12, 8  # per token, on disk
MIN_REFUSED_BYTES = 1 << 30  # of disk: for less, a run starts, and a full disk is reported when it happens


@dataclass(frozen=True)
class HostPlan:
    """The host memory of one cell at its peak, term by term."""

    terms: tuple[Term, ...]

    @property
    def peak_bytes(self) -> int:
        """All terms together."""
        return sum(term.size_bytes for term in self.terms)


@dataclass(frozen=True)
class DiskPlan:
    """What a run writes: downloads to the caches, the terms below its output directory."""

    download_bytes: int
    terms: tuple[Term, ...]

    @property
    def output_bytes(self) -> int:
        """The most that the output directory holds at one time, finished and unfinished."""
        return sum(term.size_bytes for term in self.terms)


def host_plan(
    step: StepSpec, shape: ModelShape, source: ModelSource, *, memory: MemoryPlan | None = None, index_tokens: int = 0
) -> HostPlan:
    """Host memory of a cell: loading or training, whichever needs more, with texts of `index_tokens` tokens.

    `memory` is the plan of `step`, where it is known.
    """
    texts = Term("texts", index_tokens * (INDEX_ROW_BYTES + BLOCK_TOKEN_BYTES))
    copy = base_copy_bytes(step, shape)
    base_copy = Term("copy of the base", copy if copy <= MAPPED_COPY_BYTES else 0)
    initial = Term("start of the adapters", 0 if step.full else 4 * step.trainable)
    kept = Term("kept weights", step.kept_copies * step.trainable * _trained_width(step))
    if step.device == "cpu":
        return HostPlan((Term("step", (memory or estimate(shape, step)).device_bytes), base_copy, initial, kept, texts))
    training = (*_pinned(step, shape), base_copy, initial, kept, Term("writing weights", _written_from_gpu(step)))
    loading = (Term("loading", _loading_bytes(step, shape, source)),)
    larger = max(training, loading, key=lambda terms: sum(term.size_bytes for term in terms))
    return HostPlan((Term("runtime", CUDA_RUNTIME_BYTES), *larger, texts))


def planned_bytes(task: CellTask) -> int:
    """The peak of a cell's training: reserved on a GPU; on a CPU resident memory, with what lies beside the step."""
    if task.step.device != "cpu":
        return task.memory.peak_reserved_bytes
    return host_plan(task.step, task.shape, task.base.source, memory=task.memory).peak_bytes


def base_copy_bytes(step: StepSpec, shape: ModelShape) -> int:
    """The copy of the base weights that restores them after training: in memory, or in a file where it is large."""
    return shape.parameters * BYTES[step.precision] if step.full else 0


def _loading_bytes(step: StepSpec, shape: ModelShape, source: ModelSource) -> int:
    """The largest tensor, as stored, for each that is read at a time; random weights are created on the device."""
    if source.kind == "random":
        return 0
    width = 4 if source.default_dtype == "float32" else 2
    largest = max(shape.vocabulary * shape.hidden, *(m.in_features * m.out_features for m in shape.linears))
    return LOADER_THREADS * largest * max(width, BYTES[step.precision])


def _pinned(step: StepSpec, shape: ModelShape) -> tuple[Term, ...]:
    """Pinned buffers; PyTorch rounds those of activations up to a power of two and keeps them."""
    layer = step.micro_batch_size * step.seq_len * shape.hidden * BYTES[step.precision]
    activations = shape.layers * (1 << (layer - 1).bit_length()) if step.offload_activations else 0
    if not step.offload_optimizer:
        return (Term("activations", activations),)
    width = 4 if step.master == "fp32" else BYTES[step.precision]
    return (
        Term("activations", activations),
        Term("gradients", step.trainable * width),
        Term("optimiser states", _state_bytes(step, width)),
    )


def _state_bytes(step: StepSpec, width: int) -> int:
    if step.optimizer == "adamw8bit":
        return 2 * (step.trainable + 4 * -(-step.trainable // STATE_BLOCK))
    return 2 * step.trainable * width


def _trained_width(step: StepSpec) -> int:
    return BYTES[step.precision] if step.full and step.master == "bf16" else 4


def _written_from_gpu(step: StepSpec) -> int:
    """What a checkpoint copies from the GPU at once: trained weights, and states where they are on the GPU."""
    width = _trained_width(step)
    return step.trainable * width + (0 if step.offload_optimizer else _state_bytes(step, width))


def checkpoint_bytes(step: StepSpec) -> int:
    """A training checkpoint: weights, states, and the weights that an early stop keeps."""
    width = _trained_width(step)
    return (1 + step.kept_copies) * step.trainable * width + _state_bytes(step, width)


def disk_plan(plan: Plan, keep: str = "adapters") -> DiskPlan:
    """Downloads, indexes, columns, kept weights, and the largest unfinished cell: its old and its new checkpoint."""
    trained = [task for task in plan.cells if task.train_index]
    tokens = {index.folder: index_tokens(index) for index in plan.indexes}
    columns = {score.folder: tokens[score.index] for task in plan.cells for score in task.columns}
    columns |= {one.folder: tokens[one.column_of] for task in plan.cells for one in task.measures if one.column_of}
    columns |= {score.folder: tokens[score.index] for score in plan.base_scores}
    models = {task.cell.method.label: _model_bytes(task) for task in trained if task.step.full}
    kept = {
        "adapters": 0,
        "best": max(models.values(), default=0),
        "all": sum(_model_bytes(t) for t in trained if t.step.full),
    }
    terms = (
        Term("indexes", DISK_INDEX_BYTES * sum(tokens.values())),
        Term("columns", DISK_COLUMN_BYTES * sum(columns.values())),
        Term("adapters", sum(4 * task.trainable for task in trained if not task.step.full)),
        Term("models kept", kept[keep]),
        Term("stems", _stem_bytes(trained)),
        Term("largest cell while it trains", max((_unfinished_bytes(task) for task in trained), default=0)),
    )
    return DiskPlan(_download_bytes(plan), terms)


def _model_bytes(task: CellTask) -> int:
    return task.trainable * _trained_width(task.step)


def _unfinished_bytes(task: CellTask) -> int:
    """A checkpoint stays until the next one is written; at the end the weights are written beside it."""
    copy = base_copy_bytes(task.step, task.shape)
    return 2 * checkpoint_bytes(task.step) + (copy if copy > MAPPED_COPY_BYTES else 0)


def _stem_bytes(trained: Sequence[CellTask]) -> int:
    """States from which larger budgets start: those of adapters, and of one full-size training at a time."""
    stems = {task.stem.folder: task.step for task in trained if task.stem}
    adapters = sum(checkpoint_bytes(step) for step in stems.values() if not step.full)
    return adapters + max((2 * checkpoint_bytes(step) for step in stems.values() if step.full), default=0)


def _download_bytes(plan: Plan) -> int:
    sources = {task.base.source.fingerprint: task.base.source for task in plan.cells}
    return sum(
        needed_bytes(source) for source in sources.values() if source.kind == "hub" and not is_downloaded(source)
    )


def index_tokens(index: IndexTask) -> int:
    """Tokens of an index at most: its cap, or what the size of the text allows, where that is known."""
    caps = [index.max_tokens] if index.max_tokens is not None else []
    if index.corpus.bytes_on_disk:
        caps.append(index.corpus.bytes_on_disk // TOKEN_TEXT_BYTES)
    return min(caps, default=0)


def cell_host_plan(plan: Plan, task: CellTask) -> HostPlan:
    """The host memory of a cell of `plan`, its texts included."""
    named = {
        task.train_index,
        task.replay_index,
        task.valid_index,
        *task.general_indexes,
        *(score.index for score in task.columns),
    }
    tokens = sum(index_tokens(index) for index in plan.indexes if index.folder in named)
    return host_plan(task.step, task.shape, task.base.source, memory=task.memory, index_tokens=tokens)


def largest_host_plan(plan: Plan, cells: Sequence[CellTask] | None = None) -> HostPlan:
    """The host memory of the cell that needs most."""
    plans = [
        host_plan
        for task in _distinct(plan.cells if cells is None else cells)
        for host_plan in (cell_host_plan(plan, task), _offloaded_base(plan, task), *_measure_plans(plan, task))
    ]
    return max(plans, key=lambda host_plan: host_plan.peak_bytes, default=HostPlan(()))


def _offloaded_base(plan: Plan, task: CellTask) -> HostPlan:
    """Scoring the unquantised base of a cell with a quantised one, where it is larger than the GPU."""
    width = BYTES[task.base.precision]
    on_gpu = layers_on_gpu(task.shape, width, plan.budget_bytes)
    if plan.device.kind == "cpu" or not task.base.quant or on_gpu == task.shape.layers:
        return HostPlan(())
    # the whole base model is loaded before its first layers move to the GPU
    base = Term("base, before its layers move to the GPU", width * task.shape.parameters)
    return HostPlan((Term("runtime", CUDA_RUNTIME_BYTES), base))


def _measure_plans(plan: Plan, task: CellTask) -> list[HostPlan]:
    """The host memory of the measures of a cell and of its base."""
    own = [one for one in plan.measures if one.base.source.fingerprint == task.base.source.fingerprint]
    every = (one.host_bytes for one in (*own, *task.measures))
    return [HostPlan(tuple(Term(name, size) for name, size in terms.items())) for terms in every if terms]


def _distinct(cells: Sequence[CellTask]) -> list[CellTask]:
    """One cell of each shape: a grid repeats shapes over learning rates and seeds."""
    return list({(t.step, t.cell.domain.name, t.cell.model): t for t in cells}.values())


def problems(
    plan: Plan,
    root: Path,
    cells: Sequence[CellTask] | None = None,
    keep: str = "adapters",
    checkpoint_disk_bytes: int | None = None,
) -> list[str]:
    """Sentences about what does not fit on this computer; none where everything fits or its memory is not known."""
    sentences = []
    available, needed = plan.device.host_free_bytes, largest_host_plan(plan, cells).peak_bytes
    if plan.device.kind == "cpu" and available is not None:
        available = max(available, plan.budget_bytes)  # a --memory above what is free is meant for another computer
    if available is not None and needed > available:
        sentences.append(f"{_gib(needed)} of host memory are needed and {_gib(available)} are free")
    subset = plan if cells is None else replace(plan, cells=tuple(cells))
    disk = disk_plan(subset, keep)
    free = shutil.disk_usage(_nearest_existing(root)).free
    if disk.output_bytes > max(free, MIN_REFUSED_BYTES):
        sentences.append(f"up to {_gib(disk.output_bytes)} are written below {root} and {_gib(free)} are free there")
    download_bytes = disk.download_bytes
    if checkpoint_disk_bytes is not None:
        largest_bytes = max((needed_bytes(task.base.source) for task in subset.cells), default=0)
        if largest_bytes > checkpoint_disk_bytes:
            limit = f"--checkpoint-disk is {_gib(checkpoint_disk_bytes)}"
            sentences.append(f"one of the models takes {_gib(largest_bytes)} of disk and {limit}")
        download_bytes = min(download_bytes, checkpoint_disk_bytes)
    return sentences + _download_problems(download_bytes)


def _download_problems(download_bytes: int) -> list[str]:
    if not download_bytes:
        return []
    from huggingface_hub.constants import HF_HUB_CACHE

    free = shutil.disk_usage(_nearest_existing(Path(HF_HUB_CACHE))).free
    if download_bytes <= free:
        return []
    return [f"{_gib(download_bytes)} have to be downloaded and {_gib(free)} are free in {HF_HUB_CACHE}"]


def _nearest_existing(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    absolute = path.expanduser().absolute()
    return next(folder for folder in (absolute, *absolute.parents) if folder.exists())


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
