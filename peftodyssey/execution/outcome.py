"""What a run did, and the error of a task whose inputs failed."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from peftodyssey.errors import Interrupted, OdysseyError, StoreError
from peftodyssey.store import layout


@dataclass
class Outcome:
    """What a run did, as counts and the reasons of what failed, by cell folder."""

    done: int = 0
    skipped: int = 0
    inputs: int = 0  # texts and columns that were computed
    stopped: int = 0  # by successive halving, in this run
    failed: dict[str, str] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)  # tasks in words, by folder
    interrupted: str = ""
    searches: tuple[str, ...] = ()  # for learning rates: each in a line

    def then(self, later: Outcome) -> Outcome:
        """What this and a later round did together; what was there before the first one counts as there."""
        return Outcome(
            self.done + later.done,
            self.skipped,
            self.inputs + later.inputs,
            self.stopped + later.stopped,
            {**self.failed, **later.failed},
            {**self.names, **later.names},
            later.interrupted,
        )

    @property
    def worked(self) -> bool:
        """Whether anything on disk changed."""
        return bool(self.done or self.failed or self.inputs or self.stopped)


class DependencyFailed(OdysseyError):
    """A task cannot be done because one of its inputs failed; the message is the reason of the first that did."""


def reason_of(act: Callable[[], None]) -> str:
    """ "" where `act` worked, else why not; a broken store and a request to stop end the run."""
    try:
        act()
    except (Interrupted, StoreError, KeyboardInterrupt):
        raise
    except OdysseyError as error:
        return str(error)
    except Exception as error:  # one cell's failure, whatever it is, must not end the run: it is recorded
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
    return ""


def summary(outcome: Outcome, root: Path) -> str:
    """What a run did, in lines: failed cells, counts, report and log."""
    parts = [f"{outcome.done} done"] * bool(outcome.done) + [f"{outcome.skipped} were there"] * bool(outcome.skipped)
    parts += [f"{outcome.stopped} stopped early"] * bool(outcome.stopped)
    parts += [f"{len(outcome.failed)} failed"] * bool(outcome.failed)
    failed = (f"failed: {outcome.names.get(folder, folder)}: {why}" for folder, why in outcome.failed.items())
    ends = (f"Report: {root / layout.REPORT / 'index.html'}", f"Log: {root / layout.RUN_LOG}")
    return "\n".join([*failed, *outcome.searches, f"Cells: {', '.join(parts) or 'none'}.", *ends])
