"""Rungs read from the names of a Hub repository's revisions: step, tokens, stage.

The schemes: OLMo `step1000-tokens4B`; OLMo-2 `stage1-step10000-tokens21B` and
`stage2-ingredient1-step11931-tokens50B`; Amber `ckpt_000`; Pythia `step143000`; SmolLM2 `step-240000`;
transformers' Trainer `checkpoint-500`.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence

from peftodyssey.models.ladder_file import Rung
from peftodyssey.models.published_schedules import (
    PublishedSchedule,
    arm_at_step,
    learning_rate_at_step,
    published_schedule,
)

STEPS = re.compile(r"(?:stage(\d+)-(?:ingredient(\d+)-)?)?step-?(\d+)(?:-tokens(\d+(?:\.\d+)?)([BMT]))?")
TRAINER_STEPS = re.compile(r"checkpoint-(\d+)")
CHUNKS = re.compile(r"ckpt_(\d+)")
UNIT_TOKENS = {"M": 10**6, "B": 10**9, "T": 10**12}
LABEL_ERROR_TOKENS, LABEL_ERROR_SHARE = 2 * 10**9, 0.02  # labels are rounded to billions, and drift by one


def parse_rung(repository: str, revision: str) -> Rung | None:
    """The rung that a revision's name describes; None where the name has no step."""
    schedule = published_schedule(repository)
    if match := CHUNKS.fullmatch(revision):
        return _stage1_rung(revision, int(match[1]) + 1, None, schedule)
    if match := TRAINER_STEPS.fullmatch(revision):
        return _stage1_rung(revision, int(match[1]), None, schedule)
    if not (match := STEPS.fullmatch(revision)):
        return None
    stage, ingredient, step, amount, unit = match.groups()
    label_tokens = None if amount is None else round(float(amount) * UNIT_TOKENS[unit])
    if stage is None or int(stage) < 2:
        return _stage1_rung(revision, int(step), label_tokens, schedule)
    arm = f"stage{stage}" + (f"-ingredient{ingredient}" if ingredient else "")
    before = schedule.stage1_tokens if schedule else None  # a later stage's label does not count stage 1
    tokens = None if label_tokens is None or before is None else before + label_tokens
    return Rung(revision, tokens, arm, None, int(step), arm, label_tokens)


def _stage1_rung(revision: str, step: int, label_tokens: int | None, schedule: PublishedSchedule | None) -> Rung:
    tokens = label_tokens
    if step == 0:
        tokens = 0
    elif tokens is None and schedule:
        tokens = step * schedule.tokens_per_step
    lr = learning_rate_at_step(schedule, step) if schedule else None
    return Rung(revision, tokens, arm_at_step(schedule, step), lr, step, label_tokens=label_tokens)


def parse_rungs(repository: str, revisions: Iterable[str]) -> tuple[list[Rung], list[str]]:
    """(rungs sorted by stage and step, revisions that are no rungs), each once."""
    parsed = {revision: parse_rung(repository, revision) for revision in dict.fromkeys(revisions)}
    rungs = [rung for rung in parsed.values() if rung is not None]
    others = [revision for revision, rung in parsed.items() if rung is None]
    return sorted(rungs, key=lambda r: (r.stage, r.step or 0, r.name)), others


def token_problems(repository: str, rungs: Sequence[Rung]) -> list[str]:
    """Sentences about rungs without tokens, and about labels that do not agree with their steps."""
    problems = []
    if names := [rung.name for rung in rungs if rung.tokens is None]:
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        problems.append(
            f"{some} {'has' if len(names) == 1 else 'have'} no tokens: not in the name, and the tokens per step of "
            f"{repository} are not known"
        )
    schedule = published_schedule(repository)
    for stage in dict.fromkeys(rung.stage for rung in rungs):
        labels = {
            r.name: (r.step or 0, r.label_tokens) for r in rungs if r.stage == stage and r.label_tokens is not None
        }
        problems += _wrong_labels(labels, schedule.tokens_per_step if schedule and stage == "stage1" else None)
    return problems


def _wrong_labels(labels: dict[str, tuple[int, int]], tokens_per_step: float | None) -> list[str]:
    """Labels {revision: (step, tokens)} that are not steps x tokens per step: published, else the labels' median."""
    if tokens_per_step is None:
        ratios = [tokens / step for step, tokens in labels.values() if step and tokens]
        if len(ratios) < 3:
            return []
        tokens_per_step = statistics.median(ratios)
    return [
        f"{revision} says {format_tokens(tokens)} tokens, but {step:,} steps of {tokens_per_step:,.0f} make "
        f"{format_tokens(step * tokens_per_step)}"
        for revision, (step, tokens) in labels.items()
        if abs(tokens - step * tokens_per_step) > max(LABEL_ERROR_TOKENS, LABEL_ERROR_SHARE * step * tokens_per_step)
    ]


def format_tokens(tokens: float) -> str:
    """Tokens as people write them: 64M, 494B, 1.38T."""
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return f"{tokens:.0f}"
