"""What a run takes of the host: memory beside a card, and disk. From sizes alone, no torch.

`check` prints it, `run` refuses what cannot be held. On a CPU the step itself is in the host's memory and counted here
too. Weight files are mapped: the system drops those pages when it needs them, so they are not counted.
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
LOADERS = 4  # tensors that transformers reads at a time
STATE_BLOCK = 256  # numbers per constant of an 8-bit state
INDEX_ROW_BYTES = 26  # of a text in memory: index.parquet's columns
BLOCK_TOKEN_BYTES = 32  # packed into blocks: ids, labels, positions, segments
TOKEN_TEXT_BYTES = 3  # bytes of text a token stands for, at least on average
DISK_INDEX_BYTES, DISK_COLUMN_BYTES = 12, 8  # a token, on disk
LEAST_REFUSED_BYTES = (
    1 << 30
)  # of disk: below, what else is written decides, and a full disk is reported when it happens


@dataclass(frozen=True)
class HostPlan:
    """The host memory of one cell at its highest, term by term."""

    terms: tuple[Term, ...]

    @property
    def peak_bytes(self) -> int:
        """All terms together."""
        return sum(term.size_bytes for term in self.terms)


@dataclass(frozen=True)
class DiskPlan:
    """What a run writes: `downloads` to the caches, the rest below its output directory."""

    download_bytes: int
    terms: tuple[Term, ...]

    @property
    def output_bytes(self) -> int:
        """The most that the output directory holds at a time, finished and unfinished."""
        return sum(term.size_bytes for term in self.terms)


def host_plan(
    step: StepSpec, anatomy: ModelShape, source: ModelSource, *, bill: MemoryPlan | None = None, index_tokens: int = 0
) -> HostPlan:
    """Host memory of a cell that trains by `step`: loading or training, whichever is more, with texts of
    `index_tokens`.
    """
    texts = Term("texts", index_tokens * (INDEX_ROW_BYTES + BLOCK_TOKEN_BYTES))
    copy = base_copy_bytes(step, anatomy)
    held = Term("copy of the base", copy if copy <= MAPPED_COPY_BYTES else 0)
    start = Term("start of the adapters", 0 if step.full else 4 * step.trainable)
    kept = Term("kept weights", step.kept_copies * step.trainable * _trained_width(step))
    if step.device == "cpu":
        return HostPlan((Term("step", (bill or estimate(anatomy, step)).device_bytes), held, start, kept, texts))
    training = (*_pinned(step, anatomy), held, start, kept, Term("writing weights", _written_from_card(step)))
    loading = (Term("loading", _loading_bytes(step, anatomy, source)),)
    most = max(training, loading, key=lambda terms: sum(term.size_bytes for term in terms))
    return HostPlan((Term("runtime", CUDA_RUNTIME_BYTES), *most, texts))


def base_copy_bytes(step: StepSpec, anatomy: ModelShape) -> int:
    """The copy of the trained weights that puts the base back afterwards: in memory, or in a file where it is large."""
    return anatomy.parameters * BYTES[step.precision] if step.full else 0


def _loading_bytes(step: StepSpec, anatomy: ModelShape, source: ModelSource) -> int:
    """So many of the largest tensor as are read at a time, as stored; random ones are made on the device."""
    if source.kind == "random":
        return 0
    width = 4 if source.default_dtype == "float32" else 2
    largest = max(anatomy.vocabulary * anatomy.hidden, *(m.in_features * m.out_features for m in anatomy.linears))
    return LOADERS * largest * max(width, BYTES[step.precision])


def _pinned(step: StepSpec, anatomy: ModelShape) -> tuple[Term, ...]:
    """Buffers that the card reads and writes; PyTorch gives activations in powers of two and keeps them."""
    layer = step.micro_batch_size * step.seq_len * anatomy.hidden * BYTES[step.precision]
    activations = anatomy.layers * (1 << (layer - 1).bit_length()) if step.offload_activations else 0
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


def _written_from_card(step: StepSpec) -> int:
    """What a checkpoint brings over from the card at once: trained weights, and states where they are there."""
    width = _trained_width(step)
    return step.trainable * width + (0 if step.offload_optimizer else _state_bytes(step, width))


def checkpoint_bytes(step: StepSpec) -> int:
    """A saved training: weights, states, and the weights that an early stop keeps."""
    width = _trained_width(step)
    return (1 + step.kept_copies) * step.trainable * width + _state_bytes(step, width)


def disk_plan(plan: Plan, keep: str = "adapters") -> DiskPlan:
    """Downloads, indexes, columns, kept weights, and the largest unfinished cell: its old and its new checkpoint."""
    trained = [task for task in plan.cells if task.train_index]
    tokens = {index.folder: index_tokens(index) for index in plan.indexes}
    columns = {score.folder: tokens[score.index] for task in plan.cells for score in task.columns}
    columns |= {score.folder: tokens[score.index] for task in plan.cells for score in task.wise_ft_scores}
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
        Term("largest cell while it trains", max((_unfinished_bytes(task) for task in trained), default=0)),
    )
    return DiskPlan(_download_bytes(plan), terms)


def _model_bytes(task: CellTask) -> int:
    return task.trainable * _trained_width(task.step)


def _unfinished_bytes(task: CellTask) -> int:
    """A checkpoint is there until the next one is whole; then the weights are written beside it."""
    copy = base_copy_bytes(task.step, task.shape)
    return 2 * checkpoint_bytes(task.step) + (copy if copy > MAPPED_COPY_BYTES else 0)


def _download_bytes(plan: Plan) -> int:
    sources = {task.base.source.fingerprint: task.base.source for task in plan.cells}
    return sum(
        needed_bytes(source) for source in sources.values() if source.kind == "hub" and not is_downloaded(source)
    )


def index_tokens(index: IndexTask) -> int:
    """Tokens of an index at most: its cap, or what the text's size allows where that is known."""
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
    return host_plan(task.step, task.shape, task.base.source, bill=task.memory, index_tokens=tokens)


def largest_host_plan(plan: Plan, cells: Sequence[CellTask] | None = None) -> HostPlan:
    """The host memory of the cell that takes most."""
    wanted = _distinct(plan.cells if cells is None else cells)
    plans = [
        found
        for task in wanted
        for found in (cell_host_plan(plan, task), _spread_base(plan, task), noise_host_plan(plan, task))
    ]
    return max(plans, key=lambda found: found.peak_bytes, default=HostPlan(()))


def _spread_base(plan: Plan, task: CellTask) -> HostPlan:
    """Scoring the unquantised base of a cell with a quantised one, where it is larger than the card."""
    width = BYTES[task.base.precision]
    staying = layers_on_gpu(task.shape, width, plan.budget_bytes)
    if plan.device.kind == "cpu" or not task.base.quant or staying == task.shape.layers:
        return HostPlan(())
    whole = Term("base beside the card", width * task.shape.parameters)  # loaded here before its first layers move
    return HostPlan((Term("runtime", CUDA_RUNTIME_BYTES), whole))


def noise_host_plan(plan: Plan, task: CellTask) -> HostPlan:
    """Shifting the weights of the cell's base by noise: what they are put back from, and the direction that is
    followed.
    """
    noise = plan.recipe.noise
    if noise is None:
        return HostPlan(())
    whole = BYTES[task.base.precision] * task.shape.parameters
    kept = Term("weights to put back", whole if whole <= MAPPED_COPY_BYTES else 0)
    followed = Term("update or gradient", 4 * task.shape.parameters if task.update_noise or noise.sharpness else 0)
    if plan.device.kind == "cuda":
        return HostPlan((Term("runtime", CUDA_RUNTIME_BYTES), kept, followed))
    gradient = Term("gradient of a batch", 4 * task.shape.parameters if noise.sharpness else 0)
    return HostPlan((Term("base", whole), Term("scoring", task.scoring_bytes), kept, followed, gradient))


def _distinct(cells: Sequence[CellTask]) -> list[CellTask]:
    """One cell of each shape: a grid repeats them over rates and seeds."""
    return list({(t.step, t.cell.domain.name, t.cell.model): t for t in cells}.values())


def problems(
    plan: Plan,
    root: Path,
    cells: Sequence[CellTask] | None = None,
    keep: str = "adapters",
    checkpoint_disk_bytes: int | None = None,
) -> list[str]:
    """Sentences about what this computer cannot hold; none where all is well or its memory is not known."""
    found = []
    have, need = plan.device.host_free_bytes, largest_host_plan(plan, cells).peak_bytes
    if plan.device.kind == "cpu" and have is not None:
        have = max(have, plan.budget_bytes)  # a --memory above what is free is meant for another computer
    if have is not None and need > have:
        found.append(f"{_gib(need)} of host memory are needed and {_gib(have)} are free")
    some = plan if cells is None else replace(plan, cells=tuple(cells))
    disk, place = disk_plan(some, keep), _existing(root)
    free = shutil.disk_usage(place).free
    if disk.output_bytes > max(free, LEAST_REFUSED_BYTES):
        found.append(f"up to {_gib(disk.output_bytes)} are written below {root} and {_gib(free)} are free there")
    if checkpoint_disk_bytes is None:
        return found + _no_room_for_downloads(disk.download_bytes)
    largest_bytes = max((needed_bytes(task.base.source) for task in some.cells), default=0)
    if largest_bytes > checkpoint_disk_bytes:
        found.append(
            f"one of the models takes {_gib(largest_bytes)} of disk and --checkpoint-disk is {_gib(checkpoint_disk_bytes)}"
        )
    return found + _no_room_for_downloads(min(disk.download_bytes, checkpoint_disk_bytes))


def _no_room_for_downloads(download_bytes: int) -> list[str]:
    if not download_bytes:
        return []
    from huggingface_hub.constants import HF_HUB_CACHE

    free = shutil.disk_usage(_existing(Path(HF_HUB_CACHE))).free
    return [f"{_gib(download_bytes)} have to be downloaded and {_gib(free)} are free in {HF_HUB_CACHE}"] * (
        download_bytes > free
    )


def _existing(place: Path) -> Path:
    """The folder itself or the nearest one above it that is there."""
    whole = place.expanduser().absolute()
    return next(folder for folder in (whole, *whole.parents) if folder.exists())


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
