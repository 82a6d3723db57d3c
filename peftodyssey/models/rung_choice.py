"""The choice of a ladder's rungs by their pretraining tokens, with warnings where no rung is near."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peftodyssey.errors import ModelError
from peftodyssey.models.ladder import Ladder
from peftodyssey.models.ladder_file import Rung
from peftodyssey.models.rung_names import format_tokens
from peftodyssey.recipe.schema_rungs import Rungs

NEAR_SHARE = 0.05  # a rung is near a budget within this share of the budget's tokens


@dataclass(frozen=True)
class RungChoice:
    """Names of the chosen rungs, arm by arm with growing tokens, and warnings."""

    names: tuple[str, ...]
    warnings: tuple[str, ...]


def choose_rungs(ladder: Ladder, wanted: Rungs) -> RungChoice:
    """The rungs of `ladder` nearest to the wanted token budgets, in every wanted arm.

    A budget without a rung within 5 % is left out with a warning that names the nearest rungs. Raises ModelError where
    an arm does not exist or no rung at all is near.
    """
    rungs = [rung for rung in ladder.rungs if rung.tokens]
    arms = _arms(ladder, rungs, wanted)
    budgets = list(_budgets(rungs, wanted))
    nearest = {
        (arm, budget): _nearest([r for r in rungs if r.arm == arm], budget) for arm in arms for budget in budgets
    }
    reached = {budget for (_, budget), rung in nearest.items() if rung is not None}
    warnings = [
        _no_rung_near(ladder.name, rungs, arm if wanted.arm else None, budget)
        for (arm, budget), rung in nearest.items()
        if rung is None and (wanted.arm or budget not in reached)
    ]
    chosen = list(dict.fromkeys(rung for rung in nearest.values() if rung is not None))
    if not chosen:
        names = ", ".join(f"{rung.name} ({format_tokens(rung.tokens or 0)})" for rung in rungs[:8])
        raise ModelError(
            f"{ladder.name} has no rung near any of {', '.join(map(format_tokens, budgets))} tokens",
            f"it has: {names or 'none with known tokens'}",
        )
    about_chosen = tuple(f"{rung.name} says" for rung in chosen)
    notes = (note for note in ladder.notes if "no tokens" in note or note.startswith(about_chosen))
    warnings += [f"{ladder.name}: {note}" for note in notes]
    return RungChoice(tuple(rung.name for rung in chosen), tuple(dict.fromkeys(warnings)))


def _arms(ladder: Ladder, rungs: Sequence[Rung], wanted: Rungs) -> list[str | None]:
    arms = list(dict.fromkeys(rung.arm for rung in rungs))
    if wanted.arm is None:
        return arms
    names = [arm for arm in arms if arm is not None]
    for arm in wanted.arm:
        if arm not in names:
            raise ModelError(
                f"{ladder.name} has no arm {arm!r}",
                f"its arms: {', '.join(names) or 'none that are known: leave `arm` out'}",
            )
    return list(dict.fromkeys(wanted.arm))


def _budgets(rungs: Sequence[Rung], wanted: Rungs) -> Iterator[int]:
    """Tokens to look for, ascending."""
    if wanted.tokens is not None:
        yield from sorted(set(wanted.tokens))
        return
    assert wanted.every is not None
    last = wanted.to or max((rung.tokens or 0 for rung in rungs), default=0)
    yield from range(wanted.start or wanted.every, last + 1, wanted.every)


def _nearest(rungs: Sequence[Rung], budget: int) -> Rung | None:
    best = min(rungs, key=lambda rung: abs((rung.tokens or 0) - budget), default=None)
    return best if best is not None and abs((best.tokens or 0) - budget) <= NEAR_SHARE * budget else None


def _no_rung_near(name: str, rungs: Sequence[Rung], arm: str | None, budget: int) -> str:
    tokens = {rung.name: rung.tokens or 0 for rung in rungs if arm is None or rung.arm == arm}
    below = max((rung for rung in tokens if tokens[rung] < budget), key=tokens.__getitem__, default=None)
    above = min((rung for rung in tokens if tokens[rung] > budget), key=tokens.__getitem__, default=None)
    nearest = " and ".join(f"{rung} ({format_tokens(tokens[rung])})" for rung in (below, above) if rung)
    of_arm = f" of arm {arm}" if arm else ""
    return f"{name} has no rung{of_arm} near {format_tokens(budget)} tokens, which is left out; the nearest: {nearest}"
