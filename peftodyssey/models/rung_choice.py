"""Rungs chosen by their tokens from those that a ladder has; what is not there is said. Called by `plan.rungs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peftodyssey.errors import ModelError
from peftodyssey.models.ladder import Ladder, Rung
from peftodyssey.models.rung_names import format_tokens
from peftodyssey.recipe.schema_rungs import Rungs

NEAR_SHARE = 0.05  # a rung counts as the one asked for within this share of its tokens


@dataclass(frozen=True)
class Choice:
    """Names of the chosen rungs, arm by arm with growing tokens, and what deserves a word."""

    names: tuple[str, ...]
    warnings: tuple[str, ...]


def choose_rungs(ladder: Ladder, wanted: Rungs) -> Choice:
    """The rungs of `ladder` nearest to the tokens that are wanted, in every arm that is wanted.

    A wanted budget without a rung within 5 % is left out with a warning that names its neighbours: nothing is put in
    its place. Raises ModelError where an arm does not exist or no rung at all is near.
    """
    known = [rung for rung in ladder.rungs if rung.tokens]
    arms = _arms(ladder, known, wanted)
    goals = list(_goals(known, wanted))
    found = {(arm, goal): _near([r for r in known if r.arm == arm], goal) for arm in arms for goal in goals}
    missed = [
        (arm, goal) for (arm, goal), rung in found.items() if rung is None and (wanted.arm or not _any(found, goal))
    ]
    warnings = [_hole(ladder.name, known, arm if wanted.arm else None, goal) for arm, goal in missed]
    chosen = list(dict.fromkeys(rung for rung in found.values() if rung is not None))
    if not chosen:
        there = ", ".join(f"{rung.name} ({format_tokens(rung.tokens or 0)})" for rung in known[:8])
        raise ModelError(
            f"{ladder.name} has no rung near any of {', '.join(map(format_tokens, goals))} tokens",
            f"it has: {there or 'none with known tokens'}",
        )
    return Choice(tuple(rung.name for rung in chosen), tuple(dict.fromkeys([*warnings, *_odd(ladder, chosen)])))


def _arms(ladder: Ladder, known: Sequence[Rung], wanted: Rungs) -> list[str | None]:
    there = list(dict.fromkeys(rung.arm for rung in known))
    if wanted.arm is None:
        return there
    names = [str(arm) for arm in there if arm is not None]
    for arm in wanted.arm:
        if arm not in names:
            raise ModelError(
                f"{ladder.name} has no arm {arm!r}",
                f"its arms: {', '.join(names) or 'none that are known: leave `arm` out'}",
            )
    return list(dict.fromkeys(wanted.arm))


def _goals(known: Sequence[Rung], wanted: Rungs) -> Iterator[int]:
    """Tokens to look for, ascending."""
    if wanted.tokens is not None:
        yield from sorted(set(wanted.tokens))
        return
    assert wanted.every is not None
    last = wanted.to or max((rung.tokens or 0 for rung in known), default=0)
    yield from range(wanted.start or wanted.every, last + 1, wanted.every)


def _near(rungs: Sequence[Rung], goal: int) -> Rung | None:
    best = min(rungs, key=lambda rung: abs((rung.tokens or 0) - goal), default=None)
    return best if best is not None and abs((best.tokens or 0) - goal) <= NEAR_SHARE * goal else None


def _any(found: dict[tuple[str | None, int], Rung | None], goal: int) -> bool:
    return any(rung is not None for (_, other), rung in found.items() if other == goal)


def _hole(name: str, known: Sequence[Rung], arm: str | None, goal: int) -> str:
    inside = [rung for rung in known if arm is None or rung.arm == arm]
    below = max((r for r in inside if (r.tokens or 0) < goal), key=lambda r: r.tokens or 0, default=None)
    above = min((r for r in inside if (r.tokens or 0) > goal), key=lambda r: r.tokens or 0, default=None)
    nearest = " and ".join(f"{rung.name} ({format_tokens(rung.tokens or 0)})" for rung in (below, above) if rung)
    of_arm = f" of arm {arm}" if arm else ""
    return f"{name} has no rung{of_arm} near {format_tokens(goal)} tokens, which is left out; the nearest: {nearest}"


def _odd(ladder: Ladder, chosen: Sequence[Rung]) -> Iterator[str]:
    """Remarks of the ladder that speak of a chosen rung, or of rungs that could not be chosen."""
    named = [f"{rung.name} says" for rung in chosen]
    yield from (
        f"{ladder.name}: {text}" for text in ladder.notes if "no tokens" in text or text.startswith(tuple(named))
    )
