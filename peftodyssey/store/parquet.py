"""Reading and writing tables and columns as parquet files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import StoreError
from peftodyssey.store import atomic, layout, tables

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], columns: tables.Columns) -> pa.Table:
    """Write `rows` as the table that `columns` defines, complete or not at all; missing values become null."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    unknown = {key for row in rows for key in row} - set(columns)
    assert not unknown, f"columns that no table defines: {sorted(unknown)}"
    filled = [{name: row.get(name) for name in columns} for row in rows]
    try:
        table = pa.Table.from_pylist(filled, schema=tables.schema(columns))
    except (pa.ArrowException, OverflowError) as error:
        raise StoreError(
            f"{path.name} cannot be made: a manifest or a plan holds a value of another kind ({error})",
            f"`peftodyssey check {path.parent}` lists what is damaged",
        ) from error
    with atomic.atomic_write(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
    return table


def write_nll(folder: Path, nll_nats: np.ndarray, rank: np.ndarray) -> None:
    """Write one scored column: `nll_nats` float32 [rows] and `rank` int32 [rows], in index row order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table([nll_nats, rank], schema=tables.schema(tables.NLL))
    with atomic.atomic_write(folder / layout.NLL) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read(path: Path) -> pa.Table:
    """The table at `path`; StoreError where it is missing or damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path, memory_map=False)
    except (OSError, pa.ArrowException) as error:
        raise StoreError(
            f"cannot read {path}: {error}", "delete the folder it is in and run the recipe again"
        ) from error


def read_nll(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """(nll_nats float32 [rows], rank int32 [rows]) of one scored column."""
    table = read(folder / layout.NLL)
    return table["nll_nats"].to_numpy(), table["rank"].to_numpy()
