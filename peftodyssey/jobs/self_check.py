"""Checks of every training on itself, whose figures stand in its manifest: what a cell says is what its weights do.

They look at one document and at samples of the weights, so that they cost a few forward passes of 256 tokens.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from peftodyssey.errors import TrainingError
from peftodyssey.jobs import score
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import attached_method
from peftodyssey.jobs.index import opened
from peftodyssey.store import parquet

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from peftodyssey.corpora.index import Index
    from peftodyssey.methods.attached import AttachedMethod
    from peftodyssey.plan.tasks import CellTask, ScoreTask

TOKENS = 256  # of the document that is scored again
SAMPLES = 1024  # bytes of each weight
# Mean difference per token between two ways of computing one loss, nats: float32 in another order of batches, half
# precision in another order of batches; int8 products round activations by the outliers of the whole batch.
TOLERANCE_NATS = {"fp32": 1e-4, "bf16": 0.05, "fp16": 0.02}
TOLERANCE_INT8_NATS = 0.05
OFF = "off"

_digests: WeakKeyDictionary[Any, dict[str, str]] = WeakKeyDictionary()  # of base models, as they were first seen


@dataclass
class SelfCheck:
    """The checks of one cell: name -> figure, which of them are broken, and the seconds that they took."""

    figures: dict[str, float | int | str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, name: str, figure: float | int | str, held: bool) -> None:
        """Note a check."""
        self.figures[name] = figure
        if not held:
            self.broken.append(f"{name}: {figure}")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the seconds of the block."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def facts(self) -> dict[str, Any]:
        """For the manifest. Raises TrainingError where a check is broken."""
        if self.broken:
            raise TrainingError(
                f"self-check broken: {'; '.join(self.broken)}",
                "`peftodyssey doctor --laws` tests this machine and these versions; --no-selfcheck checks nothing",
            )
        return {**self.figures, "seconds": round(self.seconds, 3)}


def remember_base(base: PreTrainedModel) -> None:
    """Note the bytes of a base before anything is attached to it; the first call for a model counts."""
    if base not in _digests:
        _digests[base] = sampled_bytes(base)


def check_start(check: SelfCheck, attached: AttachedMethod, index: Index) -> None:
    """Before the first step: the logits with the adapter are those of the base, where it starts at zero."""
    import torch

    from peftodyssey.models.scoring_mode import scoring_mode

    if not attached.is_adapter or attached.base_weights or not hasattr(attached.model, "disable_adapter"):
        return
    ids = torch.from_numpy(index.token[: TOKENS // 4].astype(np.int64))[None].to(attached.base.device)
    with scoring_mode(attached.model):
        adapted = attached.model(input_ids=ids, use_cache=False).logits.float()
        with attached.model.disable_adapter():
            base = attached.model(input_ids=ids, use_cache=False).logits.float()
    difference = float((adapted - base).abs().max())
    is_free = attached.spec.method == "peft"  # whose config may ask for another start
    check.add("start_logits_difference", difference, is_free or difference <= 1e-2 * max(1.0, float(base.abs().max())))


def check_columns(check: SelfCheck, task: CellTask, prefix: int | None, context: JobContext) -> None:
    """Every column has a loss for each token that it should have one for."""
    for column in task.columns:
        index, nll_nats = opened(context.root / column.index), parquet.read_nll(context.root / column.folder)[0]
        scored, expected = int((~np.isnan(nll_nats)).sum()), scorable(index, column, prefix)
        check.add(f"tokens_scored {Path(column.index).name}", f"{scored} of {expected}", scored == expected)


def scorable(index: Index, column: ScoreTask, prefix: int | None) -> int:
    """How many tokens of an index a column has a loss for: all, or those of answers, less first tokens.

    Under `bos` a first token counts unless it is that token itself, which then nothing precedes.
    """
    kept = index.trained.copy()
    first = index.starts[:-1] if column.settings.mode == "documents" else index.starts[:1]
    left_out = first if column.settings.first_token == "skip" else first[index.token[first] == prefix]
    kept[left_out] = False
    return int(kept.sum())


def check_end(check: SelfCheck, task: CellTask, base: PreTrainedModel, prefix: int | None, context: JobContext) -> None:
    """On the base without its method: its bytes are as they were; the saved adapter gives the losses of the column.

    One document is scored alone, while the column was scored with others in one pass.
    """
    if (before := _digests.get(base)) is not None:
        after = sampled_bytes(base)
        changed = [name for name in before if name in after and after[name] != before[name]]
        check.add("base_weights_changed", ", ".join(changed[:3]) or "none", not changed)
    weights = context.root / task.folder / "adapter"
    columns = [column for column in task.columns if column.settings.mode == "documents"]
    if not weights.is_dir() or not columns:
        return
    column, rows, document = columns[0], *_document(context, columns[0])
    with attached_method(task, base, weights) as loaded:
        again = score.scored_adapters(column, 1, loaded.model, prefix, context, index=document)[0].nll_nats
    stored = parquet.read_nll(context.root / column.folder)[0][rows]
    both = ~np.isnan(again) & ~np.isnan(stored)
    difference = float(np.abs(again[both] - stored[both]).mean()) if both.any() else 0.0
    int8 = any(type(module).__name__ == "Linear8bitLt" for module in base.modules())
    tolerance = TOLERANCE_INT8_NATS if int8 else TOLERANCE_NATS[task.base.precision]
    held = math.isfinite(difference) and difference <= tolerance
    check.add("reloaded_loss_difference", difference, held)


def _document(context: JobContext, column: ScoreTask) -> tuple[slice, Index]:
    """The beginning of one document of a column's text: its rows there, and an index of its own."""
    from peftodyssey.corpora.index import first_windows

    index = opened(context.root / column.index)
    alone = first_windows(index, 1, min(TOKENS, column.settings.context - 1))
    begin = int(index.starts[np.flatnonzero(index.document[index.starts[:-1]] == alone.document[0])[0]])
    return slice(begin, begin + len(alone.token)), alone


def sampled_bytes(model: PreTrainedModel) -> dict[str, str]:
    """By name: SHA-256 of up to SAMPLES evenly spaced bytes of a parameter, quantised storage included.

    Parameters that are not there at the moment (of layers that are loaded for each pass) are left out.
    """
    import torch

    samples: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta" or not parameter.numel():
            continue
        stored = parameter.detach().reshape(-1)
        spaced = stored[:: max(1, stored.numel() * stored.element_size() // SAMPLES)]
        samples[name] = spaced.contiguous().view(torch.uint8)[:SAMPLES]
    if not samples:
        return {}
    device = next(iter(samples.values())).device
    joined = torch.cat([sample.to(device) for sample in samples.values()]).cpu().numpy()  # one copy from a GPU
    ends = np.cumsum([len(sample) for sample in samples.values()])
    parts = np.split(joined, ends[:-1])
    return {name: hashlib.sha256(part.tobytes()).hexdigest() for name, part in zip(samples, parts, strict=True)}
