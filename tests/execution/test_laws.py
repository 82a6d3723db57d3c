"""`doctor --laws`: every law on a real model is held, and a planted fault is a problem with its figure."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from support import micro

from peftodyssey.execution import laws

LAW = "law"


@pytest.mark.slow
def test_laws_are_held_on_the_bundled_model() -> None:
    ended = micro.invoke("doctor", "--laws")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    lines = [line for line in ended.stdout.splitlines() if line.startswith("law ")]
    assert {line.split()[1] for line in lines} == {"1", "2", "3", "5", "6", "8"}
    assert all("held" in line for line in lines)


@pytest.mark.slow
def test_a_broken_law_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    original = laws.parquet.read_nll

    def shifted(folder):  # type: ignore[no-untyped-def]
        nll_nats, rank = original(folder)
        return (nll_nats + np.float32(0.01) if "together" in folder.parts else nll_nats), rank

    monkeypatch.setattr(laws, "parquet", SimpleNamespace(read_nll=shifted))
    ended = micro.invoke("doctor", "--laws")
    assert ended.returncode == 2
    assert f"problem: {LAW} 3  broken" in ended.stdout


def test_a_figure_above_what_is_allowed_is_broken() -> None:
    assert laws._line(3, "x", 1e-6, 2e-5) == f"{LAW} 3  held   x: 1e-06 (allowed 2e-05)"
    assert laws._line(3, "x", 1.0, 2e-5).startswith(f"problem: {LAW} 3  broken x: 1 (allowed 2e-05)")
    assert laws._line(6, "x", float("nan"), 0).startswith("problem")


@pytest.mark.parametrize("arguments", [("--laws", "--adapter", "a", "--base", "b"), ("some/model",)])
def test_what_does_not_belong_together_is_refused(arguments: tuple[str, ...]) -> None:
    assert micro.invoke("doctor", *arguments).returncode == 2
