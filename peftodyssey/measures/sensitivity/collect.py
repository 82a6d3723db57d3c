"""Collects how noise, forgetting and learning depend on the pretraining.

`sensitivity.parquet` and `rung_steps.parquet`: on its length. `annealing.parquet`: on the arm of the ladder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from peftodyssey.display.result_text import columns_of, grouped
from peftodyssey.measures.contrast.differences import too_few
from peftodyssey.measures.contrast.table import OWN_RATE
from peftodyssey.measures.noise import collect as collect_noise
from peftodyssey.measures.sensitivity.lines import Line, Row, common_seeds
from peftodyssey.measures.sensitivity.noise_lines import noise_lines
from peftodyssey.measures.sensitivity.table import ANNEALING, ANNEALING_TABLE, ONE_RATE, STEPS_TABLE, TABLE, WHAT
from peftodyssey.measures.sensitivity.trained_lines import text_lines, trained_texts
from peftodyssey.stats.contrast import MIN_SEEDS, NOT_COMPARABLE, ContrastResult, contrasts, parts
from peftodyssey.stats.ladder import MARGIN_NATS, Ladder, LadderResult, Step, describe, lowest_rungs
from peftodyssey.store.collected import Collected
from peftodyssey.store.stored_run import StoredRun

# lines whose variance over seeds is pooled where it is alike: methods and rates, or noise of one size
ALIKE = ("recipe", "model", "arm", "corpus", "domain", "newline", "quantity", "compared_at", "budget", "gamma")


def collect(run: StoredRun, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Collected:
    """The rows of the three tables, from the noise and the finished cells of a run."""
    lines = list(noise_lines(collect_noise.results(run)))
    lines += [line for text in trained_texts(run) for line in text_lines(text)]
    slopes, steps = [], []
    for line, ladder, result in _described(lines):
        slopes.append(_slope_row(line, ladder, result))
        if ladder is not None and result is not None:
            steps += [_step_row(line, ladder, step) for step in result.steps]
    return Collected({TABLE: slopes, STEPS_TABLE: steps, ANNEALING_TABLE: list(_between_arms(lines))})


def _described(lines: Sequence[Line]) -> list[tuple[Line, Ladder | None, LadderResult | None]]:
    """Lines with at least two rungs, and those with a reason why they have none, in their order."""
    ladders = {id(line): ladder for line in lines if (ladder := line.ladder()) is not None}
    results: dict[int, LadderResult] = {}
    alike = columns_of(*ALIKE)
    enough = [line for line in lines if id(line) in ladders and not too_few(line.clusters)]
    for group in grouped(enough, lambda line: (alike(line.coordinates), bool(line.coordinates["minus"]))).values():
        for line, result in zip(group, describe([ladders[id(line)] for line in group]), strict=True):
            results[id(line)] = result
    shown = [line for line in lines if id(line) in ladders or (line.reasons and not line.rungs)]
    return [(line, ladders.get(id(line)), results.get(id(line))) for line in shown]


def _slope_row(line: Line, ladder: Ladder | None, result: LadderResult | None) -> Row:
    reasons = [*line.reasons, *too_few(line.clusters), *_few_seeds(line)]
    row = {
        **{name: line.coordinates.get(name) for name in WHAT},
        "rungs": len(line.tokens),
        "tokens_from": min(line.tokens, default=None),
        "tokens_to": max(line.tokens, default=None),
        "repetitions": len(line.seeds),
        "clusters": line.clusters.number,
        "margin": MARGIN_NATS,
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
    }
    if ladder is None or result is None:
        return {**row, "verdict": NOT_COMPARABLE}
    row |= {"lack_of_fit": result.lack_of_fit, "shape": result.shape or None, "turn_tokens": result.turn_tokens}
    losses = line.ladder(line.losses) if line.losses else None
    if losses is not None and len(line.seeds) >= MIN_SEEDS:
        lowest = lowest_rungs(losses)
        row |= {"lowest_from": lowest[0], "lowest_to": lowest[-1]}
    if result.slope is None:
        return {**row, "covers": result.steps[0].result.covers}
    slope = result.slope
    ends = {"slope": slope.estimate, "slope_lo": slope.lower, "slope_hi": slope.upper}
    equal = {"equal_lo": slope.equal_lower, "equal_hi": slope.equal_upper}
    return {**row, **ends, **equal, "covers": slope.covers, "verdict": NOT_COMPARABLE if reasons else slope.verdict}


def _few_seeds(line: Line) -> tuple[str, ...]:
    n = len(line.seeds)
    unit = "noise pair" if line.coordinates["quantity"] == "noise" else "seed"
    return (f"{n} {unit}{'s' * (n != 1)}: a verdict takes {MIN_SEEDS}",) if n < MIN_SEEDS and line.rungs else ()


def _step_row(line: Line, ladder: Ladder, step: Step) -> Row:
    return {
        **{name: line.coordinates.get(name) for name in WHAT},
        "tokens_from": step.tokens_from,
        "tokens_to": step.tokens_to,
        "repetitions": ladder.values.shape[1],
        "clusters": line.clusters.number,
        **_change(step.result),
        "verdict": NOT_COMPARABLE if line.reasons else step.result.verdict,
        "sign": step.sign,
    }


def _change(result: ContrastResult) -> Row:
    return {"change": result.estimate, "lo": result.lower, "hi": result.upper, "covers": result.covers}


def _between_arms(lines: Sequence[Line]) -> Iterator[Row]:
    """Differences of lines that are equal but for their arm, at each number of pretraining tokens that both have."""
    names = [name for name in WHAT if name not in ("arm", "level")]
    key = columns_of("recipe", "model", "arm", "domain", "newline", "quantity", "intervention", "budget")
    tuned = {key(line.coordinates) for line in lines if line.coordinates["compared_at"] == OWN_RATE}
    of_one_arm = [
        line
        for line in lines
        if line.coordinates["arm"] is not None and not line.coordinates["minus"]
        if line.coordinates["compared_at"] in (None, OWN_RATE)
        or (line.coordinates["compared_at"] == ONE_RATE and key(line.coordinates) not in tuned)
    ]
    for group in grouped(of_one_arm, lambda line: columns_of(*names, "scale", "tensors")(line.coordinates)).values():
        for first, second in combinations(sorted(group, key=lambda line: str(line.coordinates["arm"])), 2):
            yield from _arm_rows(first, second)


def _arm_rows(first: Line, second: Line) -> Iterator[Row]:
    """Empty where the arms were scored on texts that differ."""
    common = [tokens for tokens in sorted(set(first.rungs) & set(second.rungs)) if tokens > 0]
    seeds = common_seeds([line.rungs[tokens] for line in (first, second) for tokens in common])
    if not seeds or first.clusters != second.clusters:
        return
    values = {
        tokens: np.stack([first.rungs[tokens][seed] - second.rungs[tokens][seed] for seed in seeds], -1)
        for tokens in common
    }
    few = too_few(first.clusters)
    results = contrasts([parts(value, first.clusters.effective) for value in values.values()], MARGIN_NATS)
    reasons = [*first.reasons, *second.reasons, *few]
    reasons += [f"{len(seeds)} repetitions: a verdict takes {MIN_SEEDS}"] if len(seeds) < MIN_SEEDS else []
    for tokens, result in zip(values, results, strict=True):
        yield {
            **{name: value for name, value in first.coordinates.items() if name in ANNEALING},
            "minus": second.coordinates["arm"],
            "pretrain_tokens": tokens,
            **(_change(result) | ({"lo": None, "hi": None, "covers": None} if few else {})),
            "verdict": NOT_COMPARABLE if reasons else result.verdict,
            "reason": "; ".join(dict.fromkeys(reasons)) or None,
            "margin": MARGIN_NATS,
            "repetitions": len(seeds),
            "clusters": first.clusters.number,
        }
