"""The hours of a grid from what probes kept: early stops, shifts of the weights and multi-LoRA are in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import micro

from peftodyssey import api
from peftodyssey.memory import probes
from peftodyssey.memory.probes import Probe
from peftodyssey.plan import probe_results
from peftodyssey.plan.probe_results import MultiLoraProbe
from peftodyssey.plan.tasks import Plan
from peftodyssey.plan.time_estimate import estimate_time

STEP, RATE = 2.0, 1000.0  # seconds, scored tokens a second
TUNED = "methods=[{method: lora, rank: 2, lr: {tune: [1e-4, 1e-3, 1e-2, 3e-2]}}]"
LOOKS = ["train.budget=8 steps", "train.schedule=wsd", "train.eval_at=[50%, 75%, 100%]"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "folder", lambda: tmp_path / "probes")


def planned(folder: Path, *settings: str) -> Plan:
    """A plan of which every shape was tried."""
    plan = api.plan(api.load(micro.write(folder), [TUNED, *settings]))
    for task in plan.cells:
        key = probe_results.key_of(task, plan.device)
        probes.save(key, Probe("", {}, 1, 1, 1, (STEP, STEP), RATE, 0.0, 0.0, 0))
    return plan


def test_a_cell_that_is_stopped_early_takes_less(tmp_path: Path) -> None:
    whole, halved = (
        estimate_time(planned(tmp_path, *LOOKS, *more)).seconds for more in ((), ("train.select={halving: 2}",))
    )
    # Of four rates three go on at 50 %, the best and its neighbours: 4 x 4 + 3 x 4 steps of 4 x 8, 3 of 4 columns.
    training = 4 * 8 * STEP
    columns = whole - training
    assert halved < whole
    assert training * 28 / 32 + columns * 3 / 4 - 1e-6 <= halved <= training * 28 / 32 + columns


def test_shifts_of_the_weights_are_scored_so_often(tmp_path: Path) -> None:
    plain = estimate_time(planned(tmp_path)).seconds
    noise = "{gammas: [0.1, 0.2], pairs: 3, ranks: [1], quantisers: [nf4], documents: 4}"
    plan = planned(tmp_path, f"measure=[degradation, {{noise: {noise}}}]")
    passes = 1 + 2 * 3 * 2 * 2 + 1
    tokens = [
        min(4 * cell.cell.score.context, cell.cell.score.tokens) for cell in plan.cells[:1] for _ in plan.measures
    ]
    assert tokens
    assert estimate_time(plan).seconds - plain == pytest.approx(passes * sum(tokens) / RATE, rel=1e-6)


def test_a_probed_multi_lora_group_trains_at_its_own_speed(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    alone = estimate_time(plan).seconds
    ((key, (group,)),) = probe_results.groups_by_key(plan).items()
    probes.save(key, MultiLoraProbe("", len(group), (9.0, len(group) * STEP / 4), 1))
    steps = len(group) * plan.cells[0].cell.train.budget_steps
    assert alone - estimate_time(plan).seconds == pytest.approx(steps * STEP * (1 - 1 / 4), rel=1e-6)
