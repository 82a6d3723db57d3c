"""Tasks of a recipe: scored once on the base, asked for later without training again, and told in tables and report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support import micro

from peftodyssey import api
from peftodyssey.errors import RecipeError
from peftodyssey.store import layout, manifest, parquet
from peftodyssey.store.run_reader import Run

pytestmark = pytest.mark.slow
RECIPE = (
    micro.RECIPE.replace("  - {method: full, lr: {tune: [1e-4, 1e-3]}}\n", "")
    .replace(
        "budget: 4 steps, seq_len: 64, batch_tokens: 256, eval_at: [50%, 100%]",
        "budget: 1 steps, seq_len: 64, batch_tokens: 64",
    )
    .replace("stride: 48", "stride: 64")
    .replace("general: [bundled/wiki_general]", "general: []")
    + "measure: [degradation]\n"
)
WORDS = ["red", "green", "blue", "a long answer"]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], Run]:
    """A run without a task, the manifests of its cells, and the same run asked for one."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"prompt": f"Colour {n} is", "choices": WORDS[: 2 + n % 3], "answer": n % 2} for n in range(40)]
    (folder / "colours.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    api.run(micro.write(folder, RECIPE), folder / "out", console=Console(quiet=True))
    before = {path.parent.name: path.read_bytes() for path in (folder / "out" / layout.CELLS).glob("*/manifest.json")}
    run = api.run(
        micro.write(folder, RECIPE + "tasks: [{path: colours.jsonl}]\n"), folder / "out", console=Console(quiet=True)
    )
    return folder / "out", before, run


def test_a_task_asked_for_later_trains_nothing_again(ran) -> None:
    out, before, _ = ran
    assert {path.parent.name: path.read_bytes() for path in (out / layout.CELLS).glob("*/manifest.json")} == before
    assert len(before) == 2


def test_the_base_answers_once_and_every_cell_after_training(ran) -> None:
    out, _, _ = ran
    manifests = [manifest.read(path.parent) for path in (out / layout.SCORES).glob("*/choices.parquet")]
    kinds = sorted((m["identity"]["cell"] is not None, m["identity"]["quant"] is not None) for m in manifests)
    assert kinds == [(False, False), (False, True), (True, False), (True, True)]
    assert all(m["facts"]["examples"] == 40 and m["kind"] == "choices" for m in manifests)


def test_the_table_is_what_a_loop_over_the_choices_counts(ran) -> None:
    out, _, run = ran
    table = parquet.read(out / "tasks.parquet").to_pylist()
    cells = {cell["cell"]: cell["measures"]["multiple_choice"][0] for cell in run.cells}
    assert [row["task"] for row in table] == ["colours", "colours"]
    for row in table:
        for end in ("before", "after"):
            rows = parquet.read(out / cells[row["cell"]][end] / "choices.parquet").to_pylist()
            right = norm = 0
            for n in range(40):
                own = [r for r in rows if r["example"] == n]
                assert len(own) == 2 + n % 3
                right += max(own, key=lambda r: r["loglik_nats"])["is_answer"]
                norm += max(own, key=lambda r: r["loglik_nats"] / len(WORDS[r["choice"]]))["is_answer"]
            assert row[f"acc_{end}"] == pytest.approx(right / 40)
            assert row[f"acc_norm_{end}"] == pytest.approx(norm / 40)
        assert row["acc_lo"] <= row["acc_delta"] <= row["acc_hi"]
        assert row["chance"] == pytest.approx(np.mean([1 / (2 + n % 3) for n in range(40)]))
    results = run.results.to_pylist()
    assert {(r["cell"], r["acc_after"]) for r in results} == {(r["cell"], r["acc_after"]) for r in table}
    assert next(r for r in table if r["acc_quantised"] is not None)


def test_page_summary_and_query_tell_of_it(ran) -> None:
    out, _, run = ran
    summary = (out / layout.REPORT / "summary.md").read_text()
    assert "## Did the skill change?" in summary
    assert "changed accuracy on colours from" in summary
    page = (out / layout.REPORT / "index.html").read_text()
    assert "Did the skill change?" in page
    assert (out / layout.REPORT / "figures" / "tasks.png").is_file()
    assert run.query("select count(*) as n from tasks").to_pylist() == [{"n": 2}]


def test_a_task_that_cannot_be_read_is_told_before_anything_is_done(ran, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "x", "choices": ["a", "b"], "answer": 2}\n')
    with pytest.raises(RecipeError, match=r"bad.jsonl:1: `answer` is 2"):
        api.plan(micro.write(tmp_path, RECIPE + "tasks: [{path: bad.jsonl}]\n"))
