"""What a finished cell found, as a line: change on test, change on general text, seconds. Read from its manifests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peftodyssey.display.durations import format_seconds
from peftodyssey.display.result_text import NO_NUMBER
from peftodyssey.plan.tasks import CellTask
from peftodyssey.store import manifest


def cell_line(task: CellTask, root: Path, seconds_beside_steps: float) -> str:
    """`change -0.0123  forgetting +0.0045  12 s`, nats per token.

    The seconds are those of training, earlier starts included and a share where cells trained together, and
    `seconds_beside_steps` for the rest of the cell.
    """
    scores = task.entry["scores"]
    change, forgetting = mean_change([scores["test"]], root), mean_change(scores["general"], root)
    facts = (manifest.read(root / task.folder) or {}).get("facts", {})
    seconds = format_seconds(float(facts.get("seconds") or 0.0) + seconds_beside_steps)
    together = int(facts.get("multi_lora_size") or 1)
    share = f" (its share of {together} trained together)" if together > 1 else ""
    return f"change {_signed(change)}  forgetting {_signed(forgetting)}  {seconds}{share}"


def mean_change(texts: Iterable[Mapping[str, Any]], root: Path) -> float | None:
    """Change of the mean NLL over the tokens of `texts`, nats per token; None where a column is missing."""
    change, tokens = 0.0, 0
    for text in texts:
        columns = [manifest.read(root / str(text[stage])) for stage in ("before", "after")]
        if None in columns:
            return None
        before, after = (column["facts"] for column in columns if column)
        change += (after["nll_nats_mean"] - before["nll_nats_mean"]) * after["tokens"]
        tokens += after["tokens"]
    return change / tokens if tokens else None


def _signed(value: float | None) -> str:
    return NO_NUMBER if value is None else f"{value:+.4f}"
