"""The shipped recipe of line breaks in small: a mismatch is paid by newlines, and hardly by anything else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.console import Console
from support.plans import load_recipe

from peftodyssey import api
from peftodyssey.recipe import bundled

SMALL = [
    "domains=[{source: bundled/wiki_history_events, newline: [keep, mismatch]}]",
    "methods=[{method: full, lr: 1e-3}]",
    "train.budget=36k tokens",
    "train.seq_len=128",
    "score={context: 128, stride: 96, tokens: 12k}",
]


@pytest.mark.slow
def test_a_mismatch_raises_newlines_and_hardly_anything_else(tmp_path: Path) -> None:
    recipe = load_recipe(bundled.read("odyssey-newline"), SMALL)
    run = api.run(recipe, tmp_path / "out", console=Console(quiet=True))
    sql = """
        select r.newline, (t.class = 'newline')::int as at_newline, avg(t.nll_after) as after
        from tokens t join results r using (cell) where t.split = 'test' group by all
    """
    after = {(row["newline"], row["at_newline"]): row["after"] for row in run.query(sql).to_pylist()}
    newline, rest = (after["mismatch", place] - after["keep", place] for place in (1, 0))
    assert newline > 1
    assert abs(rest) < 0.05
    summary = (tmp_path / "out/report/summary.md").read_text(encoding="utf-8")
    match = re.search(r"a newline \([\d.]+ % of the tokens\) costs (\+\d\.\d+) nats", summary)
    assert match
    assert float(match[1]) == pytest.approx(newline, abs=1e-3)
