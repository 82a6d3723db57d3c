"""How noise, forgetting and learning depend on the length of the pretraining, as `sensitivity.parquet`, and on the arm
of the ladder, as `annealing.parquet`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.report import collect_noise
from peftodyssey.store import layout, parquet, tables

if TYPE_CHECKING:
    import numpy as np

    from peftodyssey.stats.bootstrap import Interval
    from peftodyssey.stats.sensitivity import Rungs

Row = dict[str, Any]
Reader = Callable[[str, str], "np.ndarray"]
BySeed = dict[int, dict[int, "np.ndarray"]]  # pretraining tokens -> seed -> float64 [documents]
Line = tuple[Row, "Rungs", "np.ndarray"]  # coordinates with `who`, values by pretraining tokens, tokens by document
AGAINST = "full"
FEWEST_TO_TURN = 3  # rungs: two have no inside


@dataclass
class Trained:
    """One method on the rungs of one ladder: by pretraining tokens and seed what changed, and the loss after, summed by
    document.
    """

    changes: BySeed = field(default_factory=dict)
    losses: BySeed = field(default_factory=dict)


@dataclass
class Text:
    """One text that the trained models of one arm were scored on: its methods at each rate (None: the selected one of
    each rung).
    """

    told: Row
    tokens_d: np.ndarray
    methods: dict[tuple[str, float | None], Trained] = field(default_factory=dict)


def write(folder: Path, rows: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], read: Reader) -> None:
    """Write the tables from the noise and the finished cells (`rows`, collected from `cells` in the same order) of
    `folder`.
    """
    shifts, texts = collect_noise.write(folder), _texts(rows, cells, read)
    found = [*_of_noise(shifts), *(row for text in texts for row in _of_group(text))]
    parquet.write_rows(folder / layout.SENSITIVITY, found, tables.SENSITIVITY)
    parquet.write_rows(
        folder / layout.ANNEALING,
        list(_between_arms([*_lines_of_noise(shifts), *_lines_of_cells(texts)])),
        tables.ANNEALING,
    )


def name(shift: Mapping[str, Any]) -> str:
    """A shift in words: gaussian, rank 1, nf4, an update's method."""
    words = {"gaussian": "gaussian", "low_rank": f"rank {shift['rank']}", "quantiser": str(shift["quantiser"])}
    return words.get(shift["kind"]) or f"update of {shift['label']}"


def _of_noise(shifts: Sequence[collect_noise.Shifts]) -> Iterator[Row]:
    whole = {}
    for told, rises, losses, tokens_d in collect_noise.lines(shifts):
        key = {n: told[n] for n in ("recipe", "model", "arm", "corpus", "domain", "gamma", "lr")} | {
            "quantity": "noise"
        }
        if told["kind"] == "gaussian":
            whole[tuple(told[n] for n in (*collect_noise.OF_LADDER, "gamma"))] = rises
        yield from _sloped({**key, "intervention": name(told)}, rises, tokens_d, losses)
    for told, rises, _, tokens_d in collect_noise.lines(shifts):
        full = whole.get(tuple(told[n] for n in (*collect_noise.OF_LADDER, "gamma")))
        if told["kind"] == "low_rank" and full is not None:
            key = {n: told[n] for n in ("recipe", "model", "arm", "corpus", "domain", "gamma", "lr")} | {
                "quantity": "noise"
            }
            yield from _differing({**key, "intervention": "gaussian", "minus": name(told)}, full, rises, tokens_d)


def _texts(rows: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], read: Reader) -> list[Text]:
    """What forgetting and learning were measured on, with every finished cell of a rung whose tokens are known."""
    found: dict[tuple[Any, ...], Text] = {}
    for row, cell in zip(rows, cells, strict=True):
        if row["status"] != "done" or not row.get("pretrain_tokens") or row.get("lr") is None:
            continue
        for quantity, scored in (
            ("forgetting", cell["scores"].get("general") or ()),
            ("learning", [cell["scores"]["test"]]),
        ):
            if not scored:
                continue
            before, after, tokens_d = _sums(scored, read)
            told = {name: row[name] for name in ("recipe", "model", "arm", "domain")} | {"quantity": quantity}
            told["corpus"] = row["domain"] if quantity == "learning" else "general"
            key = (*told.values(), row["newline"], *(text["index"] for text in scored))
            text = found.setdefault(key, Text(told, tokens_d))
            for rate in (row["lr"], *((None,) if row["selected"] else ())):
                held = text.methods.setdefault((row["label"], rate), Trained())
                held.changes.setdefault(row["pretrain_tokens"], {})[row["seed"]] = after - before
                held.losses.setdefault(row["pretrain_tokens"], {})[row["seed"]] = after
    return list(found.values())


def _of_group(text: Text) -> Iterator[Row]:
    """Slopes of every method at each rate held and at the selected ones; differences of the selected ones from full
    fine-tuning's.
    """
    rates = {
        label: {rate for other, rate in text.methods if other == label and rate is not None}
        for label, _ in text.methods
    }
    for (label, rate), trained in text.methods.items():
        if rate is None or len(rates[label]) > 1:  # a lone rate is the selected one
            yield from _sloped(
                {**text.told, "intervention": label, "lr": rate},
                _even(trained.changes),
                text.tokens_d,
                _even(trained.losses),
            )
    chosen = {label: trained.changes for (label, rate), trained in text.methods.items() if rate is None}
    full, others = (
        [label for label in chosen if label.split(" ")[0] == AGAINST],
        [label for label in chosen if label.split(" ")[0] != AGAINST],
    )
    for first, second in product(full, others):
        one, other = _paired(chosen[first], chosen[second])
        yield from _differing({**text.told, "intervention": first, "minus": second}, one, other, text.tokens_d)


def _lines_of_noise(shifts: Sequence[collect_noise.Shifts]) -> Iterator[Line]:
    for told, rises, _, tokens_d in collect_noise.lines(shifts):
        kept = {n: told[n] for n in (*collect_noise.OF_LADDER, "domain", "gamma")}
        yield {**kept, "quantity": "noise", "intervention": name(told)}, rises, tokens_d


def _lines_of_cells(texts: Sequence[Text]) -> Iterator[Line]:
    """Every method at the selected rate of each rung."""
    for text in texts:
        for (label, rate), trained in text.methods.items():
            if rate is None:
                yield {**text.told, "gamma": None, "intervention": label}, _even(trained.changes), text.tokens_d


def _between_arms(lines: Iterable[Line]) -> Iterator[Row]:
    """Every line beside the same one of another arm, at each pretraining budget that both have."""
    import numpy as np

    from peftodyssey.stats.two_way_interval import two_way_interval

    beside: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        told = line[0]
        if told["arm"] is not None:
            beside.setdefault(tuple(value for column, value in sorted(told.items()) if column != "arm"), []).append(
                line
            )
    for found in beside.values():
        for (first, one, tokens_d), (second, other, same_d) in combinations(
            sorted(found, key=lambda line: line[0]["arm"]), 2
        ):
            for tokens in sorted(set(one) & set(other)):
                repetitions = min(len(one[tokens]), len(other[tokens]))
                if np.array_equal(tokens_d, same_d):
                    seen = two_way_interval(one[tokens][:repetitions] - other[tokens][:repetitions], tokens_d)
                    yield {
                        **{name: first[name] for name in tables.ANNEALING if name in first},
                        "minus": second["arm"],
                        "pretrain_tokens": tokens,
                        "change": seen.estimate,
                        "lo": seen.lower,
                        "hi": seen.upper,
                        "repetitions": repetitions,
                        "documents": len(tokens_d),
                        "note": seen.note or None,
                    }


def _sums(texts: Sequence[Mapping[str, Any]], read: Reader) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """NLL before and after summed by document over all texts, and the documents' tokens, float64 [documents]."""
    import numpy as np

    from peftodyssey.stats.bootstrap import document_sums

    before, after = (
        [document_sums(read(t[which], "nll_nats"), read(t["index"], "document")) for t in texts]
        for which in ("before", "after")
    )
    whole = [np.concatenate([sums for sums, _ in found]) for found in (before, after)]
    return whole[0], whole[1], np.concatenate([tokens for _, tokens in before])


def _paired(one: BySeed, other: BySeed) -> tuple[Rungs, Rungs]:
    """Both at the seeds that both have on a rung."""
    both = {
        tokens: {seed: one[tokens][seed] for seed in one[tokens] if seed in other.get(tokens, {})} for tokens in one
    }
    return _even(both), _even({tokens: {seed: other[tokens][seed] for seed in found} for tokens, found in both.items()})


def _even(trained: BySeed) -> Rungs:
    """Seeds that every rung has, as [seeds, documents]; rungs without any are left out."""
    import numpy as np

    there = {tokens: found for tokens, found in trained.items() if found}
    shared = sorted(set.intersection(*(set(found) for found in there.values()))) if there else []
    return {tokens: np.stack([found[seed] for seed in shared]) for tokens, found in there.items()} if shared else {}


def _sloped(told: Row, rungs: Rungs, tokens_d: np.ndarray, losses: Rungs | None = None) -> Iterator[Row]:
    from peftodyssey.stats import sensitivity

    if len([tokens for tokens in rungs if tokens > 0]) < sensitivity.MIN_RUNGS:
        return
    row = {**told, **_ladder(rungs, sensitivity.slope(rungs, tokens_d))}
    if losses and len(losses) >= FEWEST_TO_TURN:
        turn = sensitivity.turning_point(losses, tokens_d)
        row |= {"turn_tokens": turn.tokens, "turn_lo": turn.lower, "turn_hi": turn.upper, "turn_share": turn.share}
    yield row


def _differing(told: Row, first: Rungs, second: Rungs, tokens_d: np.ndarray) -> Iterator[Row]:
    from peftodyssey.stats import sensitivity

    shared = {tokens: first[tokens] for tokens in first if tokens in second}
    if len(shared) >= sensitivity.MIN_RUNGS and all(first[t].shape == second[t].shape for t in shared):
        yield {**told, **_ladder(shared, sensitivity.slope_difference(first, second, tokens_d))}


def _ladder(rungs: Rungs, found: Interval) -> Row:
    repetitions, documents = next(iter(rungs.values())).shape
    return {
        "rungs": len(rungs),
        "tokens_from": min(rungs),
        "tokens_to": max(rungs),
        "repetitions": repetitions,
        "documents": documents,
        "slope": found.estimate,
        "slope_lo": found.lower,
        "slope_hi": found.upper,
        "note": found.note or None,
    }
