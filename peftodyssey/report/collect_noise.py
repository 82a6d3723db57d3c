"""The cost of weight noise as `noise.parquet`, and critical steps as `sharpness.parquet`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.store import layout, manifest, parquet, plans, tables

if TYPE_CHECKING:
    import numpy as np

    from peftodyssey.stats.sensitivity import Rungs

Row = dict[str, Any]
OF_LADDER = ("recipe", "model", "arm", "corpus", "scale", "tensors")  # what the rungs of one line have in common
OF_UPDATE = ("cell", "label", "lr", "seed")
SHIFT = ("kind", "gamma", "rank", "quantiser")


@dataclass(frozen=True)
class Shifts:
    """One base on one text: the entry of the plan, the manifest's facts, and the sums of every shift by document."""

    entry: Mapping[str, Any]
    facts: Mapping[str, Any]
    tokens_d: np.ndarray  # float64 [documents]
    base_d: np.ndarray  # nats summed by document, unshifted
    rises: Mapping[tuple[Any, ...], np.ndarray]  # SHIFT -> rise by pair and document, nats summed; the signs' mean
    norms: Mapping[tuple[Any, ...], tuple[float, float]]  # SHIFT -> mean norm, mean relative norm

    def ladder(self) -> tuple[Any, ...]:
        """What tells its line of rungs from others."""
        return tuple(self.entry.get(name) for name in OF_LADDER)


def write(folder: Path) -> list[Shifts]:
    """Write both tables from what is whole in `folder`; returns what they are made of."""
    found = list(read(folder))
    parquet.write_rows(folder / layout.NOISE_TABLE, [row for one in found for row in _rows(one)], tables.NOISE)
    parquet.write_rows(folder / layout.SHARPNESS, [row for one in found for row in _critical(one)], tables.SHARPNESS)
    return found


def read(folder: Path) -> Iterator[Shifts]:
    """Every finished task of noise, in the order of model, rung, arm, text."""
    entries = plans.noise(folder)
    for entry in sorted(
        entries, key=lambda e: (str(e["model"]), str(e["arm"]), e["pretrain_tokens"] or 0, e["corpus"])
    ):
        if (written := manifest.read(folder / entry["folder"])) is not None:
            yield _shifts(entry, written["facts"], parquet.read(folder / entry["folder"] / layout.SHIFTS).to_pylist())


def _shifts(entry: Mapping[str, Any], facts: Mapping[str, Any], rows: Sequence[Row]) -> Shifts:
    import numpy as np

    by_shift: dict[tuple[Any, ...], dict[tuple[Any, Any], list[Row]]] = {}
    for row in rows:
        by_shift.setdefault(tuple(row[name] for name in SHIFT), {}).setdefault(
            (row["pair"] or 0, row["sign"] or 0), []
        ).append(row)
    sums = {
        shift: {key: np.array([row["nll_sum_nats"] for row in found]) for key, found in signs.items()}
        for shift, signs in by_shift.items()
    }
    base = next(shift for shift in by_shift if shift[0] == "base")
    first = next(iter(by_shift[base].values()))
    base_d = sums.pop(base)[0, 0]
    rises, norms = {}, {}
    for shift, found in sums.items():
        pairs = sorted({pair for pair, _ in found})
        rises[shift] = (
            np.stack([np.mean([v for (p, _), v in found.items() if p == pair], 0) for pair in pairs]) - base_d
        )
        told = [own[0] for own in by_shift[shift].values()]
        norms[shift] = (float(np.mean([r["norm"] for r in told])), float(np.mean([r["relative"] for r in told])))
    return Shifts(entry, facts, np.array([row["tokens"] for row in first], np.float64), base_d, rises, norms)


def _coordinates(entry: Mapping[str, Any]) -> Row:
    return {
        name: entry.get(name)
        for name in ("recipe", "model", "revision", "pretrain_tokens", "arm", "corpus", *OF_UPDATE)
    }


def _rows(one: Shifts) -> Iterator[Row]:
    from peftodyssey.stats.two_way_interval import two_way_interval

    tokens = float(one.tokens_d.sum())
    base = float(one.base_d.sum()) / tokens
    for shift, rise in one.rises.items():
        found, told = two_way_interval(rise, one.tokens_d), dict(zip(SHIFT, shift, strict=True))
        single = told["kind"] in ("update", "quantiser")
        yield {
            **_coordinates(one.entry),
            **told,
            "rank": told["rank"] or one.entry.get("rank"),
            "scale": one.entry["scale"],
            "sigma": one.facts["sigma"],
            "pairs": 0 if single else len(rise),
            "tensors": one.entry["tensors"],
            "norm": one.norms[shift][0],
            "relative": one.norms[shift][1],
            "tokens": int(tokens),
            "documents": len(one.tokens_d),
            "nll_base": base,
            "nll_perturbed": base + found.estimate,
            "rise_nats": found.estimate,
            "lo": found.lower,
            "hi": found.upper,
            "note": None if single and found.lower is not None else found.note or None,
        }


def _critical(one: Shifts) -> Iterator[Row]:
    for direction, found in one.facts.get("critical", {}).items():
        step = math.sqrt(found["step_lo"] * found["step_hi"]) if found["step_lo"] and found["step_hi"] else None
        yield {
            **_coordinates(one.entry),
            "direction": direction,
            "length": found["length"],
            "passes": found["passes"],
            "step_lo": found["step_lo"],
            "step_hi": found["step_hi"],
            "sharpness": 2 * found["length"] / step if step else None,
        }


def lines(found: Sequence[Shifts]) -> Iterator[tuple[Row, Rungs, Rungs, np.ndarray]]:
    """Every shift along its ladder: its coordinates, rises and shifted losses by pretraining tokens, and tokens by
    document.

    Only rungs whose tokens are known and that saw the same documents and pairs are compared; an update is
    followed by method and rate.
    """
    grouped: dict[tuple[Any, ...], list[tuple[Shifts, tuple[Any, ...]]]] = {}
    for one in found:
        if one.entry["pretrain_tokens"]:
            for shift in one.rises:
                who = (one.entry.get("label"), one.entry.get("lr"), one.entry.get("domain"))
                grouped.setdefault((one.ladder(), who, shift), []).append((one, shift))
    for (ladder, (label, lr, domain), shift), members in grouped.items():
        first = members[0][0]
        rises: dict[int, list[np.ndarray]] = {}
        losses: dict[int, list[np.ndarray]] = {}
        for one, own in members:
            if len(one.tokens_d) == len(first.tokens_d) and (one.tokens_d == first.tokens_d).all():
                rises.setdefault(one.entry["pretrain_tokens"], []).append(one.rises[own])
                losses.setdefault(one.entry["pretrain_tokens"], []).append(one.rises[own] + one.base_d)
        told = {
            **dict(zip(OF_LADDER, ladder, strict=True)),
            **dict(zip(SHIFT, shift, strict=True)),
            "label": label,
            "lr": lr,
            "domain": domain,
        }
        yield told, _even(rises), _even(losses), first.tokens_d


def _even(rungs: Mapping[int, Sequence[np.ndarray]]) -> Rungs:
    """Rungs with the same repetitions each: those that the poorest one has."""
    import numpy as np

    joined = {tokens: np.concatenate(list(parts)) for tokens, parts in rungs.items()}
    fewest = min(len(values) for values in joined.values())
    return {tokens: values[:fewest] for tokens, values in joined.items()}
