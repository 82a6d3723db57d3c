"""Results as sentences, and the numbers, names and groups of rows that all sentences share.

Rows are those of `results.parquet`; where several runs are compared, each has a `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from peftodyssey.recipe.lr_scale import next_lr
from peftodyssey.stats.lr_selection import UNMEASURED
from peftodyssey.stats.mean_over_seeds import SeedsMean, mean_over_seeds

Row = Mapping[str, Any]
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

METHODS = {
    "full": "Full fine-tuning",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "bitfit": "BitFit",
    "ia3": "IA3",
    "last_layers": "Training the last layers",
    "truncate": "The truncated full update",
}
# Rows that agree in these columns and in their label differ in learning rate or seed only.
SETTING = ("run", "model", "revision", "domain", "newline", "objective", "budget", "context", "score_tokens")
# Columns of an estimate and the ends of its interval.
DELTA = ("delta_nll", "delta_lo", "delta_hi")
FORGETTING = ("forgetting", "forgetting_lo", "forgetting_hi")
UNIT = "nats/token"
NO_NUMBER = "-"
NO_VERDICT = "no interval, so no verdict"
NO_CHANGE = "no clear change"
DISPLAY_EPS = 5e-4  # half a unit of the last digit with which changes are printed


def grouped(rows: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """Rows by key, both in the order of the rows."""
    groups: dict[K, list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def columns_of(*columns: str) -> Callable[[Row], tuple[Any, ...]]:
    """A key for `grouped`: the values of these columns."""
    return lambda row: tuple(row.get(column) for column in columns)


def method_name(row: Row) -> str:
    """The method in words, with the options of its label."""
    label, method = str(row.get("label") or row.get("method") or "?"), str(row.get("method"))
    if method in METHODS and label.split(" ")[0] == method:
        return METHODS[method] + label[len(method) :]
    return label


def percent(share: float | None) -> str:
    """A share with two significant digits: 0.081 %, 1.9 %, 45 %."""
    return NO_NUMBER if share is None else f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"


def text_name(row: Row) -> str:
    """The text adapted to, with its newline policy unless that is `keep`."""
    return str(row["domain"]) if row.get("newline") in (None, "keep") else f"{row['domain']}, {row['newline']}"


def base_name(row: Row) -> str:
    """The base: its revision, or the last part of the model's name; with the run where several are compared."""
    name = str(row.get("revision") or str(row.get("model")).rsplit("/", 1)[-1])
    return f"{row['run']}: {name}" if row.get("run") else name


def setting(row: Row) -> tuple[str, ...]:
    """The values of SETTING, as text."""
    return tuple(str(row.get(column) or "") for column in SETTING)


def selected_cells(rows: Iterable[Row]) -> list[Row]:
    """The finished cells at their selected learning rate; statements are made of these alone."""
    return [row for row in rows if row["status"] == "done" and row["selected"]]


def seed_key(row: Row) -> tuple[Any, ...]:
    """A key for `grouped`: selected cells with the same one differ in their seed only."""
    return (*setting(row), row["label"], row.get("setting"))


def seed_groups(rows: Iterable[Row]) -> list[list[Row]]:
    """Selected cells that differ in their seed only, in the order of the rows."""
    return list(grouped(selected_cells(rows), seed_key).values())


def is_tuned(row: Row, rows: Iterable[Row]) -> bool:
    """Whether the recipe has several learning rates for this cell."""
    same = [other for other in rows if other["seed"] == row["seed"] and seed_key(other) == seed_key(row)]
    return len({other["lr"] for other in same}) > 1


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign, never minus zero; a dash if there is none."""
    if value is None or value != value:
        return NO_NUMBER
    rounded = round(value, digits)
    return f"{rounded + 0.0:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def ends(lower: float | None, upper: float | None, digits: int = 3) -> str:
    """An interval in brackets, or a note that there is none."""
    return "[no interval]" if lower is None else f"[{signed(lower, digits)}, {signed(upper, digits)}]"


def interval(row: Row, columns: Sequence[str], digits: int = 3) -> str:
    """`-0.412 [-0.431, -0.394]` from the columns of an estimate and its interval."""
    estimate, lower, upper = (row.get(column) for column in columns)
    return NO_NUMBER if estimate is None else f"{signed(estimate, digits)} {ends(lower, upper, digits)}"


def delta(row: Row) -> str:
    """The change on test with its interval."""
    return interval(row, DELTA)


def forgetting(row: Row) -> str:
    """The change on general text with its interval."""
    return interval(row, FORGETTING)


def amount(
    rows: Sequence[Row], columns: Sequence[str], unit: str = f" {UNIT}", digits: int = 3, scale: float = 1.0
) -> str:
    """A quantity of rows that differ in their seed only: the mean with its interval; of several seeds, over what."""
    mean = seeds_mean(rows, columns)
    lower, upper = (value and scale * value for value in (mean.lower, mean.upper))
    text = f"{signed(scale * mean.estimate, digits)}{unit} {ends(lower, upper, digits)}"
    return text if len(rows) == 1 else f"{text} (mean of {len(rows)} seeds; interval over {mean.covers})"


def seeds_mean(rows: Sequence[Row], columns: Sequence[str]) -> SeedsMean:
    """The mean of rows that differ in their seed only, from the columns of an estimate and its interval."""
    estimates, lowers, uppers = ([row.get(column) for row in rows] for column in columns)
    return mean_over_seeds([value for value in estimates if value is not None], lowers, uppers)


def format_lr(lr: float | None) -> str:
    """A learning rate as people write it: 3e-3."""
    if lr is None:
        return NO_NUMBER
    mantissa, exponent = f"{lr:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def learning_rate(row: Row) -> str:
    """The learning rate, with what to try where it is not known to be the best."""
    if row["lr"] is None or not row.get("lr_edge"):
        return format_lr(row["lr"])
    note = "a neighbour is not finished" if row["lr_edge"] == UNMEASURED else f"edge: try {rate_to_add(row)}"
    return f"{format_lr(row['lr'])} ({note})"


def rate_to_add(row: Row) -> str:
    """What would resolve a selected learning rate that is not known to be the best: a rate, or its neighbours."""
    if row["lr_edge"] == UNMEASURED:
        return f"the neighbours of {format_lr(row['lr'])} trained to the end"
    return format_lr(next_lr(row["lr"], row["lr_edge"]))


def common_sign(rows: Iterable[Row], lower: str, upper: str) -> int | None:
    """-1 or 1 if the intervals of all rows lie on that side of 0, else 0; None if a row has no interval."""
    intervals: list[tuple[Any, Any]] = [(row.get(lower), row.get(upper)) for row in rows]
    if any(low is None for low, _ in intervals):
        return None
    if all(high < 0 for _, high in intervals):
        return -1
    return int(all(low > 0 for low, _ in intervals))


def verdict(
    rows: Sequence[Row], columns: Sequence[str], better: str = "better", worse: str = "worse", unclear: str = NO_CHANGE
) -> str:
    """What the interval of the mean over seeds says; a negative change is better."""
    known = all(row.get(column) is not None for row in rows for column in columns)
    mean = seeds_mean(rows, columns) if known else None
    if mean is None or mean.lower is None or mean.upper is None:
        return NO_VERDICT
    if mean.lower > -DISPLAY_EPS and mean.upper < DISPLAY_EPS:
        return "no change"
    return better if mean.upper < 0 else worse if mean.lower > 0 else unclear


def statements(rows: Sequence[Row]) -> list[str]:
    """One sentence per method, text and base, at the selected learning rate."""
    return [_statement(group, rows) for group in seed_groups(rows)]


def _statement(group: Sequence[Row], rows: Sequence[Row]) -> str:
    first = group[0]
    sentence = (
        f"{method_name(first)}{at_tuned_rate(first, rows)} changed test NLL on {text_name(first)}"
        f"{coordinates(first, rows)} by {amount(group, DELTA)}: {verdict(group, DELTA)}."
    )
    sentence = f"{sentence[:-1]}{_parts(group, 'delta_nll', 'delta_storage')}."
    if first.get("forgetting") is None:
        return sentence
    outcome = verdict(group, FORGETTING, "general text improved", "it forgot")
    apart = _parts(group, "forgetting", "forgetting_storage")
    return f"{sentence} On general text {amount(group, FORGETTING)}: {outcome}{apart}."


def _parts(group: Sequence[Row], whole: str, storage: str) -> str:
    """How much of a change is there before training, because the base is stored quantised; "" where it is not."""
    if any(row.get(storage) is None for row in group):
        return ""
    before = sum(row[storage] for row in group) / len(group)
    training = sum(row[whole] for row in group) / len(group) - before
    return f"; {signed(before)} of it is storage in {group[0].get('quant')}, {signed(training)} training"


def at_tuned_rate(row: Row, rows: Sequence[Row]) -> str:
    """A note after the method's name if its learning rate was tuned."""
    return " at its tuned learning rate" if is_tuned(row, rows) else ""


def coordinates(row: Row, rows: Iterable[Row], columns: Iterable[str] | None = None) -> str:
    """The values, in brackets, of the columns that vary over `rows`: of a setting but for its text unless given."""
    rows, columns = list(rows), columns or [column for column in SETTING if column not in ("domain", "newline")]
    varied = [column for column in columns if len({str(other.get(column)) for other in rows}) > 1]
    values = [str(row[column]) for column in varied if row.get(column) is not None]
    return f" ({', '.join(values)})" if values else ""
