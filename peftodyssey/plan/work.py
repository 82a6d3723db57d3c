"""The operations of every task of a plan, and how long they take at rates that were measured. No torch.

Operations are multiplications and additions of forward and backward passes. Texts that are tokenised count as none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from peftodyssey.model_shape import ModelShape
from peftodyssey.plan.multi_lora_groups import group_cells
from peftodyssey.plan.tasks import BaseModelKey, CellTask, Plan
from peftodyssey.plan.text_tasks import scored_tokens
from peftodyssey.plan.time_estimate import TimeEstimate, halving_shares, scored_columns, training_steps

RECOMPUTED = {"none": 0.0, "selective": 0.6, "full": 1.0}  # of a forward pass, by gradient checkpointing
ALIKE_BAND, OTHER_BAND = 0.25, 0.5  # relative: rates of tasks of the same kind, and of another kind


@dataclass(frozen=True)
class Work:
    """Operations of one task: its training, and everything else that it does with a model.

    Tasks of one kind work at one rate: on one model, by one method, alone or together with others.
    """

    training: float
    other: float
    kind: str = ""  # of the training; "" where nothing is trained
    other_kind: str = ""  # of the rest
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
    """What finished tasks took, by kind: their training, and the rest."""

    training: dict[str, Rate] = field(default_factory=dict)
    other: dict[str, Rate] = field(default_factory=dict)
    cells: int = 0  # finished cells among the tasks


def count(rates: dict[str, Rate], kind: str, operations: float, seconds: float) -> None:
    """Adds what was done to the rate of its kind, where something was."""
    if operations > 0 and seconds > 0:
        rates.setdefault(kind, Rate()).add(operations, seconds)


def with_earlier(rates: Rates, earlier: Rates) -> Rates:
    """`rates`, and for the kinds that they lack those of earlier runs, at the pace of `rates`.

    The pace is what the kinds in common take now, as a multiple of what they took: a machine may be busier than it was.
    """
    pairs = [(rates.training, earlier.training), (rates.other, earlier.other)]
    common = [(now[kind], before[kind]) for now, before in pairs for kind in now if kind in before]
    took = sum(now.operations * before.seconds / before.operations for now, before in common)
    pace = sum(now.seconds for now, _ in common) / took if took else 1.0
    training, other = (
        {kind: Rate(rate.operations, rate.seconds * pace) for kind, rate in before.items()} | now
        for now, before in pairs
    )
    return replace(rates, training=training, other=other)


def works(plan: Plan) -> dict[str, Work]:
    """The work of every task that runs a model, by folder."""
    shares = halving_shares(plan)
    together = {task.folder: len(group) for group in group_cells(plan, plan.cells) for task in group}
    found = {
        task.folder: _cell_work(plan, task, shares.get(task.hash, (1.0, 1.0)), together.get(task.folder, 1))
        for task in plan.cells
    }
    shapes = {task.base.source.fingerprint: task.shape for task in plan.cells}
    for score in plan.base_scores:
        context, overlap = score.settings.context, score.settings.context / score.settings.stride
        tokens = scored_tokens(score.settings.tokens) * overlap
        operations = tokens * forward(shapes[score.base.source.fingerprint], context)
        found[score.folder] = Work(0.0, operations, other_kind=_kind(score.base, context, "base"))
    for measure in plan.measures:
        shape, context = shapes[measure.base.source.fingerprint], plan.cells[0].cell.score.context
        kind = _kind(measure.base, context, measure.measure)
        found[measure.folder] = Work(0.0, measure.scored_tokens * forward(shape, context), other_kind=kind)
    return found


def forward(shape: ModelShape, context: int) -> float:
    """Operations of a forward pass for one token, with half of `context` tokens before it."""
    weights = sum(linear.out_features * linear.in_features for linear in shape.linears)
    attention = 2 * shape.layers * shape.heads * shape.head_dim * context / 2
    return 2.0 * (weights + shape.hidden * shape.vocabulary + attention)


def _kind(base: BaseModelKey, context: int, *more: object) -> str:
    """A kind of work on a base: rungs of one model have one shape, and so one rate.

    The last word of a cell's kind is how many cells are trained together.
    """
    quant = base.quant.kind if base.quant else ""
    return " ".join(map(str, (base.source.name, quant, base.precision, context, *more)))


def _cell_work(plan: Plan, task: CellTask, shares: tuple[float, float], members: int) -> Work:
    """The work of a cell; `shares` are those of its steps and columns that halving leaves."""
    step, score, method = task.step, task.cell.score, task.cell.method.method
    step_share, column_share = shares
    scored = scored_columns(task) * scored_tokens(score.tokens) * score.context / score.stride
    scored += sum(measure.scored_tokens for measure in task.measures)
    other = column_share * scored * forward(task.shape, score.context)
    other_kind = _kind(task.base, score.context, method, members)
    if not task.train_index:
        return Work(0.0, other, other_kind=other_kind)
    passes = 1 + (2 if step.full else 1) + RECOMPUTED[step.gradient_checkpointing]
    replayed = task.cell.method.options.get("replay", 0.0)
    tokens = training_steps(plan.indexes, task) * task.cell.train.batch_tokens / (1 - replayed)
    kind = _kind(task.base, step.seq_len, method, step.engine, members)
    training = step_share * tokens * passes * forward(task.shape, step.seq_len)
    return Work(training, other, kind, other_kind, task.stem.shared if task.stem else 0.0)


def duration(left: Iterable[Work], rates: Rates) -> TimeEstimate:
    """Seconds of the work that is left, with their band; None where nothing like it was measured."""
    middle, spread, unknown = 0.0, 0.0, 0
    trained, scored = _pooled(rates.training), _pooled(rates.other)
    for work in left:
        parts = (
            (work.training, rates.training.get(work.kind), similar(rates.training, work.kind) or trained or scored),
            (work.other, rates.other.get(work.other_kind), similar(rates.other, work.other_kind) or scored or trained),
        )
        if any(operations and not (alike or pooled) for operations, alike, pooled in parts):
            unknown += 1
            continue
        for operations, alike, pooled in parts:
            rate, band = alike or pooled, ALIKE_BAND if alike else OTHER_BAND
            seconds = operations * rate.seconds / rate.operations if operations and rate else 0.0
            middle, spread = middle + seconds, spread + band * seconds
    if unknown:
        return TimeEstimate(None, None, None, unknown)
    return TimeEstimate(middle, middle - spread, middle + spread, 0)


def similar(rates: Mapping[str, Rate], kind: str) -> Rate | None:
    """The rate of cells like these that were trained with fewer or more others; None where there is none."""
    family = kind.rsplit(" ", 1)[0]
    return _pooled({name: rate for name, rate in rates.items() if name.rsplit(" ", 1)[0] == family})


def _pooled(rates: Mapping[str, Rate]) -> Rate | None:
    """All kinds together; None where there is none."""
    pooled = Rate()
    for rate in rates.values():
        pooled.add(rate.operations, rate.seconds)
    return pooled if pooled.operations else None
