"""Which cells a multi-LoRA group began with: kept in the checkpoint of each, so that a resume has the same groups."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from peftodyssey.errors import Interrupted, StoreError
from peftodyssey.plan.multi_lora_groups import can_train_together, group_cells
from peftodyssey.plan.tasks import CellTask, Plan
from peftodyssey.store import atomic, layout


@dataclass(frozen=True)
class GroupRecord:
    """The cells of a group by their short hashes in the order of their rows, and how far it trains them."""

    members: tuple[str, ...]
    share: float  # of the budgets
    peak_memory_bytes: int = 0  # of the training so far, of all members together


def read(cell: Path) -> GroupRecord | None:
    """The group that the unfinished cell in the folder `cell` was last trained in; None where it was in none."""
    path = cell / layout.CHECKPOINT / layout.MULTI_LORA_FILE
    if not path.is_file():
        return None
    record = json.loads(path.read_text(encoding="utf-8"))
    return GroupRecord(tuple(record["members"]), record["share"], record["peak_memory_bytes"])


def write(cell: Path, record: GroupRecord) -> None:
    """Records the group of a cell."""
    atomic.write_text(cell / layout.CHECKPOINT / layout.MULTI_LORA_FILE, json.dumps(asdict(record)))


def groups(plan: Plan, tasks: Sequence[CellTask], share: float, root: Path) -> list[tuple[CellTask, ...]]:
    """The groups in which `tasks` train together up to `share`: what is left of those that were begun, then new ones.

    A group that was begun keeps its members, because the bits of a step depend on them; it may have one member left.
    """
    begun: dict[tuple[str, ...], list[CellTask]] = {}
    for task in tasks:
        record = read(root / task.folder)
        if record and record.share == share:
            begun.setdefault(record.members, []).append(task)
    resumed = [
        tuple(sorted(left, key=lambda task: members.index(task.short_hash)))
        for members, left in begun.items()
        if can_train_together(plan, left)
    ]
    taken = {task.folder for group in resumed for task in group}
    return [*resumed, *group_cells(plan, [task for task in tasks if task.folder not in taken])]


@contextlib.contextmanager
def recorded(tasks: Sequence[CellTask], share: float, root: Path) -> Iterator[GroupRecord]:
    """The body trains `tasks` together up to `share`; if it fails they are no group any more, and train alone.

    The rest of a group that was begun is recorded as that group.
    """
    record = begin(tasks, share, root)
    try:
        yield record
    except (Interrupted, StoreError):  # the run ends and is resumed
        raise
    except Exception:
        for task in tasks:
            (root / task.folder / layout.CHECKPOINT / layout.MULTI_LORA_FILE).unlink(missing_ok=True)
        raise


def begin(tasks: Sequence[CellTask], share: float, root: Path) -> GroupRecord:
    """Writes the record of a group that begins, or resumes."""
    hashes = tuple(task.short_hash for task in tasks)
    earlier = read(root / tasks[0].folder)
    resumed = earlier is not None and earlier.share == share and set(hashes) <= set(earlier.members)
    record = earlier if earlier and resumed else GroupRecord(hashes, share)
    for task in tasks:
        write(root / task.folder, record)
    return record
