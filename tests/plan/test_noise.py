"""What noise adds to a plan: a task a base and text, cells' updates where they are asked for, and no change of any
cell.
"""

import pytest
from support.plans import build, load_recipe

from peftodyssey.measures.noise.spec import Noise
from peftodyssey.memory.device import Device

RECIPE = """\
version: 1
name: noisy
model: {name: bundled/odyssey-3m, revisions: [annealed-16M, annealed-64M]}
domains: [bundled/arxiv_cs.CL, bundled/wiki_history_events]
methods:
  - {method: full, lr: 1e-3}
  - {method: lora, rank: 2, lr: 1e-2}
  - {method: qlora, rank: 2, lr: 1e-2}
  - {method: lora, dora: true, lr: 1e-2}
train: {budget: 1 steps, seq_len: 64, batch_tokens: 64}
measure: [degradation, %s]
"""
CPU = Device("cpu", "cpu", 8 << 30, 8 << 30, False)
OTHER = {
    "gammas": "[0.3]",
    "pairs": 2,
    "scale": "fan_in",
    "ranks": "[1]",
    "tensors": "[blocks, head]",
    "quantisers": "[nf4]",
    "sharpness": "true",
    "documents": 7,
}


def planned(options: str = ""):
    return build(load_recipe(RECIPE % (f"{{noise: {{{options}}}}}" if options is not None else "forgetting")), CPU)


def of_bases(plan):
    return [task for task in plan.measures if task.measure == "noise"]


def of_updates(cell):
    return [task for task in cell.measures if task.measure == "noise"]


def test_every_base_is_shifted_on_every_text_once():
    plan = planned()
    tasks, entries = of_bases(plan), plan.measure_entries["noise"]
    assert {(entry["revision"], entry["corpus"]) for entry in entries} == {
        (rung, text)
        for rung in ("annealed-16M", "annealed-64M")
        for text in ("wiki_general", "arxiv_cs.CL", "wiki_history_events")
    }
    assert [task.folder for task in tasks] == [entry["folder"] for entry in entries]
    assert len(tasks) == 6
    assert all(t.base.quant is None and t.cell is None and t.on == "base" for t in tasks)
    assert {folder for t in tasks for folder in t.needs} <= {index.folder for index in plan.indexes}


def test_a_cell_reads_the_noise_of_its_own_base_on_its_own_texts():
    plan = planned()
    tasks = {task.folder: task for task in of_bases(plan)}
    for cell in plan.cells:
        read = [tasks[folder] for folder in cell.reads if folder in tasks]
        assert {task.base.source.fingerprint for task in read} == {cell.base.source.fingerprint}
        assert {folder for task in read for folder in task.needs} == {cell.scores[0].index, *cell.general_indexes}


def test_noise_changes_no_cell():
    without, noisy = planned(None), planned("updates: true, ranks: [1]")
    assert [t.hash for t in without.cells] == [t.hash for t in noisy.cells]
    assert not of_bases(without)
    assert not any(of_updates(cell) for cell in without.cells)


@pytest.mark.parametrize("key", sorted(OTHER))
def test_every_option_makes_another_result(key):
    before, after = ({t.folder for t in of_bases(planned(options))} for options in ("", f"{key}: {OTHER[key]}"))
    assert not before & after


def test_the_options_of_this_test_are_all_but_updates():
    assert set(OTHER) | {"updates"} == set(Noise.model_fields)


def test_updates_are_followed_where_they_add_to_an_unquantised_base():
    cells = planned("updates: true").cells
    followed = {t.cell.method.label for t in cells if of_updates(t)}
    assert followed == {"full", "lora r=2"}
    for cell in cells:
        tasks, entries = of_updates(cell), cell.entry.get("measures", {}).get("noise", [])
        assert [task.folder for task in tasks] == [entry["folder"] for entry in entries]
        assert all(task.cell == cell.hash and task.on == "update" and not task.retrain for task in tasks)
        assert len(tasks) in (0, 2)
    assert not any(of_updates(cell) for cell in planned().cells)


def test_the_scale_of_the_earliest_rung_names_it():
    earliest = {t.options.earliest.source.revision for t in of_bases(planned("scale: earliest_rung"))}
    assert earliest == {"annealed-16M"}
    assert {t.options.earliest for t in of_bases(planned())} == {None}
    assert of_bases(planned())[0].identity["earliest"] is None


def test_the_host_holds_a_copy_of_the_base_and_what_is_followed():
    size = planned().cells[0].shape.parameters
    plain, steep = (
        max(sum(task.host_bytes.values()) for task in of_bases(plan))
        for plan in (planned(), planned("sharpness: true"))
    )
    assert plain >= 2 * 4 * size
    assert steep - plain == 2 * 4 * size
    (along, *_) = (task for cell in planned("updates: true").cells for task in of_updates(cell))
    assert along.host_bytes["update or gradient"] == 4 * size


def test_scored_tokens_count_every_pass_over_the_first_windows():
    windows = 7 * planned().cells[0].cell.score.context
    plan = planned("gammas: [0.1, 0.2], pairs: 3, ranks: [1, full], quantisers: [nf4], documents: 7, updates: true")
    assert {task.scored_tokens for task in of_bases(plan)} == {(1 + 2 * 3 * 2 * 2 + 1) * windows}
    assert {t.scored_tokens for cell in plan.cells for t in of_updates(cell)} == {(1 + 2 + 10) * windows}
