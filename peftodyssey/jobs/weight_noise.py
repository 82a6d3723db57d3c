"""Job: shift a base's weights again and again, score one text each time, and commit the losses by document.

`perturb` is called by the scheduler for a base, `along` by `jobs.adapt` for what a cell's training added to it. Both go
on from the last shift that was scored, and leave the base bit for bit as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftodyssey.corpora.index import first_windows
from peftodyssey.errors import ModelError
from peftodyssey.jobs import score
from peftodyssey.jobs.callbacks import Events, How
from peftodyssey.jobs.index import opened
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.methods.weights import snapshot
from peftodyssey.plan.tasks import BaseModelKey, CellTask, NoiseTask, Plan
from peftodyssey.recipe.identity import digest
from peftodyssey.scoring import weight_noise
from peftodyssey.scoring.critical_sharpness import Critical, critical_step
from peftodyssey.scoring.descent_direction import negative_gradient
from peftodyssey.stats.bootstrap import document_sums
from peftodyssey.store import atomic, layout, manifest, parquet, tables

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

SO_FAR = "so_far.json"
FIRST_STEP = 0.01  # of the search for a critical step, in units of the weights' norm
Update = Mapping[str, "torch.Tensor"]


@dataclass(frozen=True)
class Shift:
    """One shift of the weights: its coordinates in `shifts.parquet`, what it does to a tensor, and its sign."""

    told: dict[str, Any]
    change: weight_noise.Change
    sign: int = 1


def perturb(task: NoiseTask, root: Path, bases: LoadedModels, how: How, events: Events) -> None:
    """Every shift of a base that the recipe asks for, on one text."""
    reference = _reference(task.earliest, root, bases) if task.earliest else None
    base, prefix = bases.get(task.base), bases.tokenizer(task.base).prefix_id
    bench = _NoiseRun(task, root, base, prefix, how, events, reference)
    bench.score_all(bench.of_base())
    found = [("gradient", bench.against_gradient())] if task.noise.sharpness else []
    bench.commit(dict(found))


def missing(plan: Plan, cells: Sequence[CellTask], root: Path) -> list[NoiseTask]:
    """The shifts of the bases that `cells` stand on which are not measured yet."""
    held = {(task.base.source.fingerprint, task.base.precision) for task in cells}
    wanted = [task for task in plan.noise if (task.base.source.fingerprint, task.base.precision) in held]
    return [task for task in wanted if manifest.read(root / task.score.folder) is None]


def missing_updates(task: CellTask, root: Path) -> list[NoiseTask]:
    """Those of a cell's updates that are not measured yet."""
    return [update for update in task.update_noise if manifest.read(root / update.score.folder) is None]


def names(task: CellTask, root: Path, base: PreTrainedModel) -> tuple[str, ...]:
    """The matrices whose update is needed, none where all is measured; asked before the method is on the base."""
    wanted = missing_updates(task, root)
    return tuple(weight_noise.matrices(base, wanted[0].noise.tensors)) if wanted else ()


def perturb_along_update(
    task: CellTask, root: Path, base: PreTrainedModel, update: Update, prefix: int | None, how: How, events: Events
) -> None:
    """The base shifted along `update` at the lengths of the noise; and the critical step along it."""
    for each in missing_updates(task, root) if update else ():
        reference = _known(each.earliest, root) if each.earliest else None
        if each.earliest and reference is None:
            raise ModelError(
                "the scale of noise is that of the earliest rung, whose noise could not be measured", "see its reason"
            )
        bench = _NoiseRun(each, root, base, prefix, how, events, reference)
        bench.score_all(bench.of_update(update))
        bench.commit({"update": bench.critical(update)})


class _NoiseRun:
    """One base, one text, and what was scored so far."""

    def __init__(
        self,
        task: NoiseTask,
        root: Path,
        base: PreTrainedModel,
        prefix: int | None,
        how: How,
        events: Events,
        reference: Mapping[str, float] | None,
    ) -> None:
        self.task, self.root, self.base, self.prefix, self.how, self.events = task, root, base, prefix, how, events
        self.tensors = weight_noise.matrices(base, task.noise.tensors)
        self.originals = snapshot(self.tensors)
        self.sigma = weight_noise.sigmas(base, self.tensors, task.noise.scale, reference)
        self.unit = weight_noise.length(self.tensors, self.sigma)  # Frobenius norm of the noise at gamma 1
        self.folder = manifest.prepare_dir(root / task.score.folder, keep=(SO_FAR,))
        self.done: dict[str, dict[str, Any]] = _read(self.folder / SO_FAR)
        self.index = first_windows(opened(root / task.score.index), task.noise.documents, task.score.settings.context)

    def of_base(self) -> Iterator[Shift]:
        """Gaussian and low-rank noise by size, rank, pair and sign, then roundings."""
        wanted = self.task.noise
        for gamma in wanted.gammas:
            for rank in (None, *sorted({rank for rank in wanted.ranks if rank})):
                for pair in range(wanted.pairs):
                    if rank is None:
                        change = weight_noise.gaussian(self.sigma, gamma, pair)
                    else:
                        change = weight_noise.low_rank(self.sigma, gamma, pair, rank)
                    told = {"kind": "low_rank" if rank else "gaussian", "gamma": gamma, "rank": rank, "pair": pair}
                    yield from (Shift({**told, "sign": sign}, change, sign) for sign in (1, -1))
        for kind in wanted.quantisers:
            yield Shift({"kind": "quantiser", "quantiser": kind, "sign": 1}, weight_noise.rounding(kind))

    def of_update(self, update: Update) -> Iterator[Shift]:
        """Along the update at the length of each noise."""
        for gamma in self.task.noise.gammas:
            yield Shift(
                {"kind": "update", "gamma": gamma, "sign": 1}, weight_noise.rescaled_update(update, gamma * self.unit)
            )

    def score_all(self, shifts: Iterator[Shift]) -> None:
        """Score the base and every shift that has not been scored yet; each is on disk before the next."""
        for shift in (Shift({"kind": "base"}, weight_noise.gaussian(self.sigma, 0.0, 0)), *shifts):
            name = json.dumps(shift.told, sort_keys=True)
            if name in self.done:
                continue
            if shift.told["kind"] == "base":
                norm, relative, nll_nats = 0.0, 0.0, self._score()
            else:
                with weight_noise.perturbed_weights(self.tensors, self.originals, shift.change, shift.sign) as (
                    norm,
                    relative,
                ):
                    nll_nats = self._score()
            sums, tokens = document_sums(nll_nats, self.index.document)
            kept = {"norm": norm, "relative": relative, "sums": sums.tolist(), "tokens": tokens.tolist()}
            self.done[name] = {**shift.told, **kept}
            atomic.write_text(self.folder / SO_FAR, json.dumps(self.done))

    def _score(self) -> np.ndarray:
        found = score.score_and_write_adapters(
            self.task.score, 1, self.root, self.base, self.prefix, self.how, self.events, self.index
        )
        return found[0].nll_nats

    def critical(self, direction: Update) -> dict[str, Any]:
        """The smallest step along `direction` that raises the loss on the text, and what it took to find."""
        whole = math.sqrt(math.fsum(float(t.double().square().sum()) for t in self.originals.values()))

        def loss(step: float) -> float:
            with weight_noise.perturbed_weights(
                self.tensors, self.originals, weight_noise.rescaled_update(direction, step)
            ):
                nll_nats = self._score()
            return float(np.nanmean(nll_nats, dtype=np.float64))

        found: Critical = critical_step(loss, FIRST_STEP * whole)
        length = math.sqrt(math.fsum(float(part.double().square().sum()) for part in direction.values()))
        return {"step_lo": found.lo, "step_hi": found.hi, "passes": found.passes, "length": length}

    def against_gradient(self) -> dict[str, Any]:
        """The critical step against the gradient of the text's loss, which takes one backward pass a batch."""
        task = self.task.score
        gradient = negative_gradient(
            self.base,
            self.tensors,
            self.index,
            task.settings,
            prefix=self.prefix,
            device=self.how.device,
            batch_tokens=task.batch_tokens,
        )
        return self.critical(gradient)

    def commit(self, critical: Mapping[str, Any]) -> None:
        """Write `shifts.parquet` and the manifest."""
        rows = [row for one in self.done.values() for row in _rows(one)]
        parquet.write_rows(self.folder / layout.SHIFTS, rows, tables.SHIFTS)
        (self.folder / SO_FAR).unlink()
        numbers = sum(t.numel() for t in self.tensors.values())
        facts = {
            "sigma": self.unit / math.sqrt(numbers),
            "unit": self.unit,
            "tensors": sorted(self.tensors),
            "numbers": numbers,
            "critical": dict(critical),
        }
        task = self.task.score
        manifest.commit(self.folder, {"kind": "noise", "identity": task.identity, "status": "done", "facts": facts})


def _rows(one: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    told = {name: value for name, value in one.items() if name not in ("sums", "tokens")}
    for document, (nats, tokens) in enumerate(zip(one["sums"], one["tokens"], strict=True)):
        yield {**told, "document": document, "tokens": int(tokens), "nll_sum_nats": nats}


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _reference(earliest: BaseModelKey, root: Path, bases: LoadedModels) -> dict[str, float]:
    """Root mean square of each matrix of the earliest rung, measured once and kept."""
    folder = _place(earliest, root)
    if (known := _known(earliest, root)) is not None:
        return known
    found = weight_noise.root_mean_squares(weight_noise.matrices(bases.get(earliest), ("blocks", "embeddings", "head")))
    manifest.commit(
        manifest.prepare_dir(folder), {"kind": "scale", "status": "done", "facts": {"root_mean_square": found}}
    )
    return found


def _known(earliest: BaseModelKey, root: Path) -> dict[str, float] | None:
    written = manifest.read(_place(earliest, root))
    return written["facts"]["root_mean_square"] if written else None


def _place(earliest: BaseModelKey, root: Path) -> Path:
    told = {"scale_of": earliest.source.fingerprint, "precision": earliest.precision}
    return root / layout.NOISE / layout.folder_name(layout.slug("scale", earliest.source.revision), digest(told))
