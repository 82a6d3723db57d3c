"""Every training checks itself: the figures stand in its manifest, and a planted fault fails the cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from support import micro

from peftodyssey.jobs import self_check
from peftodyssey.store import manifest

LORA = micro.RECIPE.replace("  - {method: full, lr: {tune: [1e-4, 1e-3]}}\n", "").replace(
    "  - {method: qlora, rank: 2, lr: 1e-2}\n", ""
)


def ran(folder: Path, *options: str) -> tuple[Any, dict[str, Any] | None]:
    """How a run of the LoRA cell ended, and the facts of its manifest."""
    ended = micro.invoke("run", micro.write(folder, LORA), "--out", folder / "out", *options)
    [cell] = (folder / "out/cells").iterdir()
    written = manifest.read(cell)
    return ended, written and written["facts"]


def test_the_figures_are_in_the_manifest(tmp_path: Path) -> None:
    ended, facts = ran(tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert facts is not None
    checks = facts["self_checks"]
    assert checks["steps"] == "4 of 4"
    assert checks["start_logits_difference"] == 0.0
    assert checks["reloaded_loss_difference"] < 1e-5
    assert checks["base_weights_changed"] == "none"
    assert checks["largest_weight_change"] > 0
    scored = [value.split(" of ") for name, value in checks.items() if name.startswith("tokens_scored")]
    assert len(scored) == 3
    assert all(first == second for first, second in scored)


def test_an_adapter_that_gives_other_losses_fails_its_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def base_alone(task: Any, base: Any, weights: Path) -> Iterator[Any]:
        yield SimpleNamespace(model=base)

    monkeypatch.setattr(self_check, "attached_method", base_alone)
    ended, facts = ran(tmp_path)
    assert ended.returncode == 1
    assert facts is None
    assert "self-check broken: reloaded_loss_difference" in ended.stdout + ended.stderr


def test_it_can_be_left_out_and_that_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "check_end", None)  # calling it would be an error
    ended, facts = ran(tmp_path, "--no-selfcheck")
    assert ended.returncode == 0, ended.stderr
    assert facts is not None
    assert facts["self_checks"] == "off"


def test_a_weight_that_changed_is_seen() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 3))
    before = self_check.sampled_bytes(model)  # type: ignore[arg-type]
    assert set(before) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    assert self_check.sampled_bytes(model) == before  # type: ignore[arg-type]
    with torch.no_grad():
        model[1].weight.mul_(1 + 1e-6)
    after = self_check.sampled_bytes(model)  # type: ignore[arg-type]
    assert [name for name in before if after[name] != before[name]] == ["1.weight"]
