"""Controls on real text: what is known to degrade is found with an interval above zero, what cannot change anything is
not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from support.plans import load_recipe

from peftodyssey import api
from peftodyssey.display.result_text import method_name
from peftodyssey.recipe import bundled

CONTROLS = [
    "model.revisions=annealed-1024M",
    "domains=[bundled/wiki_history_events, bundled/arxiv_quant-ph]",
    "methods=[{method: full, lr: [1e-9, 3e-2]}, {method: lora, rank: 8, lr: [1e-9, 0.3]}]",
    "score={context: 128, stride: 96, tokens: 16k}",
    "measure=[degradation]",
]


@pytest.mark.slow
def test_a_rate_far_too_high_is_found_and_one_of_nothing_is_not(tmp_path: Path) -> None:
    run = api.run(load_recipe(bundled.read("smoke"), CONTROLS), tmp_path / "out", console=Console(quiet=True))
    rows = run.results.to_pylist()
    assert len(rows) == 8
    summary = (tmp_path / "out/report/summary.md").read_text(encoding="utf-8")
    for row in rows:
        sentence = next(
            line
            for line in summary.splitlines()
            if line.startswith(f"- {method_name(row)} changed") and f" on {row['domain']} by" in line
        )
        if row["lr"] == 1e-9:
            assert abs(row["delta_nll"]) < 1e-5
            assert not row["delta_lo"] > 0
            assert sentence.endswith(": no change.")
        else:
            assert row["delta_lo"] > 1
            assert sentence.endswith(": worse.")
