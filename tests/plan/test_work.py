"""Operations of tasks by hand, and time at measured rates."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import micro

from peftodyssey import api
from peftodyssey.plan.work import ALIKE_BAND, OTHER_BAND, Rate, Rates, Work, duration, forward, works

CONTEXT = 64


def test_the_work_of_a_cell_is_that_of_its_steps_and_of_what_it_scores(tmp_path: Path) -> None:
    plan = api.plan(api.load(micro.write(tmp_path)), device="cpu")
    found = works(plan)
    shape = plan.cells[0].shape
    linears = sum(linear.out_features * linear.in_features for linear in shape.linears)
    attention = shape.layers * shape.heads * shape.head_dim * CONTEXT  # scores and values, over half of the context
    token = 2 * (linears + shape.hidden * shape.vocabulary + attention)
    assert forward(shape, CONTEXT) == pytest.approx(token)
    for task in plan.cells:
        passes = 3 if task.cell.method.method == "full" else 2
        assert found[task.folder].training == pytest.approx(4 * 256 * passes * token)
        columns = 3 + 1  # test, validation, general, and the evaluation at 50 %
        assert found[task.folder].other == pytest.approx(columns * 1000 * 64 / 48 * token)
    assert len({found[task.folder].kind for task in plan.cells}) == 3, (
        "full, lora and qlora train at rates of their own"
    )
    assert {task.folder for task in plan.base_scores} < found.keys()
    assert not any(task.folder in found for task in plan.indexes)


def test_time_is_work_at_the_rate_of_its_kind() -> None:
    left = [Work(100.0, 10.0, "lora", "cell"), Work(0.0, 30.0, "", "base")]
    rates = Rates(
        {"lora": Rate(50.0, 1.0), "full": Rate(10.0, 1.0)}, {"cell": Rate(20.0, 1.0), "base": Rate(60.0, 3.0)}, 2
    )
    found = duration(left, rates)
    assert found.seconds == pytest.approx(2 + 2)
    assert found.high_seconds == pytest.approx(4 * (1 + ALIKE_BAND))
    another = duration([Work(60.0, 0.0, "qlora")], rates)
    assert another.seconds == pytest.approx(60 * 2 / 60), "both kinds together: 60 operations in 2 s"
    assert another.low_seconds == pytest.approx(2 * (1 - OTHER_BAND))
    scored = duration([Work(60.0, 0.0, "qlora")], Rates({}, {"cell": Rate(20.0, 1.0)}))
    assert scored.seconds == pytest.approx(3)
    assert duration([Work(1.0, 0.0, "lora")], Rates()).seconds is None
    assert duration([], Rates()).seconds == 0.0
