"""Two arms of a ladder side by side, from planted columns to the sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from demo_store import Fit, write_run

from peftodyssey.report import arms
from peftodyssey.report.collect import collect
from peftodyssey.store import layout, parquet


def fits(domain: str, rung: int) -> list[Fit]:
    """Full fine-tuning forgets 0.1 on annealed bases and 0.04 on constant-rate ones; LoRA only ran on the first."""
    return [
        Fit("full", "full", 1e-3, -0.2, 0.1, group="annealed"),
        Fit("full", "full", 2e-3, -0.2, 0.04, group="trunk", extra={"arm": "trunk", "revision": f"trunk-{64 if rung == 0 else 1024}M"}),
        Fit("lora r=8", "lora", 3e-3, -0.1, 0.03),
    ]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("arms")
    write_run(folder, fits=fits, domains=("law",))
    collect(folder)
    return parquet.read(folder / layout.ARMS).to_pylist()


def test_the_same_method_on_the_same_pretraining_is_compared_between_arms(rows: list[dict]) -> None:
    forgot = [row for row in rows if row["quantity"] == "forgetting"]
    assert [(row["arm"], row["minus"], row["who"], row["pretrain_tokens"]) for row in forgot] == [
        ("annealed", "trunk", "full", 64_000_000), ("annealed", "trunk", "full", 1_024_000_000),
    ]  # fmt: skip
    for row in forgot:
        assert row["change"] == pytest.approx(0.06, abs=1e-5)
        assert row["lo"] < 0.06 < row["hi"]
    assert all(row["change"] == pytest.approx(0, abs=1e-5) for row in rows if row["quantity"] == "learning")


def test_the_section_says_which_arm_pays(rows: list[dict]) -> None:
    (said,) = arms.section(rows).statements
    assert said.startswith("law, annealed minus trunk: full forgets +0.0600 [")
    assert said.endswith("nats/token: it costs the annealed base more.")
