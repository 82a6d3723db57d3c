"""Job: perturb a base's weights, score one text for each perturbation, and commit the losses by document.

The weights move by noise, or along what a cell's training added to them. A task resumes after the last perturbation
that was scored, and leaves the base bit for bit as it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftodyssey.corpora.index import first_windows
from peftodyssey.errors import ModelError
from peftodyssey.jobs import score
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.handle import Handle, Update
from peftodyssey.jobs.index import opened
from peftodyssey.measures.noise import perturbation as weight_noise
from peftodyssey.measures.noise.critical_step import critical_step
from peftodyssey.measures.noise.descent_direction import negative_gradient
from peftodyssey.measures.noise.plan import FOLDER, NoiseJob
from peftodyssey.measures.noise.table import SHIFTS, SHIFTS_FILE
from peftodyssey.methods.weights import snapshot
from peftodyssey.models.weight_matrices import weight_matrices
from peftodyssey.plan.tasks import BaseModelKey, MeasureTask
from peftodyssey.recipe.identity import digest
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.stats.bootstrap import document_sums
from peftodyssey.store import atomic, layout, manifest, parquet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PARTIAL_FILE = "so_far.json"
FIRST_STEP = 0.01  # of the search for a critical step, in units of the weights' norm


@dataclass(frozen=True)
class Perturbation:
    """One change of the weights: its coordinates in `shifts.parquet`, what it does to a tensor, and its sign."""

    coordinates: dict[str, Any]
    change: weight_noise.Change
    sign: int = 1


def run(task: MeasureTask, handle: Handle, context: JobContext) -> None:
    """Scores one text under every perturbation of a base, or along a cell's update. Interrupted where the user stops.

    Raises ModelError where the scale of the noise is not known.
    """
    if task.cell is None:
        _perturb(task, handle, context)
    else:
        _perturb_along_update(task, handle, context)


def _perturb(task: MeasureTask, handle: Handle, context: JobContext) -> None:
    """Scores every perturbation of a base that the recipe asks for."""
    job: NoiseJob = task.options
    # before the base itself, because only one model is in memory at a time
    reference = _measure_reference(job.earliest, context.root, handle) if job.earliest else None
    measured = _NoiseRun(job, handle.base(), handle.tokenizer.prefix_id, reference, context)
    measured.score_all(measured.of_base())
    measured.commit({"gradient": measured.against_gradient()} if job.noise.sharpness else {})


def _perturb_along_update(task: MeasureTask, handle: Handle, context: JobContext) -> None:
    """Scores the base moved along the update by the lengths of the noise, and finds the critical step along it."""
    job: NoiseJob = task.options
    trained = handle.update(job.noise.tensors)
    base = handle.base()
    names = weight_matrices(base, job.noise.tensors)  # a head that is tied to the embeddings has their name only
    update = {name: change for name, change in trained.items() if name in names}
    if not update:
        # Training changed none of these tensors, so there is no direction and no row of noise.parquet. An empty table
        # is committed, so that the task is done and the cell is finished.
        folder = manifest.prepare_dir(context.root / task.folder)
        _commit(folder, task.identity, [], {"tensors": sorted(names), "critical": {}})
        return
    reference = _read_reference(job.earliest, context.root) if job.earliest else None
    if job.earliest and reference is None:
        raise ModelError(
            "the scale of the noise is that of the earliest rung, whose noise could not be measured",
            "see why that failed",
        )
    measured = _NoiseRun(job, base, handle.tokenizer.prefix_id, reference, context)
    measured.score_all(measured.of_update(update))
    measured.commit({"update": measured.critical(update)})


class _NoiseRun:
    """One base, one text, and what was scored so far."""

    def __init__(
        self,
        job: NoiseJob,
        base: PreTrainedModel,
        prefix: int | None,
        reference: Mapping[str, float] | None,
        context: JobContext,
    ) -> None:
        self.job, self.base, self.prefix, self.context = job, base, prefix, context
        self.tensors = weight_matrices(base, job.noise.tensors)
        self.originals = snapshot(self.tensors)
        self.sigma = weight_noise.sigmas(base, self.tensors, job.noise.scale, reference)
        self.unit = weight_noise.expected_norm(self.tensors, self.sigma)  # Frobenius norm of the noise at gamma 1
        self.folder = manifest.prepare_dir(context.root / job.score.folder, keep=(PARTIAL_FILE,))
        partial = self.folder / PARTIAL_FILE
        self.done: dict[str, dict[str, Any]] = json.loads(partial.read_text("utf-8")) if partial.is_file() else {}
        index = opened(context.root / job.score.index)
        self.index = first_windows(index, job.noise.documents, job.score.settings.context)

    def of_base(self) -> Iterator[Perturbation]:
        """Gaussian and low-rank noise by size, rank, pair and sign, then roundings."""
        noise = self.job.noise
        for gamma in noise.gammas:
            for rank in (None, *sorted({rank for rank in noise.ranks if rank})):
                for pair in range(noise.pairs):
                    if rank is None:
                        change = weight_noise.gaussian(self.sigma, gamma, pair)
                    else:
                        change = weight_noise.low_rank(self.sigma, gamma, pair, rank)
                    kind = "low_rank" if rank else "gaussian"
                    for sign in (1, -1):
                        coordinates = {"kind": kind, "gamma": gamma, "rank": rank, "pair": pair, "sign": sign}
                        yield Perturbation(coordinates, change, sign)
        for kind in noise.quantisers:
            yield Perturbation({"kind": "quantiser", "quantiser": kind, "sign": 1}, weight_noise.rounding(kind))

    def of_update(self, update: Update) -> Iterator[Perturbation]:
        """Along the update by the length of each noise."""
        for gamma in self.job.noise.gammas:
            change = weight_noise.rescaled_update(update, gamma * self.unit)
            yield Perturbation({"kind": "update", "gamma": gamma, "sign": 1}, change)

    def score_all(self, perturbations: Iterable[Perturbation]) -> None:
        """Scores the base and every perturbation that was not scored yet; each is on disk before the next."""
        if (base := json.dumps({"kind": "base"})) not in self.done:
            self._add(base, {"kind": "base"}, 0.0, 0.0)
        for one in perturbations:
            name = json.dumps(one.coordinates, sort_keys=True)
            if name not in self.done:
                with weight_noise.perturbed_weights(self.tensors, self.originals, one.change, one.sign) as (
                    norm,
                    relative,
                ):
                    self._add(name, one.coordinates, norm, relative)

    def _add(self, name: str, coordinates: dict[str, Any], norm: float, relative: float) -> None:
        """Scores the base as it stands and writes the result."""
        sums, tokens = document_sums(self._score(), self.index.document)
        result = {"norm": norm, "relative": relative, "sums": sums.tolist(), "tokens": tokens.tolist()}
        self.done[name] = {**coordinates, **result}
        atomic.write_text(self.folder / PARTIAL_FILE, json.dumps(self.done))

    def _score(self) -> np.ndarray:
        results = score.scored_adapters(self.job.score, 1, self.base, self.prefix, self.context, self.index)
        return results[0].nll_nats

    def critical(self, direction: Update) -> dict[str, Any]:
        """The smallest step along `direction` that raises the loss on the text, and what it took to find."""
        weights_norm = _norm(self.originals)

        def loss(step: float) -> float:
            change = weight_noise.rescaled_update(direction, step)
            with weight_noise.perturbed_weights(self.tensors, self.originals, change):
                nll_nats = self._score()
            return float(np.nanmean(nll_nats, dtype=np.float64))

        critical = critical_step(loss, FIRST_STEP * weights_norm)
        length = _norm(direction)
        return {"step_lo": critical.lo, "step_hi": critical.hi, "passes": critical.passes, "length": length}

    def against_gradient(self) -> dict[str, Any]:
        """The critical step against the gradient of the text's loss, which takes one backward pass a batch."""
        task = self.job.score
        gradient = negative_gradient(
            self.base,
            self.tensors,
            self.index,
            task.settings,
            ScoreSettings(self.context.options.device, task.batch_tokens),
            prefix=self.prefix,
        )
        return self.critical(gradient)

    def commit(self, critical: Mapping[str, Any]) -> None:
        """Writes `shifts.parquet` and the manifest."""
        rows = [row for scored in self.done.values() for row in _rows(scored)]
        elements = sum(t.numel() for t in self.tensors.values())
        facts = {
            "sigma": self.unit / math.sqrt(elements),
            "unit": self.unit,
            "tensors": sorted(self.tensors),
            "numbers": elements,
            "critical": dict(critical),
        }
        _commit(self.folder, self.job.score.identity, rows, facts)


def _commit(folder: Path, identity: dict[str, Any], rows: list[dict[str, Any]], facts: dict[str, Any]) -> None:
    parquet.write_rows(folder / SHIFTS_FILE, rows, SHIFTS)
    (folder / PARTIAL_FILE).unlink(missing_ok=True)
    manifest.commit(folder, {"kind": "noise", "identity": identity, "status": "done", "facts": facts})


def _norm(tensors: Update) -> float:
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors.values()))


def _rows(scored: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row for each document of a scored perturbation."""
    columns = {name: value for name, value in scored.items() if name not in ("sums", "tokens")}
    for document, (nats, tokens) in enumerate(zip(scored["sums"], scored["tokens"], strict=True)):
        yield {**columns, "document": document, "tokens": int(tokens), "nll_sum_nats": nats}


def _measure_reference(earliest: BaseModelKey, root: Path, handle: Handle) -> dict[str, float]:
    """Root mean square of each matrix of the earliest rung, measured once and kept on disk."""
    if (known := _read_reference(earliest, root)) is not None:
        return known
    facts = {"root_mean_square": weight_noise.root_mean_squares(weight_matrices(handle.base(earliest)))}
    folder = manifest.prepare_dir(_reference_folder(earliest, root))
    manifest.commit(folder, {"kind": "scale", "status": "done", "facts": facts})
    return facts["root_mean_square"]


def _read_reference(earliest: BaseModelKey, root: Path) -> dict[str, float] | None:
    written = manifest.read(_reference_folder(earliest, root))
    return written["facts"]["root_mean_square"] if written else None


def _reference_folder(earliest: BaseModelKey, root: Path) -> Path:
    identity = {"scale_of": earliest.source.fingerprint, "precision": earliest.precision}
    return root / FOLDER / layout.folder_name(layout.slug("scale", earliest.source.revision), digest(identity))
