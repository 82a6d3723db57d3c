"""What a mismatch of line breaks did, on planted columns: against the matched training, and against the base without
one.
"""

from __future__ import annotations

import re

import numpy as np
from support.demo_store import Fit, write_run, write_score

from peftodyssey.measures.registry import MEASURES
from peftodyssey.report.build import build
from peftodyssey.store import parquet, plans

KEEP = Fit("full", "full", 1e-3, -0.1, 0.0)
MISMATCH = Fit("full", "full", 2e-3, 0.1, 0.0, group="mismatch", extra={"newline": "mismatch"})


def planted(folder, fits):
    """Training takes 0.25 nats off every token; without line breaks a newline costs 2 nats more."""
    write_run(folder, fits=lambda domain, rung: fits, domains=("notes",), rungs=(64,), documents=80)
    for cell in plans.cells(folder):
        test = cell["scores"]["test"]
        kind = parquet.read(folder / test["index"] / "index.parquet")["class"].to_numpy()
        before = np.round(parquet.read_nll(folder / test["before"])[0] * 64) / 64
        write_score(folder / test["before"], before)
        cost = 2 * (kind == 0) if cell["coordinates"]["newline"] == "mismatch" else 0
        write_score(folder / test["after"], before - 0.25 + cost)
    build(folder, measures=MEASURES)
    return (folder / "report/summary.md").read_text(encoding="utf-8")


def test_a_mismatch_is_compared_with_the_training_that_kept_line_breaks(tmp_path):
    said = planted(tmp_path, [KEEP, MISMATCH])
    found = re.search(
        r"Full fine-tuning on notes, trained without line breaks .* by \S+ nats/token \[.*?\]; "
        r"trained with line breaks, by -0\.250 nats/token \[-0\.250, -0\.250\]\. "
        r".* newline \(([\d.]+) % of the tokens\) "
        r"costs \+2\.000 nats \[\+2\.000, \+2\.000\] and any other token 0\.000 nats \[0\.000, 0\.000\]; "
        r"newlines .* 100 % of the difference of \+(0\.\d+) nats/token\.",
        said,
    )
    assert found
    assert abs(2 * float(found[1]) / 100 - float(found[2])) < 0.002
    page = (tmp_path / "report/index.html").read_text(encoding="utf-8")
    assert 'id="newlines"' in page
    assert "notes, mismatch" in page


def test_policies_of_one_text_are_told_apart(tmp_path):
    said = planted(tmp_path, [KEEP, MISMATCH])
    assert "changed test NLL on notes by" in said
    assert "changed test NLL on notes, mismatch by" in said
    svg = (tmp_path / "report/figures/change.svg").read_text(encoding="utf-8")
    assert ">notes<" in svg
    assert ">notes, mismatch<" in svg


def test_without_a_matched_training_the_base_is_the_reference(tmp_path):
    said = planted(tmp_path, [MISMATCH])
    assert "Compared with the base, a newline (" in said
    assert "costs +1.750 nats [+1.750, +1.750] and any other token -0.250 nats [-0.250, -0.250]" in said
    assert "; trained with line breaks" not in said


def test_a_recipe_without_the_factor_says_nothing_of_it(tmp_path):
    said = planted(tmp_path, [KEEP])
    assert "mismatch" not in said
    assert 'id="newlines"' not in (tmp_path / "report/index.html").read_text(encoding="utf-8")
