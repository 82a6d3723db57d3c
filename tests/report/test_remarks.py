"""What the report says beside its tables, from manifests alone: bases without sense, remarks on adapters (law 11)."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.demo_store import Fit, write_run

from peftodyssey.measures.registry import MEASURES
from peftodyssey.report.build import build
from peftodyssey.scoring.sense import Sense
from peftodyssey.store import plans, sealed

SENSE = Sense(256, 8.2, 8.1, 0.1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(
        tmp_path, fits=lambda *_: [Fit("lora r=8", "lora", 1e-3, 0.0, 0.0)], domains=("notes",), rungs=(64,)
    )


def state(folder: Path, **facts: object) -> None:
    """Adds facts to a manifest."""
    path = folder / "manifest.json"
    content = sealed.read(path)
    assert content is not None
    sealed.write(path, {**content, "facts": {**content.get("facts", {}), **facts}})


def limits(run: Path) -> str:
    build(run, measures=MEASURES)
    return (run / "report" / "summary.md").read_text(encoding="utf-8").split("## Limits")[1]


@pytest.mark.parametrize("makes_sense", [False, True])
def test_a_base_without_sense_is_a_limit_of_the_report(run: Path, makes_sense: bool) -> None:
    [cell] = plans.cells(run)
    facts = {**SENSE._asdict(), "makes_sense": makes_sense, "problem": "" if makes_sense else SENSE.problem}
    state(run / cell["scores"]["test"]["before"], sense=facts)
    said = limits(run)
    assert ("8.200" in said and "8.100" in said) is not makes_sense
    assert said.count("are its weights loaded?") == (not makes_sense)


def test_remarks_on_an_adapter_are_limits_of_the_report(run: Path) -> None:
    [cell] = plans.cells(run)
    assert "lora_B" not in limits(run)
    state(run / cell["folder"], method_notes=["changes nothing: all of lora_B is 0"])
    assert "lora r=8 on notes: changes nothing: all of lora_B is 0" in limits(run)
