"""What the results say, in sentences with their numbers. Used by the page, the summary and the end of a run.

Everything is made of rows of `results.parquet`; a row may carry a `run` where several runs are compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from peftodyssey.stats.seed_variance import least_significant_difference, noise_floor

Row = Mapping[str, Any]
METHODS = {
    "full": "Full fine-tuning",
    "lora": "LoRA",
    "qlora": "QLoRA",
    "bitfit": "BitFit",
    "ia3": "IA3",
    "last_layers": "Training the last layers",
}
# What tells one comparison from another; cells that agree in these differ in learning rate or seed only.
SETTING = ("run", "model", "revision", "domain", "newline", "objective", "context")
UNIT = "nats/token"
NO_NUMBER = "-"
DISPLAY_EPS = 5e-4  # half of the last digit that a change is printed with


def method_name(row: Row) -> str:
    """The method in words, with the options that its label carries."""
    label, method = str(row.get("label") or row.get("method") or "?"), str(row.get("method"))
    if method in METHODS and label.split(" ")[0] == method:
        return METHODS[method] + label[len(method) :]
    return label


def text_name(row: Row) -> str:
    """The text adapted to, with its newline policy where that is not the usual one."""
    return str(row["domain"]) if row.get("newline") in (None, "keep") else f"{row['domain']}, {row['newline']}"


def setting(row: Row) -> tuple[str, ...]:
    """The values of SETTING, as text."""
    return tuple(str(row.get(column) or "") for column in SETTING)


def selected_cells(rows: Iterable[Row]) -> list[Row]:
    """The finished cells at their selected learning rate: the only ones that statements are made of."""
    return [row for row in rows if row["status"] == "done" and row["selected"]]


def is_tuned(row: Row, rows: Iterable[Row]) -> bool:
    """Whether the recipe asked for several learning rates of this very cell."""
    key = (*setting(row), row["label"], row["seed"])
    return len({other["lr"] for other in rows if (*setting(other), other["label"], other["seed"]) == key}) > 1


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign, never minus zero; a dash where there is none."""
    if value is None or value != value:
        return NO_NUMBER
    rounded = round(value, digits)
    return f"{rounded + 0.0:+.{digits}f}" if rounded else f"{0:.{digits}f}"


def interval(row: Row, estimate: str, low: str, high: str, digits: int = 3) -> str:
    """`-0.412 [-0.431, -0.394]`, or the estimate alone with a mark that it has no interval."""
    if row.get(estimate) is None:
        return NO_NUMBER
    if row.get(low) is None:
        return f"{signed(row[estimate], digits)} [no interval]"
    return f"{signed(row[estimate], digits)} [{signed(row[low], digits)}, {signed(row[high], digits)}]"


def delta(row: Row) -> str:
    """The change on test with its interval."""
    return interval(row, "delta_nll", "delta_lo", "delta_hi")


def forgetting(row: Row) -> str:
    """The change on general text with its interval."""
    return interval(row, "forgetting", "forgetting_lo", "forgetting_hi")


def format_lr(lr: float | None) -> str:
    """A learning rate as people write it: 3e-3."""
    if lr is None:
        return NO_NUMBER
    mantissa, exponent = f"{lr:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def next_lr(lr: float, edge: str) -> float:
    """The next learning rate outside the grid, on the ladder 1, 3, 10."""
    mantissa, exponent = (float(part) for part in f"{lr:.2e}".split("e"))
    if edge == "high":
        return (3.0 if mantissa < 2.5 else 10.0) * 10**exponent
    return (1.0 if mantissa > 2.0 else 0.3) * 10**exponent


def learning_rate(row: Row) -> str:
    """The learning rate, with what to try next where it is the edge of its grid."""
    if row["lr"] is None or not row.get("lr_edge"):
        return format_lr(row["lr"])
    return f"{format_lr(row['lr'])} (edge: try {format_lr(next_lr(row['lr'], row['lr_edge']))})"


def verdict(rows: Sequence[Row], low: str, high: str, better: str = "better", worse: str = "worse") -> str:
    """What the intervals of all seeds say together."""
    if any(row.get(low) is None for row in rows):
        return "no interval, so no verdict"
    if all(row[low] > -DISPLAY_EPS and row[high] < DISPLAY_EPS for row in rows):
        return "no change"
    if all(row[high] < 0 for row in rows):
        return better
    if all(row[low] > 0 for row in rows):
        return worse
    return "no clear change" if len(rows) == 1 else "no change that all seeds agree on"


def statements(rows: Sequence[Row]) -> list[str]:
    """One sentence per method, text and base, at the selected learning rate; then what limits them."""
    return [sentence for group in groups(rows) for sentence in _statement(group, rows)]


def groups(rows: Sequence[Row]) -> list[list[Row]]:
    """Headline rows that differ in their seed only, in the order of the rows."""
    picked = selected_cells(rows)
    keys = {(*setting(row), row["label"]): None for row in picked}
    return [[row for row in picked if (*setting(row), row["label"]) == key] for key in keys]


def _statement(group: Sequence[Row], rows: Sequence[Row]) -> list[str]:
    first = group[0]
    tuned = " at its tuned learning rate" if is_tuned(first, rows) else ""
    change = amount(group, "delta_nll", delta)
    sentence = f"{method_name(first)}{tuned} changed test NLL on {text_name(first)}{where(first, rows)} by {change}: "
    sentence += verdict(group, "delta_lo", "delta_hi") + "."
    if first.get("forgetting") is not None:
        lost = verdict(group, "forgetting_lo", "forgetting_hi", "general text improved", "it forgot")
        sentence += f" On general text {amount(group, 'forgetting', forgetting)}: {lost}."
    return [sentence]


def amount(group: Sequence[Row], column: str, one: Callable[[Row], str]) -> str:
    """A number of rows that differ in their seed: with its interval where there is one row, else mean and range."""
    if len(group) == 1:
        estimate, _, rest = one(group[0]).partition(" ")
        return f"{estimate} {UNIT} {rest}".rstrip()
    values = [row[column] for row in group]
    return (
        f"{signed(statistics.fmean(values))} {UNIT} (mean of {len(group)} seeds, {signed(min(values))} to "
        f"{signed(max(values))})"
    )


def where(row: Row, rows: Sequence[Row]) -> str:
    """The coordinates that tell this setting from others of the table, in brackets."""
    told = {"domain", "newline"}  # `text` tells them
    varied = [
        column for column in SETTING if column not in told and len({str(other.get(column)) for other in rows}) > 1
    ]
    values = [str(row[column]) for column in varied if row.get(column) is not None]
    return f" ({', '.join(values)})" if values else ""


def caveats(rows: Sequence[Row]) -> list[str]:
    """What limits the statements: seeds, edges of grids, few documents, cells that are missing, mixed versions."""
    found = [_noise_floor(rows), *_edges(rows), *_few(rows), *_missing(rows), *_versions(rows)]
    return [text for text in found if text]


def _noise_floor(rows: Sequence[Row]) -> str:
    found = groups(rows)
    if not found:
        return ""
    floor = noise_floor([[row["delta_nll"] for row in group] for group in found])
    if floor.std is None:
        return (
            "One seed: no noise floor. The intervals cover the choice of test documents, not the luck of a "
            "training run."
        )
    seeds = min(len(group) for group in found if len(group) > 1)
    least = least_significant_difference(floor, seeds, seeds)
    return (
        f"Noise floor over seeds: {floor.std:.4f} {UNIT} (pooled standard deviation of the change on test over "
        f"{floor.n_groups} "
        f"settings, {floor.degrees_of_freedom} degrees of freedom). A difference of two methods over {seeds} seeds "
        f"each says nothing below {least:.4f}."
    )


def _edges(rows: Sequence[Row]) -> list[str]:
    edged = sorted(
        {(method_name(row), text_name(row), learning_rate(row)) for row in selected_cells(rows) if row.get("lr_edge")}
    )
    return [
        f"{method}: the learning rate chosen on {', '.join(sorted({domain for _, domain, _ in group}))} is the "
        f"edge of its grid, "
        f"{lr.replace('edge: ', '')}; a better one may lie beyond."
        for (method, lr), group in (
            (k, list(g)) for k, g in groupby(sorted(edged, key=lambda e: (e[0], e[2])), key=lambda e: (e[0], e[2]))
        )
    ]


def _few(rows: Sequence[Row]) -> list[str]:
    texts = {(text_name(row), row["reason"]) for row in rows if row["status"] == "done" and row.get("reason")}
    return [f"{domain}: {reason}; no interval is given." for domain, reason in sorted(texts)]


def _missing(rows: Sequence[Row]) -> list[str]:
    notes = []
    pending = sum(row["status"] == "pending" for row in rows)
    if pending:
        notes.append(f"{pending} of {len(rows)} cells are not finished; run the recipe again to go on.")
    stops = [row for row in rows if row["status"] == "stopped"]
    if stops:
        notes.append(
            f"{len(stops)} of {len(rows)} cells were stopped early by successive halving, because they trailed on "
            f"validation."
        )
    for row in rows:
        if row["status"] == "failed":
            notes.append(
                f"{method_name(row)} on {text_name(row)}{where(row, rows)}, lr {format_lr(row['lr'])} failed: "
                f"{row['reason']}"
            )
    return notes


def _versions(rows: Sequence[Row]) -> list[str]:
    found = sorted({row["versions"] for row in rows if row.get("versions")})
    if len(found) < 2:
        return []
    return [
        f"The cells were trained with {len(found)} sets of library versions; `run --refresh stale` retrains older ones."
    ]


def format_count(value: float | None) -> str:
    """A count as people write it: 65.5k, 3.1M."""
    if value is None:
        return NO_NUMBER
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def format_bytes(value: int | None) -> str:
    """Bytes as MiB, or GiB from one upwards."""
    if value is None:
        return NO_NUMBER
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"
