"""A trained adapter merged into its base, and how far the merged model is from the adapter on the text of the run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from peftodyssey.corpora.index import read_index, whole_documents
from peftodyssey.errors import InputError, StoreError
from peftodyssey.methods import base_dropout
from peftodyssey.methods.registry import METHODS
from peftodyssey.models.load import load
from peftodyssey.models.quantised import dequantise
from peftodyssey.models.source import ModelSource, resolve
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.plan.tasks import BaseModelKey
from peftodyssey.recipe.cell import ScoreSpec
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.stats.bootstrap import Interval, paired_bootstrap
from peftodyssey.stats.degradation import mean_nats
from peftodyssey.store import manifest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

INTO = ("dequantised", "original")
DRIFT_TOKENS = 20_000  # of the test text, by whole documents
MAX_DRIFT = 0.01


@dataclass(frozen=True)
class MergeOptions:
    """Into which weights an adapter is merged, and what difference in NLL is accepted."""

    into: str | None = None  # of a quantised base: dequantised (None too: what the adapter was trained on) or original
    max_drift: float = MAX_DRIFT  # nats per token: upper end of the interval of NLL(merged) - NLL(adapter)
    force: bool = False  # write the merged model although it differs by more

    def __post_init__(self) -> None:
        if self.into is not None and self.into not in INTO:
            raise InputError(f"--into {self.into}: allowed are {', '.join(INTO)}")
        if not (math.isfinite(self.max_drift) and self.max_drift >= 0):
            raise InputError(f"--max-drift {self.max_drift}: a number of nats per token from 0 on")


@dataclass(frozen=True)
class MergeDrift:
    """The merged model beside the adapter on its own base, on the same tokens of the test text; nats per token."""

    documents: int
    tokens: int
    adapter_nll: float
    merged_nll: float
    change: Interval  # merged - adapter
    kl: float  # mean KL(adapter || merged) of the predicted distributions

    @property
    def upper(self) -> float:
        """What must not exceed the accepted difference: the upper end, or the estimate where there is no interval."""
        return self.change.estimate if self.change.upper is None else self.change.upper

    @property
    def change_text(self) -> str:
        """The difference with its interval, or why there is none."""
        if self.change.lower is None:
            return f"{_nats(self.change.estimate)} ({self.change.note} for an interval: the estimate decides)"
        lower, upper = _nats(self.change.lower), _nats(self.upper)
        return f"{_nats(self.change.estimate)} (95 % interval {lower} to {upper})"

    def __str__(self) -> str:
        return (
            f"NLL(merged) - NLL(adapter on its base) {self.change_text} nats/token, KL {self.kl:.2e} nats/token, "
            f"on {self.tokens:,} tokens of {self.documents} documents of the test text"
        )


@dataclass(frozen=True)
class Merged:
    """What was merged into what, and how far the result is from the adapter."""

    into: str  # a sentence
    drift: MergeDrift
    notes: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """What a command prints of it."""
        return self.into, f"Drift: {self.drift}."


@dataclass(frozen=True)
class Merge:
    """One adapter, its base as it was trained on, and the scoring of its run."""

    adapter: Path
    base: BaseModelKey
    device: str
    index: Path
    spec: ScoreSpec

    def write(self, folder: Path, options: MergeOptions) -> Merged:
        """Writes the merged model to `folder` and compares what plain transformers loads from there with the adapter.

        Raises InputError where the NLL rises by more than `options` accept.
        """
        into = self._into(options)
        stored_as, notes = self._save(folder, into)
        drift = self._drift(folder)
        too_far = not drift.upper <= options.max_drift  # NaN is too far as well
        if too_far and not options.force:
            raise InputError(
                f"the merged model is not the adapter on its base: {drift}; accepted are {options.max_drift:g}",
                ("merge into the dequantised base, " if into == "original" else "")
                + "accept more with --max-drift, or write it all the same with --force",
            )
        if too_far:
            notes = (*notes, f"the drift exceeds the accepted {options.max_drift:g} nats/token; written with --force")
        return Merged(_sentence(into, self._stored_kind(), stored_as), drift, notes)

    def _into(self, options: MergeOptions) -> str | None:
        """dequantised or original; None where the base is not quantised."""
        if self._stored_kind() is None:
            if options.into == "dequantised":
                raise InputError(f"--into dequantised: {self.base.source.name} is not quantised", "leave --into out")
            return None
        if options.into == "original" and self.base.source.stored_quant:
            raise InputError(
                f"--into original: {self.base.source.name} is stored quantised and has no other weights",
                "merge into the dequantised ones; or train on the unquantised checkpoint",
            )
        return options.into or "dequantised"

    def _stored_kind(self) -> str | None:
        quant = self.base.quant or self.base.source.stored_quant
        return None if quant is None else quant.kind

    def _load(self, *, quantised: bool) -> PreTrainedModel:
        quant = self.base.quant if quantised else None
        return load(self.base.source, precision=self.base.precision, quant=quant, device=self.device)

    def _save(self, folder: Path, into: str | None) -> tuple[str, tuple[str, ...]]:
        """Writes the merged model; (type of its weights, notes)."""
        model = self._load(quantised=into == "dequantised")
        if into == "dequantised":
            dequantise(model)
        merged, facts = METHODS["saved"].merge(METHODS["saved"].load(model, self.adapter))
        save_model(merged, self.base.source, folder)
        return str(facts["stored_as"]), tuple(facts["notes"])

    def _drift(self, folder: Path) -> MergeDrift:
        """The model in `folder`, as it is loaded again, against the adapter on its base."""
        from peftodyssey.scoring.drift import drift

        precision, prefix = self.base.precision, load_tokenizer(self.base.source).prefix_id
        adapted = METHODS["saved"].load(self._load(quantised=True), self.adapter).model
        merged = load(resolve(str(folder)), precision=precision, device=self.device)
        index = whole_documents(read_index(self.index), DRIFT_TOKENS)
        settings = ScoreSettings(self.device, precision=precision)
        found = drift(adapted, merged, index, self.spec, settings, prefix)
        delta = found.after_nll_nats.astype(np.float64) - found.before_nll_nats
        scored = index.trained & ~np.isnan(found.before_nll_nats)
        if not np.isfinite(delta[scored]).all():
            raise InputError(
                "the merged model gives no finite likelihood to tokens of the test text", "export the adapter"
            )
        change = paired_bootstrap(delta, index.document)
        adapter_nll, merged_nll, kl = (mean_nats(column) for column in found)
        return MergeDrift(change.n_documents, int(scored.sum()), adapter_nll, merged_nll, change, kl)


def _sentence(into: str | None, kind: str | None, stored_as: str) -> str:
    if into is None:
        return f"Merged into the base's weights, stored as {stored_as}."
    if into == "dequantised":
        return (
            f"Merged into the dequantised base: its {kind} weights, on which the adapter was trained, written out as "
            f"{stored_as}."
        )
    return (
        f"Merged into the original base, unquantised, stored as {stored_as}: the adapter was trained on its {kind} "
        "form."
    )


def _nats(value: float) -> str:
    """A difference in nats, however small."""
    return f"{value:+.6f}" if abs(value) >= 1e-5 else f"{value:+.1e}"


def merge_of(folder: Path, entry: Mapping[str, Any], adapter: Path, base: BaseModelKey, device: str) -> Merge:
    """The merge of a cell of the run in `folder`, with the windows in which its test text was scored."""
    score = entry["scores"]["test"]
    written = manifest.read(folder / score["after"])
    if written is None or manifest.read(folder / score["index"]) is None:
        raise StoreError(f"{score['after']} is not complete", "run the recipe again: it resumes")
    scored = written["identity"]
    spec = ScoreSpec(scored["context"], scored["stride"], None, scored["first_token"], scored["mode"])
    return Merge(adapter, base, device, folder / score["index"], spec)


def save_model(model: PreTrainedModel, source: ModelSource, folder: Path) -> None:
    """Writes a whole model as plain transformers loads it; its config has the dropout and the cache of the base's."""
    model.save_pretrained(folder, safe_serialization=True)
    path = folder / "config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), **base_dropout.config_dropout(model)}
    config["use_cache"] = source.config.get("use_cache", True)
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
