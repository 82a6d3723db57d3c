"""Collects how noise, forgetting and learning depend on the pretraining.

`sensitivity.parquet`: on its length. `annealing.parquet`: on the arm of the ladder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np

from peftodyssey.display.result_text import grouped
from peftodyssey.measures.noise import collect as collect_noise
from peftodyssey.measures.sensitivity import compute as sensitivity
from peftodyssey.measures.sensitivity.compute import Rungs
from peftodyssey.measures.sensitivity.noise_lines import LADDER, ShiftLine, shift_lines
from peftodyssey.measures.sensitivity.table import ANNEALING, ANNEALING_TABLE, TABLE
from peftodyssey.stats.bootstrap import Interval, document_sums
from peftodyssey.stats.two_way_interval import two_way_interval
from peftodyssey.store.collected import Collected
from peftodyssey.store.stored_run import StoredRun

Row = dict[str, Any]
Reader = Callable[[str, str], np.ndarray]  # (folder of an index or a score, column) -> its values
BySeed = dict[int, dict[int, np.ndarray]]  # pretraining tokens -> seed -> float64 [documents]
REFERENCE = "full"  # the method from which the others' slopes are subtracted
MIN_RUNGS_TO_TURN = 3
NOISE_COORDINATES = ("recipe", "model", "arm", "corpus", "domain", "gamma", "lr")


@dataclass
class TrainedRungs:
    """One method on the rungs of one ladder: change and loss after training, summed by document."""

    changes: BySeed = field(default_factory=dict)
    losses: BySeed = field(default_factory=dict)


@dataclass
class ScoredText:
    """A text on which the trained models of one arm were scored.

    `methods` by label and learning rate; rate None: the selected one of each rung.
    """

    coordinates: Row
    tokens_d: np.ndarray
    methods: dict[tuple[str, float | None], TrainedRungs] = field(default_factory=dict)

    def selected(self) -> dict[str, TrainedRungs]:
        """Each method at the learning rate selected on each rung."""
        return {label: trained for (label, lr), trained in self.methods.items() if lr is None}


def collected(run: StoredRun, results: Sequence[Mapping[str, Any]]) -> Collected:
    """The rows of `sensitivity.parquet` and of `annealing.parquet`, from the noise and the finished cells of a run.

    `results` are the rows of results in the order of the run's cells.
    """
    noise = list(shift_lines(collect_noise.results(run)))
    texts = _scored_texts(results, run.cells, run.read)
    slopes = [*_noise_slopes(noise), *(row for text in texts for row in _text_slopes(text))]
    differences = list(_between_arms([*_noise_lines(noise), *_cell_lines(texts)]))
    return Collected({TABLE: slopes, ANNEALING_TABLE: differences})


def _shift_name(shift: Mapping[str, Any]) -> str:
    """A shift in words: gaussian, rank 1, nf4, update of a method."""
    names = {"gaussian": "gaussian", "low_rank": f"rank {shift['rank']}", "quantiser": str(shift["quantiser"])}
    return names.get(shift["kind"]) or f"update of {shift['label']}"


def _noise_slopes(noise: Sequence[ShiftLine]) -> Iterator[Row]:
    """Slopes of every shift, then differences of full-rank from low-rank noise of equal size."""

    def size(line: ShiftLine) -> tuple[Any, ...]:
        return tuple(line.coordinates[name] for name in (*LADDER, "gamma"))

    def coordinates(line: ShiftLine) -> Row:
        return {name: line.coordinates[name] for name in NOISE_COORDINATES} | {"quantity": "noise"}

    full_rank = {size(line): line.rises for line in noise if line.coordinates["kind"] == "gaussian"}
    for line in noise:
        row = {**coordinates(line), "intervention": _shift_name(line.coordinates)}
        yield from _slope(row, line.rises, line.tokens_d, line.losses)
    for line in noise:
        if line.coordinates["kind"] == "low_rank" and size(line) in full_rank:
            row = {**coordinates(line), "intervention": "gaussian", "minus": _shift_name(line.coordinates)}
            yield from _slope_difference(row, full_rank[size(line)], line.rises, line.tokens_d)


def _scored_texts(
    rows: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], read: Reader
) -> list[ScoredText]:
    """The texts of forgetting and learning, with every finished cell of a rung whose pretraining tokens are known."""
    texts: dict[tuple[Any, ...], ScoredText] = {}
    for row, cell in zip(rows, cells, strict=True):
        if row["status"] != "done" or not row.get("pretrain_tokens") or row.get("lr") is None:
            continue
        of_quantity = {"forgetting": cell["scores"].get("general") or (), "learning": [cell["scores"]["test"]]}
        for quantity, scored in of_quantity.items():
            if scored:
                corpus = row["domain"] if quantity == "learning" else "general"
                coordinates = {name: row[name] for name in ("recipe", "model", "arm", "domain")}
                coordinates |= {"quantity": quantity, "corpus": corpus}
                key = (*coordinates.values(), row["newline"], *(text["index"] for text in scored))
                before, after, tokens_d = _document_sums(scored, read)
                text = texts.setdefault(key, ScoredText(coordinates, tokens_d))
                for lr in (row["lr"], *((None,) if row["selected"] else ())):
                    trained = text.methods.setdefault((row["label"], lr), TrainedRungs())
                    trained.changes.setdefault(row["pretrain_tokens"], {})[row["seed"]] = after - before
                    trained.losses.setdefault(row["pretrain_tokens"], {})[row["seed"]] = after
    return list(texts.values())


def _text_slopes(text: ScoredText) -> Iterator[Row]:
    """Slopes of every method at each and at the selected learning rates; differences of full fine-tuning and others."""
    rates = grouped((key for key in text.methods if key[1] is not None), lambda key: key[0])
    for (label, lr), trained in text.methods.items():
        if lr is None or len(rates[label]) > 1:  # a single rate is the selected one
            row = {**text.coordinates, "intervention": label, "lr": lr}
            yield from _slope(row, _common_seeds(trained.changes), text.tokens_d, _common_seeds(trained.losses))
    selected = text.selected()
    references = [label for label in selected if label.split(" ")[0] == REFERENCE]
    for first, second in product(references, [label for label in selected if label not in references]):
        paired = _paired(selected[first].changes, selected[second].changes)
        yield from _slope_difference(
            {**text.coordinates, "intervention": first, "minus": second}, *paired, text.tokens_d
        )


@dataclass(frozen=True)
class ArmLine:
    """A cost along one arm: coordinates, values by pretraining tokens, tokens by document."""

    coordinates: Row
    values: Rungs
    tokens_d: np.ndarray


def _noise_lines(noise: Sequence[ShiftLine]) -> Iterator[ArmLine]:
    for line in noise:
        coordinates = {name: line.coordinates[name] for name in (*LADDER, "domain", "gamma")}
        coordinates |= {"quantity": "noise", "intervention": _shift_name(line.coordinates)}
        yield ArmLine(coordinates, line.rises, line.tokens_d)


def _cell_lines(texts: Sequence[ScoredText]) -> Iterator[ArmLine]:
    """Every method at the learning rate selected on each rung."""
    for text in texts:
        for label, trained in text.selected().items():
            coordinates = {**text.coordinates, "gamma": None, "intervention": label}
            yield ArmLine(coordinates, _common_seeds(trained.changes), text.tokens_d)


def _between_arms(lines: Iterable[ArmLine]) -> Iterator[Row]:
    """Differences of lines that are equal but for their arm, at each number of pretraining tokens that both have."""

    def without_arm(line: ArmLine) -> tuple[Any, ...]:
        return tuple(value for column, value in sorted(line.coordinates.items()) if column != "arm")

    in_arms = (line for line in lines if line.coordinates["arm"] is not None)
    for group in grouped(in_arms, without_arm).values():
        for first, second in combinations(sorted(group, key=lambda line: str(line.coordinates["arm"])), 2):
            if not np.array_equal(first.tokens_d, second.tokens_d):
                continue
            for tokens in sorted(set(first.values) & set(second.values)):
                a, b = first.values[tokens], second.values[tokens]
                repetitions = min(len(a), len(b))
                change = two_way_interval(a[:repetitions] - b[:repetitions], first.tokens_d)
                yield {
                    **{name: value for name, value in first.coordinates.items() if name in ANNEALING},
                    "minus": second.coordinates["arm"],
                    "pretrain_tokens": tokens,
                    "change": change.estimate,
                    "lo": change.lower,
                    "hi": change.upper,
                    "repetitions": repetitions,
                    "documents": len(first.tokens_d),
                    "note": change.note or None,
                }


def _document_sums(texts: Sequence[Mapping[str, Any]], read: Reader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NLL before and after summed by document over all texts, and the documents' tokens, float64 [documents]."""
    before, after = (
        [document_sums(read(text[stage], "nll_nats"), read(text["index"], "document")) for text in texts]
        for stage in ("before", "after")
    )
    sums_before, sums_after = (np.concatenate([sums for sums, _ in stage]) for stage in (before, after))
    return sums_before, sums_after, np.concatenate([tokens for _, tokens in before])


def _paired(first: BySeed, second: BySeed) -> tuple[Rungs, Rungs]:
    """Both at the seeds that both have on a rung."""
    common = {tokens: [seed for seed in seeds if seed in second.get(tokens, {})] for tokens, seeds in first.items()}
    a, b = (
        {tokens: {s: method[tokens][s] for s in seeds} for tokens, seeds in common.items() if seeds}
        for method in (first, second)
    )
    return _common_seeds(a), _common_seeds(b)


def _common_seeds(trained: BySeed) -> Rungs:
    """Values [seeds, documents] of the seeds that all rungs have."""
    seeds = sorted(set.intersection(*map(set, trained.values()))) if trained else []
    return {tokens: np.stack([rung[seed] for seed in seeds]) for tokens, rung in trained.items()} if seeds else {}


def _slope(coordinates: Row, rungs: Rungs, tokens_d: np.ndarray, losses: Rungs) -> Iterator[Row]:
    if len([tokens for tokens in rungs if tokens > 0]) < sensitivity.MIN_RUNGS:
        return
    row = {**coordinates, **_slope_columns(rungs, sensitivity.slope(rungs, tokens_d))}
    if len(losses) >= MIN_RUNGS_TO_TURN:
        turn = sensitivity.turning_point(losses, tokens_d)
        row |= {"turn_tokens": turn.tokens, "turn_lo": turn.lower, "turn_hi": turn.upper, "turn_share": turn.share}
    yield row


def _slope_difference(coordinates: Row, first: Rungs, second: Rungs, tokens_d: np.ndarray) -> Iterator[Row]:
    common = {tokens: first[tokens] for tokens in first if tokens in second}
    if len(common) >= sensitivity.MIN_RUNGS and all(first[t].shape == second[t].shape for t in common):
        difference = sensitivity.slope_difference(first, second, tokens_d)
        yield {**coordinates, **_slope_columns(common, difference)}


def _slope_columns(rungs: Rungs, slope: Interval) -> Row:
    repetitions, documents = next(iter(rungs.values())).shape
    return {
        "rungs": len(rungs),
        "tokens_from": min(rungs),
        "tokens_to": max(rungs),
        "repetitions": repetitions,
        "documents": documents,
        "slope": slope.estimate,
        "slope_lo": slope.lower,
        "slope_hi": slope.upper,
        "note": slope.note or None,
    }
