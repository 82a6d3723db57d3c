"""What each rank costs by itself: measured once for a rank, beside cells that train together, and never their share."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from support import micro

from peftodyssey import api
from peftodyssey.store import manifest, parquet

RECIPE = """\
version: 1
name: costs
model: {name: bundled/odyssey-3m, revisions: [annealed-64M]}
domains: [bundled/arxiv_cs.CL]
methods: [{method: lora, rank: [1, 2, 64], lr: {tune: [1e-3, 1e-2]}}]
train: {budget: 2 steps, seq_len: 64, batch_tokens: 256}
score: {context: 64, stride: 32, tokens: 1k}
measure: [degradation]
"""
QUIET = Console(quiet=True)


@pytest.mark.slow
def test_each_rank_is_timed_alone_once_whatever_its_rates_and_seeds(tmp_path: Path) -> None:
    recipe = micro.write(tmp_path, RECIPE)
    api.run(recipe, tmp_path / "out", console=QUIET)
    ranks = parquet.read(tmp_path / "out" / "ranks.parquet").to_pylist()
    assert [row["rank"] for row in ranks] == [1, 2, 64]
    for row in ranks:
        assert row["solo_tokens_per_second"] == pytest.approx(256 / row["solo_step_seconds"])
        assert row["solo_memory_bytes"] > 0
        assert row["shared_tokens_per_second"] > 0
    assert len({row["solo_step_seconds"] for row in ranks}) == 3
    folders = sorted((tmp_path / "out" / "ranks").iterdir())
    assert len(folders) == 3
    assert {manifest.read(folder)["facts"]["steps"] for folder in folders} == {6}
    written = {folder: (folder / "manifest.json").stat().st_mtime_ns for folder in folders}
    api.run(recipe, tmp_path / "out", console=QUIET)
    assert {folder: (folder / "manifest.json").stat().st_mtime_ns for folder in folders} == written
    assert "tokens/s alone" in (tmp_path / "out" / "report" / "index.html").read_text(encoding="utf-8")
