"""What a run did, and the error of a task whose inputs failed."""

from __future__ import annotations

from dataclasses import dataclass, field

from peftodyssey.errors import OdysseyError


@dataclass
class Outcome:
    """What a run did, as counts and the reasons of what failed, by cell folder."""

    done: int = 0
    skipped: int = 0
    inputs: int = 0  # texts and columns that were computed
    stopped: int = 0  # by successive halving, in this run
    failed: dict[str, str] = field(default_factory=dict)
    interrupted: str = ""
    new_plan: bool = False  # the recipe's plan is another one than before, so tables are made again

    @property
    def worked(self) -> bool:
        """Whether anything on disk changed."""
        return bool(self.done or self.failed or self.inputs or self.stopped or self.new_plan)


class DependencyFailed(OdysseyError):
    """A task cannot be done because one of its inputs failed; the message is the reason of the first that did."""
