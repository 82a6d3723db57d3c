"""The public Python names, frozen; and that they work as the command line's do."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import peftodyssey
from peftodyssey.errors import InputError, RecipeError


def test_public_names_are_frozen() -> None:
    assert sorted(peftodyssey.__all__) == ["__version__", "adapt", "load", "open", "run", "score"]
    for name in peftodyssey.__all__[1:]:
        assert inspect.isfunction(getattr(peftodyssey, name)), name


def test_dir_lists_the_public_names() -> None:
    assert dir(peftodyssey) == sorted(peftodyssey.__all__)
    with pytest.raises(AttributeError, match="adapt, load"):
        _ = peftodyssey.nothing


def test_import_is_free() -> None:
    code = "import sys, peftodyssey\nassert not {'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_adapt_is_a_run_of_one_cell(tmp_path: Path) -> None:
    run = peftodyssey.adapt(
        "bundled/odyssey-3m",
        "bundled/arxiv_cs.CL",
        {"method": "lora", "rank": 2, "lr": 0.01},
        out=tmp_path,
        train={"budget": "2 steps", "seq_len": 64, "batch_tokens": 128},
        score={"context": 64, "tokens": "2k"},
        console=Console(quiet=True),
    )
    assert run.results.num_rows == 1
    evidence = run.nll(run.cells[0]["cell"])
    delta = (evidence["after"] - evidence["before"]).mean(dtype=float)
    assert abs(delta - run.results["delta_nll"][0].as_py()) < 1e-6
    by_label = run.nll(label=run.cells[0]["coordinates"]["label"], lr="1e-2")
    assert (by_label["after"] == evidence["after"]).all()
    with pytest.raises(InputError, match=r"label=|lora"):
        run.nll(rank=3)
    with pytest.raises(InputError, match="columns: "):
        run.nll(no_such_column=3)
    assert len(repr(run).splitlines()) < 8
    assert "1 done" in repr(run)


def test_adapt_takes_other_keys_of_a_recipe_and_no_key_twice(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="trian"):
        peftodyssey.adapt("bundled/odyssey-3m", "bundled/arxiv_cs.CL", out=tmp_path, trian={})
    with pytest.raises(TypeError, match="domains"):
        peftodyssey.adapt("bundled/odyssey-3m", "bundled/arxiv_cs.CL", out=tmp_path, domains=["bundled/synthetic"])


def test_score_takes_the_fields_of_its_request(tmp_path: Path) -> None:
    quiet = Console(quiet=True)
    scored = peftodyssey.score(
        "bundled/odyssey-3m", "bundled/arxiv_cs.CL", out=tmp_path, console=quiet, split="valid", context=64, tokens="2k"
    )
    assert scored.context == 64
    assert 0 < scored.tokens < 10_000  # 2,000, up to the end of a document
    assert [row.name for row in scored.rows] == ["bundled/odyssey-3m"]
    with pytest.raises(TypeError, match="windows"):
        peftodyssey.score("bundled/odyssey-3m", "bundled/arxiv_cs.CL", windows=64)
    with pytest.raises(InputError, match="bos, skip"):
        peftodyssey.score("bundled/odyssey-3m", "bundled/arxiv_cs.CL", first_token="eos")
