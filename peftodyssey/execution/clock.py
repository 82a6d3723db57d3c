"""The work that is left of a run, and its time at the rates of what is finished; `times.json` keeps both."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from peftodyssey.execution import rate_cache
from peftodyssey.jobs import progress_file
from peftodyssey.plan.time_estimate import TimeEstimate
from peftodyssey.plan.work import Rates, Work, count, duration, with_earlier
from peftodyssey.store import atomic, manifest

CELLS_NEEDED = 2  # finished ones, before their rates are used for an estimate of the rest


class Clock:
    """Follows the tasks of a run: which work each had, how far the current one is, and what finished ones took."""

    def __init__(self, works: Mapping[str, Work], todo: Sequence[str], path: Path, device: str) -> None:
        self.works, self.path, self.device = works, path, device
        self.left = {folder: left_of(folder, works[folder], path.parent) for folder in todo if folder in works}
        self.total = sum(_operations(work) for work in self.left.values())
        self.rates = stored_rates(path, device)  # of this directory
        self.earlier = rate_cache.read(device)  # of other runs on this machine
        self.here = Rates()  # of this start
        self._beside: dict[str, float] = {}  # seconds beside training of tasks that are not ended
        self._current: tuple[str, ...] = ()
        self._reset()

    def _reset(self) -> None:
        self._begun = time.monotonic()
        self._trained_from: float | None = None  # shares of the budget, of the current task
        self._trained_to, self._other_share, self._step_seconds = 0.0, 0.0, 0.0

    def begin(self, *folders: str) -> None:
        """A task begins, or some cells train together; what was done of others before is counted."""
        self._leave()
        self._current = folders

    def step(self, step: int, steps: int, seconds: float) -> None:
        """A step of the current training is done; `seconds` are one cell's share where several train together."""
        if self._trained_from is None:
            self._trained_from = (step - 1) / steps
        self._trained_to = step / steps
        self._step_seconds += seconds * max(1, len(self._current))

    def scored(self, share: float) -> None:
        """So much of the column that the current task scores is done; only of a task that does nothing else."""
        if all(not self.left[folder].kind for folder in self._current if folder in self.left):
            self._other_share = share

    def end(self, folder: str, seconds: float | None = None, failed: bool = False) -> None:
        """A task ended; `seconds` are those of its work where the task knows them."""
        is_cell = bool(self.works.get(folder, Work(0, 0)).kind)
        self._leave()
        work, beside = self.left.pop(folder, None), self._beside.pop(folder, 0.0)
        if work is not None and not failed:
            for rates in (self.rates, self.here):
                count(rates.other, work.other_kind, work.other, beside if seconds is None else seconds)
                rates.cells += is_cell
        self._current = ()
        self.write()

    def _leave(self) -> None:
        """Takes the training of the current task from what is left and adds it to the rates; keeps its other seconds.

        Cells that train together are also evaluated and scored together: each has an equal share of that time.
        """
        trained = {folder: self._trained_operations(folder) for folder in self._current if folder in self.left}
        for folder, operations in trained.items():
            work, seconds = self.left[folder], self._step_seconds * operations / max(sum(trained.values()), 1e-9)
            for rates in (self.rates, self.here):
                count(rates.training, work.kind, operations, seconds)
            self.left[folder] = replace(work, training=max(0.0, work.training - operations))
        beside = max(0.0, time.monotonic() - self._begun - self._step_seconds) / max(1, len(self._current))
        for folder in self._current:
            self._beside[folder] = self._beside.get(folder, 0.0) + beside
        self._reset()

    def _trained_operations(self, folder: str) -> float:
        """Operations of training of the current task so far; steps are those of the longest of cells together."""
        if self._trained_from is None or folder not in self._current:
            return 0.0
        whole = self.works[folder].training
        longest = max(self.works[each].training for each in self._current)
        return min(whole, longest * self._trained_to) - min(whole, longest * self._trained_from)

    def _left_of(self, folder: str) -> Work:
        """What is left of a task now."""
        work = self.left[folder]
        trained = self._trained_operations(folder)
        share = self._other_share if folder in self._current else 0.0
        return replace(work, training=max(0.0, work.training - trained), other=work.other * (1 - share))

    def _rates_now(self) -> Rates:
        """The rates with the current training in them, and those of earlier runs for what was not done here yet."""
        training = {kind: replace(rate) for kind, rate in self.rates.training.items()}
        trained = {folder: self._trained_operations(folder) for folder in self._current if folder in self.left}
        for folder, operations in trained.items():
            seconds = self._step_seconds * operations / max(sum(trained.values()), 1e-9)
            count(training, self.left[folder].kind, operations, seconds)
        return with_earlier(replace(self.rates, training=training), self.earlier)

    @property
    def done_share(self) -> float:
        """The share of the work of this start that is done."""
        left = sum(_operations(self._left_of(folder)) for folder in self.left)
        return 1 - left / self.total if self.total else 1.0

    def of_all(self) -> TimeEstimate:
        """Time that everything takes that is left."""
        return duration([self._left_of(folder) for folder in self.left], self._rates_now())

    def of_current(self) -> TimeEstimate:
        """Time that the current task still takes."""
        return duration([self._left_of(folder) for folder in self._current if folder in self.left], self._rates_now())

    def write(self) -> None:
        """Keeps works and rates for the next start and for `status`, and the rates for other runs on this machine."""
        works = {folder: asdict(work) for folder, work in self.works.items()}
        content = {"device": self.device, "rates": asdict(self.rates), "works": works}
        if self.path.parent.is_dir():
            atomic.write_text(self.path, json.dumps(content) + "\n")
            rate_cache.add(self.device, self.here)


def left_of(folder: str, work: Work, root: Path) -> Work:
    """What is left of a task below `root`: a training continues from its last checkpoint, or from its stem."""
    if manifest.read(root / folder) is not None:  # trained, and not yet scored everywhere
        return replace(work, training=0.0)
    progress = progress_file.read(root / folder)
    share = progress["saved_step"] / max(1, progress["steps"]) if progress else 0.0
    return replace(work, training=work.training * (1 - max(share, work.shared)))


def _operations(work: Work) -> float:
    return work.training + work.other


def stored_rates(path: Path, device: str) -> Rates:
    """The rates that earlier starts measured on `device`; none where there are none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return rate_cache.parsed(content["rates"]) if content["device"] == device else Rates()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Rates()


def stored_works(path: Path) -> tuple[dict[str, Work], Rates]:
    """The works that the last start wrote, and its rates; empty where there are none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        works = {folder: Work(**work) for folder, work in content["works"].items()}
        return works, with_earlier(stored_rates(path, content["device"]), rate_cache.read(content["device"]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}, Rates()
