"""A run of more than an hour says so first, and what would shorten it most, by the time of the changed recipe."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from support import micro

from peftodyssey import api
from peftodyssey.execution import rate_cache
from peftodyssey.execution.shorter import shorter_lines
from peftodyssey.execution.time_left import time_line
from peftodyssey.plan.tasks import Plan
from peftodyssey.plan.work import Rate, Rates, duration, works

HOUR = 3600.0


def at_rate(plan: Plan, seconds: float) -> Rates:
    """Rates at which the whole grid of `plan` takes so many seconds, kept as those of earlier runs."""
    every = list(works(plan).values())
    rate = Rate(sum(work.training + work.other for work in every), seconds)
    rates = Rates({work.kind: rate for work in every if work.kind}, {work.other_kind: rate for work in every})
    rate_cache.add(plan.device.name, rates)
    return rates


def test_a_long_run_is_told_what_would_shorten_it_most(tmp_path: Path) -> None:
    recipe, changes = micro.write(tmp_path), ["seeds=[0, 1, 2]", "train.budget=400 steps"]
    plan = api.plan(api.load(recipe, changes), device="cpu")
    rates = at_rate(plan, 10 * HOUR)
    first, *lines = shorter_lines(plan, tmp_path / "out", partial(api.plan, device="cpu"))
    assert "more than an hour: about 10.0 h" in first
    found = [re.fullmatch(r'  --set "?(.+?)"? would save about ([\d.]+) (h|min) of 10.0 h', line) for line in lines]
    assert [match[1].split("=")[0] for match in found] == ["seeds", "train.budget", "score.tokens"]
    for match in found:
        changed = api.plan(api.load(recipe, [*changes, match[1]]), device="cpu")
        seconds = duration(works(changed).values(), rates).seconds
        unit, rounding = (HOUR, 0.051) if match[3] == "h" else (60, 0.51)
        assert abs((10 * HOUR - seconds) / unit - float(match[2])) < rounding, match[1]
    assert "about 10.0 h" in time_line(plan, tmp_path / "out", "micro")


def test_a_short_run_and_one_of_unknown_length_are_told_nothing(tmp_path: Path) -> None:
    plan = api.plan(api.load(micro.write(tmp_path)), device="cpu")
    replan = partial(api.plan, device="cpu")
    assert shorter_lines(plan, tmp_path / "out", replan) == []
    at_rate(plan, 0.9 * HOUR)
    assert shorter_lines(plan, tmp_path / "out", replan) == []
