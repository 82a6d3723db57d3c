"""What noise adds to a plan: a task a base and text, cells' updates where they are asked for, and no change of any
cell.
"""

from dataclasses import replace

import pytest

from peftodyssey.memory.device import Device
from peftodyssey.plan import host_and_disk
from peftodyssey.plan.build import build
from peftodyssey.recipe.load import load_recipe
from peftodyssey.recipe.schema_measures import Noise

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


def test_every_base_is_shifted_on_every_text_once():
    plan = planned()
    assert {(t.base.source.revision, t.entry["corpus"]) for t in plan.noise} == {
        (rung, text)
        for rung in ("annealed-16M", "annealed-64M")
        for text in ("wiki_general", "arxiv_cs.CL", "wiki_history_events")
    }
    assert len(plan.noise) == 6
    assert all(t.base.quant is None and t.score.cell is None for t in plan.noise)
    assert {t.score.index for t in plan.noise} <= {index.folder for index in plan.indexes}


def test_noise_changes_no_cell():
    without, noisy = planned(None), planned("updates: true, ranks: [1]")
    assert [t.hash for t in without.cells] == [t.hash for t in noisy.cells]
    assert not without.noise


@pytest.mark.parametrize("key", sorted(OTHER))
def test_every_option_makes_another_result(key):
    before, after = ({t.score.folder for t in planned(options).noise} for options in ("", f"{key}: {OTHER[key]}"))
    assert not before & after


def test_the_options_of_this_test_are_all_but_updates():
    assert set(OTHER) | {"updates"} == set(Noise.model_fields)


def test_updates_are_followed_where_they_add_to_an_unquantised_base():
    cells = planned("updates: true").cells
    followed = {t.cell.method.label for t in cells if t.update_noise}
    assert followed == {"full", "lora r=2"}
    assert all(len(t.update_noise) == 2 and t.update_noise[0].score.cell == t.hash for t in cells if t.update_noise)
    assert not any(t.update_noise for t in planned().cells)


def test_the_scale_of_the_earliest_rung_names_it():
    assert {t.earliest.source.revision for t in planned("scale: earliest_rung").noise} == {"annealed-16M"}
    assert {t.earliest for t in planned().noise} == {None}
    assert replace(planned().noise[0]).score.identity["earliest"] is None


def test_the_host_holds_a_copy_of_the_base_and_what_is_followed():
    size = planned().cells[0].shape.parameters
    none, plain, steep = (
        host_and_disk.noise_host_plan(plan, plan.cells[0]).peak_bytes
        for plan in (planned(None), planned(), planned("sharpness: true"))
    )
    assert none == 0
    assert plain >= 2 * 4 * size
    assert steep - plain == 2 * 4 * size
