"""What the page says about distance: seeds, ranks, samples, and cells that were not measured."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from support.demo_store import Fit, write_run
from support.plans import collect

from peftodyssey.measures.geometry import section as geometry
from peftodyssey.measures.geometry.table import GEOMETRY
from peftodyssey.measures.lora_ranks import collect as collect_ranks
from peftodyssey.measures.lora_ranks import section as ranks
from peftodyssey.measures.registry import MEASURES
from peftodyssey.report.build import build
from peftodyssey.store import manifest, parquet, plans


def row(label: str, seed: int = 0, **more: object) -> dict:
    return {
        "status": "done",
        "selected": True,
        "recipe": "r",
        "method": label.split()[0],
        "label": label,
        "rank": None,
        "alpha": None,
        "seed": seed,
        "lr": 1e-2,
        "lr_edge": None,
        "delta_nll": -0.2,
        "delta_lo": -0.3,
        "delta_hi": -0.1,
        "forgetting": 0.1,
        "forgetting_lo": 0.05,
        "forgetting_hi": 0.15,
        "domain": "notes",
        "newline": "keep",
        "model": "m",
        "revision": None,
        "objective": "text",
        "context": 64,
        "targets": None,
        "quant": None,
        "update_norm_relative": None,
        "effective_rank_mean": None,
        "intruder_dimensions": None,
        "decomposed_layers": None,
        **more,
    }


MEASURED = {
    "update_norm_relative": 0.0123,
    "effective_rank_mean": 3.6,
    "intruder_dimensions": 0.25,
    "decomposed_layers": "6 of 6",
}


def test_a_cell_is_one_sentence_with_its_numbers() -> None:
    (said,) = geometry.statements([row("lora r=4", rank=4, alpha=8.0, **MEASURED)])
    assert said.startswith("LoRA r=4 on notes")
    assert re.findall(r"\d+\.\d+|\b10\b", said) == ["1.23", "3.6", "0.25", "10"]


def test_seeds_are_their_mean_and_range() -> None:
    rows = [
        row("full", seed, **{**MEASURED, "update_norm_relative": share})
        for seed, share in enumerate((0.01, 0.02, 0.03))
    ]
    assert "by 2.00 (1.00 to 3.00 over 3 seeds) % of their norm" in geometry.statements(rows)[0]


def test_vectors_alone_have_no_rank_and_a_sample_says_so() -> None:
    (said,) = geometry.statements([row("bitfit", update_norm_relative=1e-5)])
    assert said == "BitFit on notes moved the weights by 0.001 % of their norm."
    (said,) = geometry.statements([row("full", **{**MEASURED, "decomposed_layers": "3 of 32"})])
    assert said.endswith("(means over a sample of 3 of 32 layers).")


def test_what_was_not_measured_is_said() -> None:
    rows = [row("full"), row("lora r=4", rank=4, alpha=8.0, **MEASURED)]
    assert geometry.unmeasured(rows, geometry.IS_MEASURED, "geometry").startswith("Not measured for 1 cell:")
    assert geometry.unmeasured(rows[1:], geometry.IS_MEASURED, "geometry") == ""
    assert geometry.statements(rows[:1]) == geometry.figures(rows[:1]) == geometry.table(rows[:1]) == []


def test_the_rank_says_what_of_it_is_used() -> None:
    rows = [
        row(f"lora r={rank}", rank=rank, alpha=2.0 * rank, **{**MEASURED, "effective_rank_mean": 0.8 * rank})
        for rank in (1, 4, 16)
    ]
    (said,) = ranks.section(rows, collect_ranks.rows(rows, {})).statements
    assert "Effective rank, mean over matrices: 0.8 of 1, 3.2 of 4, 12.8 of 16." in said
    rows[1]["effective_rank_mean"] = None
    assert "0.8 of 1, not measured of 4" in ranks.section(rows, collect_ranks.rows(rows, {})).statements[0]
    assert (
        ranks.section([{**r, "effective_rank_mean": None} for r in rows], collect_ranks.rows(rows, {}))
        .statements[0]
        .endswith("Effective rank: not measured.")
    )
    assert [figure.name for figure in geometry.figures(rows)] == [
        "update_norm",
        "update_norm_forgetting",
        "effective_rank",
    ]


MATRICES = [
    {
        "matrix": "a",
        "rows": 4,
        "columns": 4,
        "update_norm": 3.0,
        "base_norm": 30.0,
        "relative_norm": 0.1,
        "spectral_norm": 2.0,
        "stable_rank": 2.25,
        "effective_rank": 2.5,
        "angle_mean_degrees": 1.0,
        "angle_largest_degrees": 2.0,
        "intruders": 1,
    },
    {"matrix": "b", "rows": 4, "update_norm": 4.0, "base_norm": 40.0, "relative_norm": 0.1},
]


def measured_run(folder: Path, refused: dict[str, str]) -> Path:
    """A run of two cells, the first of which has its geometry."""
    write_run(
        folder,
        fits=lambda *_: [
            Fit("full", "full", 1e-3, -0.1, 0.1),
            Fit("lora r=8", "lora", 1e-3, -0.1, 0.1, extra={"rank": 8, "alpha": 16.0}),
        ],
        domains=("arxiv_cs.CL",),
        rungs=(64,),
    )
    plan = plans.read_all(folder)[0]
    for cell in plan["cells"]:
        cell["measures"] = {"geometry": cell["folder"].replace("cells/", "geometry/")}
    plans.write(folder, plan["recipe"], "0" * 8, {**plan, "measure": [*plan["measure"], "geometry"]})
    first = plan["cells"][0]
    made = manifest.prepare_dir(folder / first["measures"]["geometry"])
    parquet.write_rows(made / "geometry.parquet", [{"cell": first["cell"], **one} for one in MATRICES], GEOMETRY)
    manifest.commit(
        made, {"kind": "geometry", "facts": {"base_norm": 50.0, "layers": [0], "layers_of": 1, "refused": refused}}
    )
    return folder


def test_tables_are_made_of_the_cells_own(tmp_path: Path) -> None:
    folder = measured_run(tmp_path / "run", {})
    found = {row["label"]: row for row in collect(folder)}
    assert found["full"]["update_norm_relative"] == pytest.approx(math.hypot(3, 4) / 50)
    assert (
        found["full"]["effective_rank_mean"],
        found["full"]["intruder_dimensions"],
        found["full"]["decomposed_layers"],
    ) == (2.5, 1.0, "1 of 1")
    assert found["lora r=8"]["update_norm_relative"] is None
    table = parquet.read(folder / "geometry.parquet").to_pylist()
    assert [(row["matrix"], row["recipe"]) for row in table] == [("a", "demo"), ("b", "demo")]


def test_a_weight_that_could_not_be_read_leaves_the_whole_unmeasured(tmp_path: Path) -> None:
    folder = measured_run(tmp_path / "run", {"c": "no form"})
    assert all(row["update_norm_relative"] is None for row in collect(folder))
    assert parquet.read(folder / "geometry.parquet").num_rows == 2


def test_page_and_summary_have_the_section(tmp_path: Path) -> None:
    page = build(measured_run(tmp_path / "run", {}), measures=MEASURES)
    text, summary = page.read_text(encoding="utf-8"), (page.parent / "summary.md").read_text(encoding="utf-8")
    for shown in (text, summary):
        assert "How far did the weights move?" in shown
        assert "moved the weights by 10.00 % of their norm" in shown
        assert "Not measured for 1 cell" in shown
    assert (page.parent / "figures" / "update_norm.png").stat().st_size > 1000
