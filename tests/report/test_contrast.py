"""The comparison of methods on planted columns: estimates as a plain script has them, verdicts and sentences."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.contrast_oracle import Run, standard_errors
from support.demo_store import Fit, write_run, write_score

from peftodyssey.measures.contrast import MethodContrast
from peftodyssey.measures.contrast import section as contrast_section
from peftodyssey.measures.contrast.table import TABLE
from peftodyssey.measures.registry import MEASURES
from peftodyssey.report.build import build
from peftodyssey.report.collect import collect
from peftodyssey.store import layout, manifest, parquet, plans

FULL = {1e-4: (0.10, 0.06), 3e-4: (0.24, 0.16), 1e-3: (0.20, 0.30)}  # learning and forgetting at each rate
LORA = {1e-3: (0.09, 0.01), 3e-3: (0.20, 0.05), 1e-2: (0.17, 0.16)}


def planted(folder, methods, seeds=(0, 1, 2), spread=0.004, options=None, domains=("notes",), documents=60):
    """A run with planted learning and forgetting; each document, and each seed, has its own deviation."""
    fits = [
        Fit(
            label,
            label.split(" ")[0],
            lr,
            0.0,
            0.0,
            group=label,
            extra={} if label == "full" else {"rank": 8, "alpha": 16.0, "targets": "all-linear"},
        )
        for label, cells in methods.items()
        for lr in cells
    ]
    write_run(folder, fits=lambda *_: fits, domains=domains, rungs=(64,), seeds=seeds, documents=documents)
    for path in (folder / layout.PLANS).glob("*.json"):
        plan = json.loads(path.read_text())
        for cell in plan["cells"]:
            cell["measures"] = {"contrast": {"pairs": [], "margin": 0.01, **(options or {})}}
            _plant(folder, cell, methods[cell["coordinates"]["label"]][cell["coordinates"]["lr"]], spread)
        path.write_text(json.dumps(plan))
    return folder


def _plant(folder, cell, wanted, spread):
    own = cell["coordinates"]
    rng = np.random.default_rng([int(own["seed"]), int(own["lr"] * 1e6), len(own["label"])])
    scores = cell["scores"]
    for text, change in (
        (scores["test"], -wanted[0]),
        (scores["valid"], -wanted[0]),
        (scores["general"][0], wanted[1]),
    ):
        before = parquet.read_nll(folder / text["before"])[0]
        document = parquet.read(folder / text["index"] / layout.INDEX)["document"].to_numpy()
        shared = np.random.default_rng(1).normal(0, 0.05, document.max() + 1)  # alike for all cells
        deviation = shared + rng.normal(0, 0.02, document.max() + 1) + rng.normal(0, spread)
        write_score(folder / text["after"], before + change + deviation[document])


@pytest.fixture(autouse=True, scope="module")
def without_fsync():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def three_methods(tmp_path_factory, without_fsync):
    """Full, LoRA and QLoRA, three rates and seeds each."""
    quantised = {lr: (x - 0.01, y) for lr, (x, y) in LORA.items()}
    folder = tmp_path_factory.mktemp("contrast")
    return planted(folder, {"full": FULL, "lora r=8": LORA, "qlora r=8": quantised})


def rows_of(folder):
    collect(folder, [MethodContrast()])
    return parquet.read(folder / TABLE).to_pylist()


def row(rows, at, quantity="forgetting", share=None, **where):
    (found,) = (
        one
        for one in rows
        if (one["compared_at"], one["quantity"], one["share"]) == (at, quantity, share)
        and all(one[key] == value for key, value in where.items())
    )
    return found


def said_of(rows):
    return contrast_section.section(rows).statements


def test_estimates_are_those_of_a_plain_script(three_methods):
    folder = three_methods
    rows = rows_of(folder)
    run = Run(folder)
    pairs = {(one["method"], one["minus"]) for one in rows}
    assert pairs == {("lora r=8", "full"), ("qlora r=8", "full"), ("qlora r=8", "lora r=8")}
    for method, minus in pairs:
        expected = run.differences(method, minus)
        for (quantity, at, share), values in expected["values"].items():
            found = row(rows, at, quantity, share, method=method, minus=minus)
            assert found["estimate"] == pytest.approx(np.mean(values), abs=1e-9)
            if share:
                assert found["level"] == pytest.approx(expected["levels"][share], abs=1e-9)
    for key, error in standard_errors(run, "lora r=8", "full", 80).items():
        found = row(rows, key[1], key[0], key[2], method="lora r=8", minus="full")
        assert found["clusters_se"] == pytest.approx(error, rel=0.3)


def test_verdicts_of_planted_differences(three_methods):
    rows = [one for one in rows_of(three_methods) if (one["method"], one["minus"]) == ("lora r=8", "full")]
    learning, forgetting = (row(rows, "own best rate", quantity) for quantity in ("learning", "forgetting"))
    assert (learning["verdict"], forgetting["verdict"]) == ("less", "less")
    assert (learning["method_lr"], learning["minus_lr"]) == (3e-3, 3e-4)
    equal = row(rows, "equal learning", level=None)
    assert (equal["verdict"], equal["covers"], equal["seeds"], equal["clusters"]) == (
        "less",
        "clusters and seeds",
        3,
        60,
    )
    assert equal["lo"] < equal["estimate"] < equal["hi"] < 0
    dominance = [one for one in rows if one["compared_at"] == "dominance"]
    assert {(one["method_lr"], one["minus_lr"]) for one in dominance} <= {(3e-3, 1e-3), (1e-3, 1e-3)}
    assert all(one["confidence"] == pytest.approx(1 - 0.05 / 18) for one in dominance)
    said = said_of(rows)
    assert said[0].startswith("notes: at equal learning LoRA r=8 forgets 0.0")
    assert "less than full fine-tuning [0.0" in said[0]
    assert said[0].endswith("(clusters and seeds).")


def test_methods_that_are_equal_are_called_so_only_within_the_margin(tmp_path):
    same = dict(zip((1e-3, 3e-3, 1e-2), FULL.values(), strict=True))
    folder = planted(tmp_path / "wide", {"full": FULL, "lora r=8": same}, spread=0.0005, options={"margin": 0.05})
    rows = rows_of(folder)
    found = row(rows, "own best rate")
    assert found["verdict"] == "equal"
    assert -0.05 < found["equal_lo"] < 0 < found["equal_hi"] < 0.05
    assert "LoRA r=8 and full fine-tuning forget equally much within 0.05" in " ".join(said_of(rows))
    narrow = rows_of(planted(tmp_path / "narrow", {"full": FULL, "lora r=8": same}, options={"margin": 0.001}))
    found = row(narrow, "own best rate")
    assert found["verdict"] == "undecided"
    assert found["decide"]
    assert "it is undecided whether LoRA r=8 forgets less or more than full fine-tuning" in " ".join(said_of(narrow))


def test_what_cannot_be_compared_says_why(tmp_path):
    edge = {3e-3: (0.20, 0.05), 1e-2: (0.25, 0.16)}
    rows = rows_of(planted(tmp_path / "edge", {"full": FULL, "lora r=8": edge}))
    found = row(rows, "own best rate")
    assert found["verdict"] == "not comparable"
    assert "the rate of lora r=8 is at the high edge of its grid (0.01)" in found["reason"]
    assert found["lo"] is not None
    assert row(rows, "equal learning", level=None)["verdict"] == "less"
    rows = rows_of(planted(tmp_path / "single", {"full": {3e-4: (0.24, 0.11)}, "lora r=8": LORA}))
    assert row(rows, "own best rate")["reason"] == "full has one rate only: untuned"
    assert row(rows, "equal learning", level=None)["reason"] == "full has one rate only: no path"
    rows = rows_of(planted(tmp_path / "seeds", {"full": FULL, "lora r=8": LORA}, seeds=(0, 1)))
    assert {one["covers"] for one in rows} == {"clusters"}
    assert {one["verdict"] for one in rows} == {"not comparable"}
    assert "clusters only" in " ".join(said_of(rows))
    rows = rows_of(planted(tmp_path / "few", {"full": FULL, "lora r=8": LORA}, documents=12))
    assert all(one["lo"] is None and "an interval takes 30" in one["reason"] for one in rows)


def test_a_text_with_nothing_to_gain_is_not_compared(tmp_path):
    nothing = [{lr: (0.0, y) for lr, (_, y) in cells.items()} for cells in (FULL, LORA)]
    rows = rows_of(planted(tmp_path, dict(zip(("full", "lora r=8"), nothing, strict=True)), spread=0.01))
    found = row(rows, "equal learning", level=None)
    assert found["verdict"] == "not comparable"
    assert "clear of 0" in found["reason"]


def test_a_diverged_rate_bounds_the_grid_and_a_pending_one_does_not(tmp_path):
    edge = {3e-3: (0.20, 0.05), 1e-2: (0.25, 0.16), 3e-2: (0.0, 0.0)}
    for name, reason in (("failed", None), ("pending", "a neighbour of the rate of lora r=8 (0.01) was not trained")):
        folder = planted(tmp_path / name, {"full": FULL, "lora r=8": edge})
        for cell in plans.cells(folder):
            if cell["coordinates"]["lr"] == 3e-2:
                (folder / cell["folder"] / layout.MANIFEST).unlink()
                if name == "failed":
                    manifest.fail(folder / cell["folder"], "loss is not finite at step 3", "train")
        found = row(rows_of(folder), "own best rate")
        assert (reason is None) == (found["reason"] is None)
        assert (reason or "") in (found["reason"] or "")


def test_pieces_of_one_file_are_drawn_together(tmp_path):
    folder = planted(tmp_path, {"full": FULL, "lora r=8": LORA}, documents=120)
    single = row(rows_of(folder), "own best rate")
    for path in (folder / layout.CORPORA).glob("*/documents.parquet"):
        table = parquet.read(path)
        names = [f"file {i // 2}" for i in range(table.num_rows)]
        pq.write_table(table.set_column(table.column_names.index("cluster"), "cluster", pa.array(names)), path)
    merged = row(rows_of(folder), "own best rate")
    assert (single["clusters"], merged["clusters"]) == (120, 60)
    assert merged["estimate"] == pytest.approx(single["estimate"], abs=1e-12)


def test_it_is_the_first_section_of_the_report(three_methods):
    folder = three_methods
    build(folder, measures=MEASURES)
    said = (folder / "report/summary.md").read_text(encoding="utf-8")
    titles = [line for line in said.splitlines() if line.startswith("## ")]
    assert titles[0] == "## How do the methods compare with each other?"
