"""The operations of every task of a plan, and how long they take at rates that were measured. No torch.

Operations are multiplications and additions of forward and backward passes. Texts that are tokenised count as none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from peftodyssey.model_shape import ModelShape
from peftodyssey.plan.tasks import CellTask, Plan
from peftodyssey.plan.text_tasks import scored_tokens
from peftodyssey.plan.time_estimate import TimeEstimate, halving_shares, scored_columns, training_steps

RECOMPUTED = {"none": 0.0, "selective": 0.6, "full": 1.0}  # of a forward pass, by gradient checkpointing
ALIKE_BAND, OTHER_BAND = 0.25, 0.5  # relative: rates of tasks of the same kind, and of another kind


@dataclass(frozen=True)
class Work:
    """Operations of one task: its training, and everything else that it does with a model."""

    training: float
    other: float
    kind: str = ""  # of the training: tasks of one kind train at one rate; "" where nothing is trained
    shared: float = 0.0  # share of the training that tasks of smaller budgets do: the stem up to their decay


@dataclass
class Rate:
    """Operations that were done, and the seconds that they took."""

    operations: float = 0.0
    seconds: float = 0.0

    def add(self, operations: float, seconds: float) -> None:
        """Counts what was done; nothing where one of the two is missing."""
        if operations > 0 and seconds > 0:
            self.operations, self.seconds = self.operations + operations, self.seconds + seconds


@dataclass
class Rates:
    """What finished tasks took: training by kind, and the rest."""

    training: dict[str, Rate] = field(default_factory=dict)
    other: Rate = field(default_factory=Rate)
    cells: int = 0  # finished cells among the tasks


def works(plan: Plan) -> dict[str, Work]:
    """The work of every task that runs a model, by folder."""
    shares = halving_shares(plan)
    found = {task.folder: _cell_work(plan, task, *shares.get(task.hash, (1.0, 1.0))) for task in plan.cells}
    shapes = {task.base.source.fingerprint: task.shape for task in plan.cells}
    for score in plan.base_scores:
        context, overlap = score.settings.context, score.settings.context / score.settings.stride
        tokens = scored_tokens(score.settings.tokens) * overlap
        found[score.folder] = Work(0.0, tokens * forward(shapes[score.base.source.fingerprint], context))
    for measure in plan.measures:
        shape = shapes[measure.base.source.fingerprint]
        found[measure.folder] = Work(0.0, measure.scored_tokens * forward(shape, plan.cells[0].cell.score.context))
    return found


def forward(shape: ModelShape, context: int) -> float:
    """Operations of a forward pass for one token, with half of `context` tokens before it."""
    weights = sum(linear.out_features * linear.in_features for linear in shape.linears)
    attention = 2 * shape.layers * shape.heads * shape.head_dim * context / 2
    return 2.0 * (weights + shape.hidden * shape.vocabulary + attention)


def _cell_work(plan: Plan, task: CellTask, step_share: float, column_share: float) -> Work:
    step, score = task.step, task.cell.score
    scored = scored_columns(task) * scored_tokens(score.tokens) * score.context / score.stride
    scored += sum(measure.scored_tokens for measure in task.measures)
    other = column_share * scored * forward(task.shape, score.context)
    if not task.train_index:
        return Work(0.0, other)
    passes = 1 + (2 if step.full else 1) + RECOMPUTED[step.gradient_checkpointing]
    replayed = task.cell.method.options.get("replay", 0.0)
    tokens = training_steps(plan.indexes, task) * task.cell.train.batch_tokens / (1 - replayed)
    kind = " ".join(
        map(str, (*task.base.identifier, task.cell.method.method, step.engine, step.precision, step.seq_len))
    )
    training = step_share * tokens * passes * forward(task.shape, step.seq_len)
    return Work(training, other, kind, task.stem.shared if task.stem else 0.0)


def duration(left: Iterable[Work], rates: Rates) -> TimeEstimate:
    """Seconds of the work that is left, with their band; None where nothing like it was measured."""
    middle, spread, unknown = 0.0, 0.0, 0
    pooled, scored = Rate(), bool(rates.other.operations)
    for rate in rates.training.values():
        pooled.add(rate.operations, rate.seconds)
    pooled = pooled if pooled.operations else rates.other
    for work in left:
        alike = rates.training.get(work.kind)
        parts = (
            (work.training, alike or pooled, ALIKE_BAND if alike else OTHER_BAND),
            (work.other, rates.other if scored else pooled, ALIKE_BAND if scored else OTHER_BAND),
        )
        if any(operations and not rate.operations for operations, rate, _ in parts):
            unknown += 1
            continue
        for operations, rate, band in parts:
            seconds = operations * rate.seconds / rate.operations if operations else 0.0
            middle, spread = middle + seconds, spread + band * seconds
    if unknown:
        return TimeEstimate(None, None, None, unknown)
    return TimeEstimate(middle, middle - spread, middle + spread, 0)
