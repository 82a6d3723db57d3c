"""Progress of a run: bars on a terminal, plain lines elsewhere. These are the `JobCallbacks` of a run."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from peftodyssey.display.durations import format_seconds
from peftodyssey.execution.clock import Clock
from peftodyssey.execution.interrupt import Stop
from peftodyssey.execution.run_log import RunLog
from peftodyssey.training.settings import StepRecord

PLAIN_EVERY_S = 10.0
SHORT = 30  # characters of a name beside a bar


class ProgressReporter:
    """Prints tasks, steps and scores to `console`; also answers a job's `should_stop`."""

    def __init__(self, console: Console, stop: Stop, log: Path | None = None, verbose: bool = False) -> None:
        self.console = console
        self.stop = stop
        self.log = RunLog(log)
        self.verbose = verbose  # folders of tasks on the screen, which else only the log names
        self.live = console.is_terminal
        self._progress: Progress | None = None
        self._all: TaskID | None = None
        self._one: TaskID | None = None
        self._begun = time.monotonic()
        self._last_plain = 0.0
        self._done = 0
        self._total = 0
        self._clock: Clock | None = None
        self._valid = ""
        self._tokens_done = 0
        self._task_begun, self._step_seconds = time.monotonic(), 0.0

    @contextlib.contextmanager
    def showing(self, total: int, clock: Clock | None = None) -> Iterator[None]:
        """Show progress over `total` tasks while the block runs; `clock` knows their work."""
        self._total, self._clock = total, clock
        if clock:
            clock.write()
        if not self.live:
            yield
            return
        columns = (
            TextColumn("{task.description}", justify="left"),
            BarColumn(bar_width=12),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[info]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True, refresh_per_second=4) as progress:
            self._progress = progress
            self._all = progress.add_task("all", total=1.0, info="", count=f"0/{total}")
            self._one = progress.add_task("", total=1, info="", count="", visible=False)
            yield
        self._progress = None

    def task(self, name: str, folder: str = "") -> None:
        """A task begins, with its name in words and its folder."""
        self._valid, self._tokens_done = "", 0
        self._task_begun, self._step_seconds = time.monotonic(), 0.0
        self.log.write(f"begins {name}: {folder}")
        if self._clock:
            self._clock.begin(folder)
        name = f"{name} ({folder})" if self.verbose and folder else name
        if self._progress and self._one is not None:
            self._progress.reset(self._one, description=_short(name), visible=True, info="", total=1)
        else:
            self._print(f"[{self._done + 1}/{self._total}] {name}")

    def multi_lora(self, folders: Sequence[str], method: str, share: float) -> None:
        """Some cells train together up to a share of their budgets; each is a task of its own as it ends."""
        self._valid, self._tokens_done = "", 0
        members = len(folders)
        if self._clock:
            self._clock.begin(*folders)
        cells = f"{members} {method} cells together" if members > 1 else f"the last {method} cell of its group"
        name = f"{cells} (multi-LoRA)" + (f", to {share:.0%}" if share < 1 else "")
        if self._progress and self._one is not None:
            self._progress.reset(self._one, description=name, visible=True, info="", total=1)
        else:
            self.say(f"[{self._done + 1}-{self._done + members}/{self._total}] training {name}")

    def finished(self, name: str, outcome: str, line: str = "", folder: str = "", seconds: float | None = None) -> None:
        """A task ended: `outcome` says how, `line` what it found, `seconds` how long its work took, if it says so."""
        self._done += 1
        if self._clock:
            self._clock.end(folder, seconds, outcome != "done")
        text = f"{outcome:>7}  {name}  {line}".rstrip()
        self.log.write(f"{text.strip()}: {folder}")
        text += f"  {folder}" if self.verbose and folder else ""
        if self._progress and self._all is not None:
            self._update_all(self._progress, self._all)
            self._progress.print(text, highlight=False, markup=False, soft_wrap=True)
        elif line or outcome != "done":
            self._print(text)

    @property
    def seconds_beside_steps(self) -> float:
        """Seconds of the current task so far without its training steps: scoring, evaluations, saving."""
        return max(0.0, time.monotonic() - self._task_begun - self._step_seconds)

    def say(self, text: str) -> None:
        """One line, above the bars and in the log."""
        self.log.write(text.strip())
        self._print(text)

    def _print(self, text: str) -> None:
        (self._progress or self.console).print(text, highlight=False, markup=False, soft_wrap=True)

    def step(self, record: StepRecord, steps: int) -> None:
        """A training step of `steps` is done."""
        self._step_seconds += record.seconds
        gained = record.tokens - self._tokens_done  # 0 or less for a branch of a ladder, which starts behind its trunk
        # the first step that this process shows may be one of a resumed training
        step_tokens = max(0, gained) if self._tokens_done else record.tokens / record.step
        rate = step_tokens / record.seconds if record.seconds else 0.0
        self._tokens_done = record.tokens
        if self._clock:
            self._clock.step(record.step, steps, record.seconds)
        info = f"loss {record.loss_nats:.3f}{self._valid}  {rate:,.0f} tok/s  {self._left_of_task(record, steps)}"
        self._advance(record.step, steps, info, "step")

    def _left_of_task(self, record: StepRecord, steps: int) -> str:
        """The time of the current task: of its training and its scoring where rates say both, else of its training."""
        seconds = self._clock.of_current().seconds if self._clock else None
        if seconds is not None:
            return f"{format_seconds(seconds)} left of it"
        return f"{format_seconds((steps - record.step) * record.seconds)} of training left"

    def scored(self, name: str, done: int, total: int) -> None:
        """`done` of `total` tokens of the column `name` are scored."""
        if self._clock:
            self._clock.scored(done / max(1, total))
        self._advance(done, total, f"scoring {_short(name)}", "token")

    def evaluated(self, share: float, corpus: str, nll_nats: float) -> None:
        """After `share` of the budget the NLL of held-out text is `nll_nats` per token."""
        if corpus.endswith("valid"):
            self._valid = f"  valid {nll_nats:.3f}"
        if not self._progress:
            self.say(f"  at {share:.0%}: {corpus} {nll_nats:.4f} nats/token")

    def note(self, text: str) -> None:
        """Something that the user should know, in one line."""
        self.say(f"  note: {text}")

    def should_stop(self) -> bool:
        """Whether the user wants the work to end cleanly now."""
        return bool(self.stop)

    def _advance(self, done: int, total: int, info: str, unit: str) -> None:
        if self._progress and self._one is not None:
            self._progress.update(self._one, completed=done, total=total, info=info, count=f"{done:,}/{total:,}")
            if self._all is not None:
                self._update_all(self._progress, self._all)
        elif time.monotonic() - self._last_plain >= PLAIN_EVERY_S:
            self._last_plain = time.monotonic()
            self._print(f"  {unit} {done:,}/{total:,}  {info}; in all: {self._time_left()}")

    def _update_all(self, progress: Progress, task: TaskID) -> None:
        share = self._clock.done_share if self._clock else self._done / max(1, self._total)
        progress.update(task, completed=share, info=self._time_left(), count=f"{self._done}/{self._total}")

    def _time_left(self) -> str:
        """The time of everything that is left, by the rates of what was done; of work, not of tasks."""
        if self._clock is None:
            each = (time.monotonic() - self._begun) / max(1, self._done)
            return f"about {format_seconds(each * (self._total - self._done))} left" if self._done else "time unknown"
        seconds = self._clock.of_all().seconds
        return "time unknown" if seconds is None else f"about {format_seconds(seconds)} left"


def _short(name: str) -> str:
    """A name in words; of a folder the last part without its hash; at most SHORT characters."""
    short = re.sub(r"-[0-9a-f]{8}$", "", name if " " in name else name.rsplit("/", 1)[-1])
    short = re.sub(" +", " ", short)
    return short if len(short) <= SHORT else "…" + short[1 - SHORT :]
