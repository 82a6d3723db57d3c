"""A text under several newline policies: what is shared between them and what is not."""

from __future__ import annotations

from pathlib import Path

from support import micro
from support.plans import build, load_recipe

from peftodyssey.memory.device import detect
from peftodyssey.report.console_output import documents

POLICIES = "{source: bundled/arxiv_cs.CL, newline: [keep, strip, mismatch]}"


def test_a_mismatch_trains_on_the_stripped_text_and_is_scored_as_keep_is(tmp_path: Path) -> None:
    recipe = load_recipe(str(micro.write(tmp_path)), [f"domains={POLICIES}", "methods=[{method: full, lr: 1e-3}]"])
    planned = build(recipe, detect())
    tasks = {task.cell.domain.newline: task for task in planned.cells}
    scored = {name: task.entry["scores"]["test"] for name, task in tasks.items()}
    assert tasks["mismatch"].train_index == tasks["strip"].train_index != tasks["keep"].train_index
    assert scored["mismatch"]["index"] == scored["keep"]["index"] != scored["strip"]["index"]
    assert scored["mismatch"]["before"] == scored["keep"]["before"] != scored["strip"]["before"]
    assert len({task.hash for task in planned.cells}) == 3
    assert "-mismatch-" in tasks["mismatch"].folder


def test_the_preview_shows_what_each_policy_trains_on(tmp_path: Path) -> None:
    recipe = load_recipe(str(micro.write(tmp_path)), [f"domains={POLICIES}", "methods=[{method: full, lr: 1e-3}]"])
    shown = {}
    for line in documents(build(recipe, detect()), 1):
        if line.plain.startswith("arxiv_cs.CL"):
            name = line.plain.split(", document")[0]
        else:
            shown[name] = line.plain.count("⏎")
    assert set(shown) == {"arxiv_cs.CL", "arxiv_cs.CL, strip", "arxiv_cs.CL, mismatch"}
    assert shown["arxiv_cs.CL"] > shown["arxiv_cs.CL, strip"] == shown["arxiv_cs.CL, mismatch"] == 0
