"""The comparison of methods on planted columns: estimates as a plain script has them, verdicts and sentences."""

from __future__ import annotations

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
from peftodyssey.store import layout, manifest, parquet, plans, sealed

FULL = {1e-4: (0.10, 0.06), 3e-4: (0.24, 0.16), 1e-3: (0.20, 0.30)}  # learning and forgetting at each rate
LORA = {1e-3: (0.09, 0.01), 3e-3: (0.20, 0.05), 1e-2: (0.17, 0.16)}


BUDGETS = {"12k tokens": 0.5, "100k tokens": 1.0, "25k tokens": 0.75}  # share of what the largest learns


def planted(folder, methods, seeds=(0, 1, 2), spread=0.004, options=None, documents=60, budgets=None):
    """A run with planted learning and forgetting; each document, and each seed, has its own deviation.

    With `budgets` each learns a share of what is planted, and forgets the square of that share.
    """
    domains = ("notes",)
    fits = [
        Fit(
            label,
            label.split(" ")[0],
            lr,
            0.0,
            0.0,
            group=label,
            extra={**({} if label == "full" else {"rank": 8, "alpha": 16.0, "targets": "all-linear"}), **budget},
        )
        for label, cells in methods.items()
        for lr in cells
        for budget in [{"budget": name} for name in budgets or ()] or [{}]
    ]
    write_run(folder, fits=lambda *_: fits, domains=domains, rungs=(64,), seeds=seeds, documents=documents)
    for path in (folder / layout.PLANS).glob("*.json"):
        plan = sealed.read(path)
        for cell in plan["cells"]:
            cell["measures"] = {"contrast": {"pairs": [], "margin": 0.01, **(options or {})}}
            x, y = methods[cell["coordinates"]["label"]][cell["coordinates"]["lr"]]
            share = (budgets or {}).get(cell["coordinates"].get("budget"), 1.0)
            _plant(folder, cell, (share * x, share**2 * y), spread)
        sealed.write(path, plan)
    return folder


def _plant(folder, cell, wanted, spread):
    own = cell["coordinates"]
    rng = np.random.default_rng([int(own["seed"]), int(own["lr"] * 1e6), len(own["label"]), len(own.get("budget", ""))])
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


def check_against_the_script(folder, errors_of):
    rows, run = rows_of(folder), Run(folder)

    def found(key, method, minus):
        quantity, at, share, budget = key
        name = f"{budget:g}k tokens" if budget else None
        return row(rows, at, quantity, share, method=method, minus=minus, method_budget=name)

    pairs = {(one["method"], one["minus"]) for one in rows}
    for method, minus in pairs:
        expected = run.differences(method, minus)
        for key, values in expected["values"].items():
            one = found(key, method, minus)
            assert one["estimate"] == pytest.approx(np.mean(values), abs=1e-9)
            if one["share"]:
                assert one["level"] == pytest.approx(expected["levels"][one["share"]], abs=1e-9)
    for key, error in standard_errors(run, *errors_of, 80).items():
        assert found(key, *errors_of)["clusters_se"] == pytest.approx(error, rel=0.3)
    return pairs


def test_estimates_are_those_of_a_plain_script(three_methods):
    pairs = check_against_the_script(three_methods, ("lora r=8", "full"))
    assert pairs == {("lora r=8", "full"), ("qlora r=8", "full"), ("qlora r=8", "lora r=8")}


def test_a_path_over_budgets_is_that_of_a_plain_script(tmp_path):
    folder = planted(tmp_path, {"full": FULL, "lora r=8": LORA}, spread=0.001, documents=40, budgets=BUDGETS)
    check_against_the_script(folder, ("lora r=8", "full"))
    rows = rows_of(folder)
    mean = row(rows, "equal learning", level=None)
    assert (mean["path"], mean["verdict"], mean["reason"]) == ("budgets", "less", None)
    own = [one for one in rows if one["compared_at"] == "own best rate" and one["quantity"] == "learning"]
    assert [one["method_budget"] for one in own] == ["12k tokens", "25k tokens", "100k tokens"]
    assert all((one["method_lr"], one["minus_lr"]) == (3e-3, 3e-4) for one in own)
    said = said_of(rows)
    assert said[0].startswith("notes: at equal learning (paths over budgets) LoRA r=8 forgets")
    assert any("at their own best rates and 100k tokens LoRA r=8 learns" in text for text in said)
    assert not any("12k tokens" in text for text in said[:3])


def test_a_budget_whose_rate_is_at_an_edge_is_named(tmp_path):
    edge = {3e-3: (0.20, 0.05), 1e-2: (0.25, 0.16)}
    budgets = dict(list(BUDGETS.items())[:2])
    folder = planted(tmp_path, {"full": FULL, "lora r=8": edge}, documents=30, budgets=budgets)
    mean = row(rows_of(folder), "equal learning", level=None)
    assert mean["verdict"] == "not comparable"
    for budget in budgets:
        assert f"lora r=8 at {budget} is at the high edge of its grid (0.01): add 0.03" in mean["reason"]


def test_all_pairs_together_and_the_named_ones(three_methods):
    rows = rows_of(three_methods)
    own = [one for one in rows if one["compared_at"] == "own best rate" and one["quantity"] == "forgetting"]
    assert {one["pairs"] for one in own} == {3}
    for one in own:
        wider = (one["simultaneous_hi"] - one["simultaneous_lo"]) / (one["hi"] - one["lo"])
        assert wider > 1.2
        assert one["simultaneous_lo"] < one["lo"] < one["hi"] < one["simultaneous_hi"]


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
    assert said[0].startswith("notes: at equal learning (paths over learning rates) LoRA r=8 forgets 0.0")
    assert "less than full fine-tuning [0.0" in said[0]
    assert said[0].endswith("; 95 %, over clusters and seeds].")


def test_pairs_that_are_not_named_have_their_verdict_by_all_pairs_together(three_methods):
    for path in (three_methods / layout.PLANS).glob("*.json"):
        text, plan = path.read_text(), sealed.read(path)
        for cell in plan["cells"]:
            cell["measures"]["contrast"]["pairs"] = [["lora", "full"]]
        sealed.write(path, plan)
    try:
        rows = rows_of(three_methods)
    finally:
        path.write_text(text)
    assert {(one["method"], one["minus"]) for one in rows if one["named"]} == {("lora r=8", "full")}
    others = [one for one in rows if not one["named"]]
    assert {(one["method"], one["minus"]) for one in others} == {("full", "qlora r=8"), ("lora r=8", "qlora r=8")}
    assert {one["compared_at"] for one in others} == {"own best rate", "equal learning"}
    for one in others:
        clear = one["simultaneous_lo"] > 0 or one["simultaneous_hi"] < 0
        assert (one["verdict"] in ("less", "more")) == clear
    said = said_of(rows)
    assert sum("pairs that the recipe does not name" in text for text in said) == 1


def test_storage_is_apart_from_training(three_methods):
    rows = rows_of(three_methods)
    of_qlora = {"method": "qlora r=8", "minus": "lora r=8"}
    learning, forgetting = (row(rows, "own best rate", name, **of_qlora) for name in ("learning", "forgetting"))
    assert learning["storage"] == pytest.approx(-0.02, abs=1e-6)  # the planted cost of the quantised base
    assert forgetting["storage"] == pytest.approx(0.02, abs=1e-6)
    assert row(rows, "own best rate", method="lora r=8", minus="full")["storage"] is None
    said = next(text for text in said_of(rows) if "QLoRA r=8" in text and "forget" in text and "storage" in text)
    assert "of the difference +0.020 is storage and -0.1" in said


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
    assert "the best learning rate of lora r=8 is at the high edge of its grid (0.01): add 0.03" in found["reason"]
    assert found["lo"] is not None
    assert row(rows, "equal learning", level=None)["verdict"] == "less"
    rows = rows_of(planted(tmp_path / "single", {"full": {3e-4: (0.24, 0.11)}, "lora r=8": LORA}))
    assert row(rows, "own best rate")["reason"] == (
        "full has one learning rate (0.0003), which is untuned: tune it over 0.0001, 0.0003, 0.0009"
    )
    assert row(rows, "equal learning", level=None)["reason"] == (
        "full has one learning rate only, and a path takes 2: add one"
    )
    rows = rows_of(planted(tmp_path / "seeds", {"full": FULL, "lora r=8": LORA}, seeds=(0, 1)))
    assert {one["covers"] for one in rows} == {"clusters"}
    assert {one["verdict"] for one in rows} == {"not comparable"}
    assert said_of(rows)[0].startswith("No two methods can be compared yet")
    assert "2 seeds, and a verdict takes 3: add 1" in said_of(rows)[0]
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
    for name, reason in (
        ("failed", None),
        ("pending", "lora r=8 (0.01) has a neighbour that was not trained to the end"),
    ):
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
        manifest.commit(path.parent, manifest.read(path.parent) or {"kind": "index"})
    merged = row(rows_of(folder), "own best rate")
    assert (single["clusters"], merged["clusters"]) == (120, 60)
    assert merged["estimate"] == pytest.approx(single["estimate"], abs=1e-12)


def test_it_is_the_first_section_of_the_report(three_methods):
    folder = three_methods
    build(folder, measures=MEASURES)
    said = (folder / "report/summary.md").read_text(encoding="utf-8")
    titles = [line for line in said.splitlines() if line.startswith("## ")]
    assert titles[0] == "## How do the methods compare with each other?"
