"""Errors that the user can act on: each says what is wrong and what to do next. Floor 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

EXIT_DONE = 0
EXIT_SOME_FAILED = 1
EXIT_USER = 2
EXIT_DOES_NOT_FIT = 3
EXIT_INTERRUPTED = 130


class OdysseyError(Exception):
    """A mistake or a limit that the user can act on: `message` says what is wrong, `next_step` what to do.

    `exit_code` is what the command line returns when this error ends it.
    """

    exit_code = EXIT_USER

    def __init__(self, message: str, next_step: str = "") -> None:
        super().__init__(message, next_step)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.next_step}" if self.next_step else self.message


class InputError(OdysseyError, ValueError):
    """A value, file or name given by the user cannot be used."""


class StoreError(OdysseyError, OSError):
    """The output directory cannot be read or written, or holds something incomplete."""

    def __str__(self) -> str:
        return OdysseyError.__str__(self)


class ModelError(InputError):
    """A model cannot be found, read or used: missing config, pickled weights, truncated file, unknown family."""


class MissingWeights(ModelError):
    """A model has a place but no weight files there, or not all of them; other rungs of its ladder may have theirs."""


class CorpusError(InputError):
    """A corpus cannot be found, read or used: empty, not UTF-8, smaller than one sequence, field missing."""


class RowError(CorpusError):
    """One row of a corpus cannot be used; `reason` says why without its place, so that rows can be counted by it."""

    def __init__(self, place: str, reason: str, next_step: str) -> None:
        super().__init__(f"{place}: {reason}", next_step)
        self.reason = reason
        self.args = (place, reason, next_step)


class MethodError(InputError):
    """A method cannot be applied to this model: rank too large, no biases, no matching target."""


class TrainingError(OdysseyError, RuntimeError):
    """Training of one cell failed: loss not finite, nothing to train on, adapter that did not change."""


class NotFinite(TrainingError):
    """A model gives tokens a likelihood that is NaN or infinite."""

    exit_code = EXIT_SOME_FAILED


class DoesNotFit(OdysseyError, MemoryError):
    """The work does not fit the available memory."""

    exit_code = EXIT_DOES_NOT_FIT


class Interrupted(OdysseyError):
    """The user stopped the run; finished results are kept and the next start resumes from there."""

    exit_code = EXIT_INTERRUPTED


@dataclass(frozen=True)
class Problem:
    """One mistake in a recipe and its location. `line` and `column` count from 1; 0 where there is no location.

    `depends_on` are the paths of the values that a check of several values compared.
    """

    where: str
    line: int
    column: int
    key: str
    what: str
    got: str = ""
    allowed: str = ""
    next_step: str = ""
    severity: str = "error"
    depends_on: tuple[tuple[Any, ...], ...] = ()

    def __str__(self) -> str:
        location = f"{self.where}:{self.line}:{self.column}" if self.line else self.where
        text = f"{location}: {self.key}: {self.what}" if self.key else f"{location}: {self.what}"
        for label, value in (("got", self.got), ("allowed", self.allowed), ("next", self.next_step)):
            text += f"\n    {label}: {value}" if value else ""
        return text


class RecipeError(InputError):
    """A recipe has problems; all of them are in `problems`, in the order of their lines."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = sorted(problems, key=lambda p: (p.where, p.line, p.column))
        count = len(problems)
        super().__init__("\n".join(str(p) for p in self.problems), f"{count} problem{'s' * (count != 1)} to correct")
        self.args = (problems,)
