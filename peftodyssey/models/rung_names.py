"""A revision's name read as a rung: step, tokens, stage. Called by `models.ladder` and for revisions that a recipe
names.

Names are read and never computed. The schemes: OLMo `step1000-tokens4B`; OLMo-2 `stage1-step10000-tokens21B` and
`stage2-ingredient1-step11931-tokens50B`; Amber `ckpt_000`; Pythia `step143000`; SmolLM2 `step-240000`.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peftodyssey.models.rung_facts import PublishedSchedule, arm_at_step, learning_rate_at_step, published_schedule

STEPS = re.compile(r"(?:stage(\d+)-(?:ingredient(\d+)-)?)?step-?(\d+)(?:-tokens(\d+(?:\.\d+)?)([BMT]))?")
CHUNKS = re.compile(r"ckpt_(\d+)")
UNIT_TOKENS = {"M": 10**6, "B": 10**9, "T": 10**12}
LABEL_ERROR_TOKENS, LABEL_ERROR_SHARE = 2 * 10**9, 0.02  # labels are cut to whole billions, and drift by one


@dataclass(frozen=True)
class Rung:
    """One checkpoint of a ladder."""

    name: str  # what `revision` takes
    tokens: int | None  # seen in pretraining; None where nothing says so
    arm: (
        str | None
    )  # init | trunk (constant rate) | annealed (decayed to 0) | decay | cosine | stage2-...; None: not known
    learning_rate: float | None = None  # of its last step; None where none is recorded
    step: int | None = None
    stage: str = "stage1"
    labelled: bool = False  # the tokens are in the name


def parse_rung(repository: str, name: str) -> Rung | None:
    """The rung that the revision `name` of a Hub repository is, None where its name says no step."""
    facts = published_schedule(repository)
    if found := CHUNKS.fullmatch(name):
        return _of_step(name, int(found[1]) + 1, None, facts)
    if not (found := STEPS.fullmatch(name)):
        return None
    stage, ingredient, step, amount, unit = found.groups()
    label = None if amount is None else round(float(amount) * UNIT_TOKENS[unit])
    if stage is None or int(stage) < 2:
        return _of_step(name, int(step), label, facts)
    return _of_later_stage(
        name, f"stage{stage}" + f"-ingredient{ingredient}" * (ingredient is not None), int(step), label, facts
    )


def _of_step(name: str, step: int, label: int | None, facts: PublishedSchedule | None) -> Rung:
    computed = None if facts is None else step * facts.tokens_per_step
    tokens = computed if label is None else label
    rate = learning_rate_at_step(facts, step) if facts else None
    return Rung(name, 0 if step == 0 else tokens, arm_at_step(facts, step), rate, step, labelled=label is not None)


def _of_later_stage(name: str, stage: str, step: int, label: int | None, facts: PublishedSchedule | None) -> Rung:
    """A later stage's label counts from its own beginning: what came before is added, where it is known."""
    before = facts.stage1_tokens if facts else None
    whole = None if label is None or before is None else before + label
    return Rung(name, whole, stage, None, step, stage, labelled=label is not None)


def parse_rungs(repository: str, names: Iterable[str]) -> tuple[list[Rung], list[str]]:
    """(rungs by stage and step, names that are none), each name once."""
    read = {name: parse_rung(repository, name) for name in dict.fromkeys(names)}
    rungs = [rung for rung in read.values() if rung is not None]
    return sorted(rungs, key=lambda r: (r.stage, r.step or 0, r.name)), [
        name for name, rung in read.items() if rung is None
    ]


def token_problems(repository: str, rungs: Sequence[Rung]) -> list[str]:
    """What is wrong with the tokens of these rungs, in sentences: missing ones, and labels that their steps contradict."""
    found = []
    if bare := [rung.name for rung in rungs if rung.tokens is None]:
        found.append(
            f"{_some(bare)} {_have(bare)} no tokens: not in the name, and no tokens of a step are known for {repository}"
        )
    facts = published_schedule(repository)
    for stage in dict.fromkeys(rung.stage for rung in rungs):
        found += _wrong_labels(
            [r for r in rungs if r.stage == stage and r.labelled], facts if stage == "stage1" else None, stage
        )
    return found


def _wrong_labels(rungs: Sequence[Rung], facts: PublishedSchedule | None, stage: str) -> list[str]:
    """Labels that lie away from steps x tokens of a step: published, or else the median of the ladder's own."""
    labels = {rung.name: (rung.step or 0, _label(rung.name)) for rung in rungs}
    ratios = [tokens / step for step, tokens in labels.values() if step and tokens]
    per_step = facts.tokens_per_step if facts else (statistics.median(ratios) if len(ratios) > 2 else None)
    if per_step is None:
        return []
    return [
        f"{name} says {format_tokens(tokens)} tokens, but {step:,} steps of {per_step:,.0f} make {format_tokens(step * per_step)}"
        for name, (step, tokens) in labels.items()
        if abs(tokens - step * per_step) > max(LABEL_ERROR_TOKENS, LABEL_ERROR_SHARE * step * per_step)
    ]


def _label(name: str) -> int:
    found = STEPS.fullmatch(name)
    assert found is not None
    assert found[4] is not None, name
    return round(float(found[4]) * UNIT_TOKENS[found[5]])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _have(names: Sequence[str]) -> str:
    return "has" if len(names) == 1 else "have"


def format_tokens(tokens: float) -> str:
    """Tokens as people write them: 64M, 494B, 1.38T."""
    for unit, width in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if tokens >= width:
            return f"{tokens / width:.3g}{unit}"
    return f"{tokens:.0f}"
