"""Progress by work, with a clock that the test moves: what is left is the grid's, and finished cells set the rates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peftodyssey.execution import clock as clock_module
from peftodyssey.execution import rate_cache, time_left
from peftodyssey.execution.clock import Clock, stored_rates
from peftodyssey.plan.work import Work
from peftodyssey.store import layout

WORKS = {
    "scores/base": Work(0.0, 40.0, "", "base"),
    "cells/a": Work(600.0, 80.0, "lora", "cell"),
    "cells/b": Work(600.0, 80.0, "lora", "cell"),
    "cells/c": Work(1200.0, 80.0, "full", "cell"),
}


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    now = [100.0]
    monkeypatch.setattr(clock_module.time, "monotonic", lambda: now[0])

    def wait(seconds: float) -> None:
        now[0] += seconds

    return wait


def clock_in(folder: Path) -> Clock:
    return Clock(WORKS, list(WORKS), folder / layout.TIMES, "CPU")


def trained(clock: Clock, wait: Callable[[float], None], steps: int, seconds: float) -> None:
    for step in range(1, steps + 1):
        wait(seconds)
        clock.step(step, 10, seconds)


def cell(clock: Clock, folder: str, wait: Callable[[float], None]) -> None:
    """A cell that trains 10 s and does 4 s of other work."""
    clock.begin(folder)
    trained(clock, wait, 10, 1.0)
    wait(4.0)
    clock.end(folder)


def test_what_is_left_is_that_of_the_grid(tmp_path: Path, wait: Callable[[float], None]) -> None:
    clock = clock_in(tmp_path)
    assert clock.of_all().seconds is None
    clock.begin("scores/base")
    wait(30.0)  # loads the model
    clock.end("scores/base", seconds=2.0)
    assert clock.of_all().seconds is not None
    cell(clock, "cells/a", wait)
    clock.begin("cells/b")
    trained(clock, wait, 5, 1.0)
    # 40 + 680 operations are done, and of b five steps of 60; 10 s of LoRA are 600, and 4 s beside it are 80.
    assert clock.done_share == pytest.approx((40 + 680 + 5 * 60) / 2680)
    assert clock.of_current().seconds == pytest.approx(5 + 4)
    assert clock.of_all().seconds == pytest.approx(5 + 20 + 2 * 4)


def test_the_end_of_one_cell_is_never_that_of_the_grid(tmp_path: Path, wait: Callable[[float], None]) -> None:
    clock = clock_in(tmp_path)
    cell(clock, "cells/a", wait)
    clock.begin("cells/b")
    trained(clock, wait, 10, 1.0)
    assert clock.of_all().seconds > 20, "the full cell is still to come"


def test_cells_that_train_together_share_the_time_of_the_group(tmp_path: Path, wait: Callable[[float], None]) -> None:
    clock = clock_in(tmp_path)
    clock.begin("cells/a", "cells/b")
    for step in range(1, 11):
        wait(3.0)
        clock.step(step, 10, 1.5)  # of each member
    wait(6.0)  # they are scored together
    for folder in ("cells/a", "cells/b"):
        clock.begin(folder)
        wait(1.0)
        clock.end(folder)
    rates = stored_rates(tmp_path / layout.TIMES, "CPU")
    assert (rates.training["lora"].operations, rates.training["lora"].seconds) == pytest.approx((1200.0, 30.0))
    assert (rates.other["cell"].operations, rates.other["cell"].seconds) == pytest.approx((160.0, 6.0 + 2 * 1.0))
    assert rates.cells == 2
    assert set(clock.left) == {"scores/base", "cells/c"}


def test_rates_are_kept_between_starts_and_not_between_devices(tmp_path: Path, wait: Callable[[float], None]) -> None:
    first = clock_in(tmp_path)
    cell(first, "cells/a", wait)
    cell(first, "cells/b", wait)
    again = clock_in(tmp_path)
    assert again.rates.cells == 2
    assert again.of_all().seconds is not None
    assert stored_rates(tmp_path / layout.TIMES, "GPU").cells == 0
    assert time_left.status_line(tmp_path).startswith("time: about")
    (tmp_path / layout.TIMES).write_text("{broken")
    assert stored_rates(tmp_path / layout.TIMES, "CPU").cells == 0


def test_a_failed_task_sets_no_rate(tmp_path: Path, wait: Callable[[float], None]) -> None:
    clock = clock_in(tmp_path)
    clock.begin("cells/a")
    wait(50.0)
    clock.end("cells/a", failed=True)
    assert clock.of_all().seconds is None
    assert "cells/a" not in clock.left


def test_what_other_runs_measured_is_known_before_anything_is_finished(
    tmp_path: Path, wait: Callable[[float], None]
) -> None:
    first = clock_in(tmp_path / "first")
    (tmp_path / "first").mkdir()
    for folder in WORKS:
        cell(first, folder, wait)
    (tmp_path / "second").mkdir()
    second = clock_in(tmp_path / "second")
    assert second.rates.cells == 0
    seconds = 3 * 10.0 + 4 * 4.0  # the base's ten steps train nothing; its other operations are half of a cell's
    assert second.of_all().seconds == pytest.approx(seconds)
    second.begin("cells/a")
    trained(second, wait, 10, 2.0)  # the machine is busier now: all that was measured before takes twice as long
    assert second.of_all().seconds == pytest.approx(2 * (seconds - 10.0))


def test_rates_of_less_than_two_seconds_are_not_kept_for_other_runs(
    tmp_path: Path, wait: Callable[[float], None]
) -> None:
    (tmp_path / "first").mkdir()
    first = clock_in(tmp_path / "first")
    first.begin("cells/a")
    trained(first, wait, 10, 0.1)
    wait(1.0)
    first.end("cells/a")
    assert clock_in(tmp_path / "second").of_all().seconds is None


@pytest.mark.parametrize("damage", ["{half", '{"training": 3}', '{"training": {"a": 1}, "other": {}, "cells": 0}'])
def test_a_damaged_file_of_rates_is_no_file(tmp_path: Path, damage: str) -> None:
    file = rate_cache.path("CPU")
    file.parent.mkdir()
    file.write_text(damage)
    assert rate_cache.read("CPU").training == {}
