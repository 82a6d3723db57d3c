"""SQL ends: by its answer, by a limit of time or memory, or by Ctrl-C."""

from __future__ import annotations

import _thread
import signal
import threading
import time
from collections.abc import Iterator

import pyarrow as pa
import pytest

from peftodyssey.errors import InputError
from peftodyssey.report import query_output
from peftodyssey.store.limited_sql import answer, sealed_connection
from peftodyssey.untrusted import limits

ENDLESS = "with recursive t(n) as (select 1 union all select n + 1 from t) select count(*) from t"


@pytest.mark.parametrize("sql", [ENDLESS, "select count(*) from range(1000000000000) a, range(1000) b"])
def test_a_query_without_end_is_stopped(sql: str) -> None:
    started = time.monotonic()
    with sealed_connection() as connection, pytest.raises(InputError, match=r"stopped after 0\.5 s"):
        answer(connection, sql, 0.5)
    assert time.monotonic() - started < 5


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, also where the tests were started in the background by a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_a_query() -> None:
    threading.Timer(0.3, _thread.interrupt_main).start()
    started = time.monotonic()
    with sealed_connection() as connection, pytest.raises(KeyboardInterrupt):
        answer(connection, ENDLESS, 60)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("sql", ["select repeat('x', 10000) from range(100000)", "select * from range(100000000)"])
def test_an_answer_that_is_too_large_is_refused(sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SQL_BYTES", 64 << 20)
    with sealed_connection() as connection, pytest.raises(InputError, match="64 MiB"):
        answer(connection, sql, 60)


def test_columns_of_one_name_are_all_there() -> None:
    with sealed_connection() as connection:
        table = answer(connection, "select 1 as a, 2 as a, 3 as b, 4 as a_2", 60)
    assert table.to_pylist() == [{"a": 1, "a_3": 2, "b": 3, "a_2": 4}]


def test_csv_holds_no_formula_and_the_table_no_escape() -> None:
    table = pa.table({"text": ["=1+1", "@x", "plain", "a=b"], "n": [-1, 2, 3, 4]})
    assert query_output.as_csv(table).splitlines()[1:] == ['"\'=1+1",-1', '"\'@x",2', '"plain",3', '"a=b",4']
    assert query_output.printable("\x1b[2Jred\u202e\n") == "\\x1b[2Jred\\u202e\n"
