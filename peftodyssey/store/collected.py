"""What a measure collects from a run: rows of its tables, and columns of the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]
RESULTS = "results"  # what a measure reads that needs the rows of results with their selected learning rates


@dataclass(frozen=True)
class Collected:
    """The rows of a measure's tables by file name, and its columns of the results by the number of the cell.

    A `reason` among these columns is added to that of the other measures.
    """

    tables: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    columns: Mapping[int, Row] = field(default_factory=dict)
