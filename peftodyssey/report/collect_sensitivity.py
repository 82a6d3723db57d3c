"""How noise, forgetting and learning depend on the length of the pretraining, as `sensitivity.parquet`. Called by `report.collect`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.report import collect_noise
from peftodyssey.store import layout, parquet, tables

if TYPE_CHECKING:
    import numpy as np

    from peftodyssey.measure.sensitivity import Rungs
    from peftodyssey.measure.stats import Interval

Row = dict[str, Any]
Reader = Callable[[str, str], "np.ndarray"]
Trained = dict[int, dict[int, "np.ndarray"]]  # pretraining tokens -> seed -> change summed by document
AGAINST = "full"
FEWEST_TO_TURN = 3  # rungs: two have no inside


def write(folder: Path, rows: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], read: Reader) -> None:
    """Write the table from the noise and the finished cells (`rows`, collected from `cells` in the same order) of `folder`."""
    shifts = collect_noise.write(folder)
    found = [*_of_noise(shifts), *_of_cells(rows, cells, read)]
    parquet.write_rows(folder / layout.SENSITIVITY, found, tables.SENSITIVITY)


def name(shift: Mapping[str, Any]) -> str:
    """A shift in words: gaussian, rank 1, nf4, an update's method."""
    words = {"gaussian": "gaussian", "low_rank": f"rank {shift['rank']}", "quantiser": str(shift["quantiser"])}
    return words.get(shift["kind"]) or f"update of {shift['label']}"


def _of_noise(shifts: Sequence[collect_noise.Shifts]) -> Iterator[Row]:
    whole = {}
    for told, rises, losses, tokens_d in collect_noise.lines(shifts):
        key = {n: told[n] for n in ("recipe", "model", "arm", "corpus", "domain", "gamma", "lr")} | {"quantity": "noise"}
        if told["kind"] == "gaussian":
            whole[tuple(told[n] for n in (*collect_noise.OF_LADDER, "gamma"))] = rises
        yield from _sloped({**key, "who": name(told)}, rises, tokens_d, losses)
    for told, rises, _, tokens_d in collect_noise.lines(shifts):
        full = whole.get(tuple(told[n] for n in (*collect_noise.OF_LADDER, "gamma")))
        if told["kind"] == "low_rank" and full is not None:
            key = {n: told[n] for n in ("recipe", "model", "arm", "corpus", "domain", "gamma", "lr")} | {"quantity": "noise"}
            yield from _differing({**key, "who": "gaussian", "minus": name(told)}, full, rises, tokens_d)


def _of_cells(rows: Sequence[Mapping[str, Any]], cells: Sequence[Mapping[str, Any]], read: Reader) -> Iterator[Row]:
    """Forgetting and learning by method along each ladder, at the selected rate of each rung and at each rate held."""
    grouped: dict[tuple[Any, ...], dict[tuple[str, float | None], Trained]] = {}
    tokens_of: dict[tuple[Any, ...], np.ndarray] = {}
    for row, cell in zip(rows, cells, strict=True):
        if row["status"] != "done" or not row.get("pretrain_tokens") or row.get("lr") is None:
            continue
        for quantity, texts in (("forgetting", cell["scores"].get("general") or ()), ("learning", [cell["scores"]["test"]])):
            if not texts:
                continue
            index = tuple(text["index"] for text in texts)
            key = (*(row[n] for n in ("recipe", "model", "arm", "domain", "newline")), quantity, index)
            sums, tokens_of[key] = _changes(texts, read)
            for rate in (row["lr"], *((None,) if row["selected"] else ())):
                held = grouped.setdefault(key, {}).setdefault((row["label"], rate), {})
                held.setdefault(row["pretrain_tokens"], {})[row["seed"]] = sums
    for key, methods in grouped.items():
        told = dict(zip(("recipe", "model", "arm", "domain"), key[:4], strict=True)) | {"quantity": key[5]}
        yield from _of_group({**told, "corpus": key[3] if key[5] == "learning" else "general"}, methods, tokens_of[key])


def _of_group(told: Row, methods: Mapping[tuple[str, float | None], Trained], tokens_d: np.ndarray) -> Iterator[Row]:
    rates = {label: {rate for other, rate in methods if other == label and rate is not None} for label, _ in methods}
    for (label, rate), trained in methods.items():
        if rate is None or len(rates[label]) > 1:  # a lone rate is the selected one
            yield from _sloped({**told, "who": label, "lr": rate}, _even(trained), tokens_d)
    full = [(label, trained) for (label, rate), trained in methods.items() if rate is None and label.split(" ")[0] == AGAINST]
    others = [(label, trained) for (label, rate), trained in methods.items() if rate is None and label.split(" ")[0] != AGAINST]
    for (first, one), (second, other) in product(full, others):
        both = {tokens: {seed: one[tokens][seed] for seed in one[tokens] if seed in other.get(tokens, {})} for tokens in one}
        mirror = {tokens: {seed: other[tokens][seed] for seed in found} for tokens, found in both.items()}
        yield from _differing({**told, "who": first, "minus": second}, _even(both), _even(mirror), tokens_d)


def _changes(texts: Sequence[Mapping[str, Any]], read: Reader) -> tuple[np.ndarray, np.ndarray]:
    """Change of NLL summed by document over all texts, and the documents' tokens, float64 [documents]."""
    import numpy as np

    from peftodyssey.measure.stats import document_sums

    parts = [document_sums(read(t["after"], "nll_nats") - read(t["before"], "nll_nats"), read(t["index"], "document")) for t in texts]
    return np.concatenate([sums for sums, _ in parts]), np.concatenate([tokens for _, tokens in parts])


def _even(trained: Mapping[int, Mapping[int, np.ndarray]]) -> Rungs:
    """Seeds that every rung has, as [seeds, documents]; rungs without any are left out."""
    import numpy as np

    there = {tokens: found for tokens, found in trained.items() if found}
    shared = sorted(set.intersection(*(set(found) for found in there.values()))) if there else []
    return {tokens: np.stack([found[seed] for seed in shared]) for tokens, found in there.items()} if shared else {}


def _sloped(told: Row, rungs: Rungs, tokens_d: np.ndarray, losses: Rungs | None = None) -> Iterator[Row]:
    from peftodyssey.measure import sensitivity

    if len([tokens for tokens in rungs if tokens > 0]) < sensitivity.FEWEST:
        return
    row = {**told, **_ladder(rungs, sensitivity.slope(rungs, tokens_d))}
    if losses and len(losses) >= FEWEST_TO_TURN:
        turn = sensitivity.inflection(losses, tokens_d)
        row |= {"turn_tokens": turn.tokens, "turn_lo": turn.lo, "turn_hi": turn.hi, "turn_share": turn.share}
    yield row


def _differing(told: Row, first: Rungs, second: Rungs, tokens_d: np.ndarray) -> Iterator[Row]:
    from peftodyssey.measure import sensitivity

    shared = {tokens: first[tokens] for tokens in first if tokens in second}
    if len(shared) >= sensitivity.FEWEST and all(first[t].shape == second[t].shape for t in shared):
        yield {**told, **_ladder(shared, sensitivity.difference(first, second, tokens_d))}


def _ladder(rungs: Rungs, found: Interval) -> Row:
    repetitions, documents = next(iter(rungs.values())).shape
    return {
        "rungs": len(rungs), "tokens_from": min(rungs), "tokens_to": max(rungs), "repetitions": repetitions, "documents": documents,
        "slope": found.estimate, "slope_lo": found.lo, "slope_hi": found.hi, "note": found.note or None,
    }  # fmt: skip
