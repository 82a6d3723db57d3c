"""One statement in DuckDB that reaches no file and no network, and is stopped by a limit of time, memory or Ctrl-C."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

from peftodyssey.errors import InputError
from peftodyssey.untrusted import limits

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

BATCH_ROWS = 50_000
ENDING_S = 5.0  # a query that was interrupted ends within this time
POLL_S = 0.05  # between looks at the clock; Ctrl-C is answered as often
HELP = "`peftodyssey query DIR` lists the views, `--columns VIEW` the columns of one"


def sealed_connection() -> duckdb.DuckDBPyConnection:
    """A database in memory that reaches no file, no network and no variable of Python, and cannot be talked into it."""
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": "",
        "memory_limit": f"{limits.SQL_BYTES >> 20}MiB",
    }
    connection = duckdb.connect(":memory:", config=config)
    for setting in ("enable_external_access", "python_enable_replacements"):
        connection.execute(f"set {setting}=false")
    connection.execute("set lock_configuration=true")
    return connection


def answer(connection: duckdb.DuckDBPyConnection, sql: str, timeout_s: float) -> pa.Table:
    """The answer to `sql`, columns of one name numbered; InputError where it is wrong, too slow or too large.

    It runs in a thread of its own, so that this one can stop it.
    """
    found: list[pa.Table] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            found.append(_read(connection, sql))
        except BaseException as error:  # handed to the thread that waits
            errors.append(error)
        finally:
            ended.set()

    ended = threading.Event()  # and not Thread.is_alive, which is wrong after a Ctrl-C during Thread.join
    threading.Thread(target=run, daemon=True).start()
    ends_at = time.monotonic() + timeout_s
    try:
        while not ended.is_set() and time.monotonic() < ends_at:
            ended.wait(POLL_S)
    finally:
        is_late = not ended.is_set()
        gives_up_at = time.monotonic() + ENDING_S
        while not ended.is_set() and time.monotonic() < gives_up_at:
            connection.interrupt()  # again and again: one that comes before the query begins has no effect
            ended.wait(POLL_S)
    if is_late:
        raise InputError(f"the query was stopped after {timeout_s:g} s", "make it smaller, or give --timeout more")
    if errors:
        raise _as_input_error(errors[0])
    return found[0]


def _read(connection: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    import pyarrow as pa

    relation = connection.sql(sql)
    if relation is None:
        return pa.table({})
    batches, size_bytes = [], 0
    reader = relation.to_arrow_reader(BATCH_ROWS)
    for batch in reader:
        size_bytes += batch.nbytes
        if size_bytes > limits.SQL_BYTES:
            raise InputError(
                f"the answer is larger than {limits.SQL_BYTES >> 20:,} MiB", "add a limit, or aggregate in the query"
            )
        batches.append(batch)
    table = pa.Table.from_batches(batches, reader.schema)
    return table.rename_columns(_numbered(table.column_names))


def _numbered(names: list[str]) -> list[str]:
    """Names of which each is there once: the second `a` is `a_2`."""
    seen: Counter[str] = Counter()
    numbered = []
    for name in names:
        seen[name] += 1
        while (new := name if seen[name] == 1 else f"{name}_{seen[name]}") in numbered or (
            seen[name] > 1 and new in names
        ):
            seen[name] += 1
        numbered.append(new)
    return numbered


def _as_input_error(error: BaseException) -> BaseException:
    import duckdb

    if isinstance(error, duckdb.OutOfMemoryException | MemoryError | OSError):  # OSError: Arrow's, of 2 GiB of text
        return InputError(
            f"the query takes more than {limits.SQL_BYTES >> 20:,} MiB of memory", "make it smaller: aggregate, filter"
        )
    if isinstance(error, duckdb.Error | ValueError | OverflowError):
        return error if isinstance(error, InputError) else InputError(f"DuckDB cannot answer: {error}", HELP)
    return error
