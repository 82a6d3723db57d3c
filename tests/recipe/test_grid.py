"""The grid is the product of a recipe's axes, each point once; every key of a recipe changes it."""

from dataclasses import replace
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.plans import load_recipe
from support.recipes import GOOD, MINIMAL

from peftodyssey.measures.contrast.spec import Contrast
from peftodyssey.measures.noise.spec import Noise
from peftodyssey.measures.registry import SPECS
from peftodyssey.measures.similarity.spec import Similarity
from peftodyssey.recipe.cell import QuantSpec
from peftodyssey.recipe.grid import cells, tune_group
from peftodyssey.recipe.schema import recipe_class
from peftodyssey.recipe.schema_methods import METHOD_CLASSES
from peftodyssey.recipe.validation_errors import section_classes


def methods(*lines):
    return cells(
        load_recipe("model: gpt2\ndomains: [hub:a/b]\nmethods:\n" + "".join(f"  - {line}\n" for line in lines))
    )


def labels(*lines):
    return list(dict.fromkeys(cell.method.label for cell in methods(*lines)))


def test_the_grid_is_the_product_of_the_axes():
    all_cells = cells(
        load_recipe(
            GOOD,
            [
                "seeds=[0, 1, 2]",
                "model.revisions=[init, annealed-64M]",
                "domains[1]=bundled/wiki_history_events",
            ],
        )
    )
    assert len(all_cells) == len(set(map(repr, all_cells))) == 2 * 2 * (2 + 2) * 3
    assert {(c.model.revision, c.domain.name, c.method.label, c.method.lr, c.seed) for c in all_cells} == {
        (revision, domain, label, lr, seed)
        for revision in ("init", "annealed-64M")
        for domain in ("arxiv_cs.CL", "wiki_history_events")
        for label, lr in (("full", 1e-4), ("full", 1e-3), ("lora r=2", 1e-3), ("lora r=8", 1e-3))
        for seed in (0, 1, 2)
    }


def test_neighbours_share_a_base():
    all_cells = cells(
        load_recipe(
            GOOD,
            [
                "methods[2]=qlora",
                "model=[gpt2, {name: x/y, revisions: [b, a]}]",
                "domains[1]=hub:c/d",
                "seeds=[0, 1]",
            ],
        )
    )
    bases = [key for key, _ in groupby(all_cells, key=lambda c: (c.model, c.method.quant))]
    assert len(bases) == len(set(bases)) == 6
    assert [c.model.revision for c in all_cells][:: len(all_cells) // 3] == [None, "b", "a"]
    within = [
        (c.domain.name, c.method.method, c.method.rank or 0, c.method.lr, c.seed)
        for c in all_cells
        if c.model.name == "gpt2" and not c.method.quant
    ]
    assert within == sorted(within)


def test_what_is_written_twice_is_run_once():
    assert (
        len(methods("lora", "{method: lora, rank: [8, 8], alpha: [16, 2r]}", "{method: lora, lr: [1e-3, 0.001]}")) == 1
    )
    assert len(cells(load_recipe(MINIMAL + "seeds: [1, 1]\n"))) == 1


def test_newline_policies_of_one_text_are_an_axis():
    all_cells = cells(load_recipe(MINIMAL, ["domains={source: hub:a/b, newline: [keep, mismatch, keep]}"]))
    assert [cell.domain.newline for cell in all_cells] == ["keep", "mismatch"]
    assert [cell.domain.display_name for cell in all_cells] == ["b", "b, mismatch"]
    assert {cell.domain.name for cell in all_cells} == {"b"}
    assert len({tune_group(cell) for cell in all_cells}) == 2


def test_qlora_is_lora_on_a_four_bit_base():
    all_cells = methods(
        "{method: qlora, rank: 4}",
        "{method: lora, rank: 4, quant: nf4}",
        "{method: lora, rank: 4, quant: int8}",
    )
    assert [(c.method.method, c.method.quant) for c in all_cells] == [
        ("lora", QuantSpec("int8", False)),
        ("qlora", QuantSpec("nf4", True)),
    ]


def test_methods_without_a_rank_ignore_it_and_saved_ones_the_seed():
    all_cells = cells(
        load_recipe("model: gpt2\ndomains: [hub:a/b]\nmethods: [bitfit, {method: saved, path: x}]\nseeds: [5, 6]\n")
    )
    assert [(c.method.method, c.method.rank, c.method.lr, c.seed) for c in all_cells] == [
        ("bitfit", None, 1e-3, 5),
        ("bitfit", None, 1e-3, 6),
        ("saved", None, None, 0),
    ]


def test_alpha_is_twice_the_rank_unless_told():
    all_cells = methods("{method: lora, rank: [2, 8], alpha: [2r, 3]}")
    assert [(c.method.rank, c.method.alpha) for c in all_cells] == [(2, 4), (2, 3), (8, 16), (8, 3)]


def test_targets_are_one_set_or_an_axis_of_sets():
    assert [c.method.targets for c in methods("{method: lora, targets: [q_proj, v_proj]}")] == [("q_proj", "v_proj")]
    all_cells = methods("{method: lora, targets: [[q_proj, v_proj], all-linear]}")
    assert [c.method.targets for c in all_cells] == [("q_proj", "v_proj"), "all-linear"]


def test_batches_are_whole_blocks():
    assert cells(load_recipe(MINIMAL + "train: {batch_tokens: 4k}\n"))[0].train.batch_tokens == 4096
    assert cells(load_recipe(MINIMAL + "train: {batch_tokens: 8k, seq_len: 1000}\n"))[0].train.batch_tokens == 8000


def test_the_end_is_always_scored_and_general_text_only_for_forgetting():
    cell = cells(load_recipe(MINIMAL + "train: {eval_at: [50%, 10%]}\nmeasure: [degradation]\n"))[0]
    assert cell.train.eval_at == (0.1, 0.5, 1.0)
    assert cell.general == ()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["full", "{method: lora, rank: [2, 8]}", "qlora"], ["full", "lora r=2", "lora r=8", "qlora r=8"]),
        (["{method: lora, alpha: [8, 16]}"], ["lora r=8 alpha=8", "lora r=8 alpha=16"]),
        (["{method: lora, dora: [false, true]}"], ["lora r=8", "lora r=8 dora"]),
        (["{method: lora, lr: [1e-3, 1e-4]}"], ["lora r=8 lr=0.0001", "lora r=8 lr=0.001"]),
        (["{method: lora, lr: {tune: [1e-3, 1e-4]}}"], ["lora r=8"]),
        (["{method: lora, targets: [[q, v], all-linear]}"], ["lora r=8 targets=q+v", "lora r=8 targets=all-linear"]),
        (["{method: qlora, quant: [nf4, fp4]}"], ["qlora fp4 r=8", "qlora r=8"]),
        (["{method: qlora, double_quant: [true, false]}"], ["qlora r=8 no double_quant", "qlora r=8 double_quant"]),
        (["{method: lora, rank: [2, 8], label: mine}"], ["mine r=2", "mine r=8"]),
        (["{method: full, master_weights: [fp32, bf16]}"], ["full master_weights=fp32", "full master_weights=bf16"]),
        (["{method: last_layers, layers: [1, 2]}"], ["last_layers 1", "last_layers 2"]),
        (["{method: saved, path: a/x}", "{method: saved, path: b/x}"], ["x", "x #2"]),
        (
            ["{method: peft, peft_type: vera, config: {r: 4}}", "{method: peft, peft_type: vera, config: {r: 8}}"],
            ["peft VERA r=4", "peft VERA r=8"],
        ),
        (
            ["{method: lora, alpha: [8, 16], dropout: [0, 0.1]}"],
            [f"lora r=8 alpha={a}{d}" for a in (8, 16) for d in (" dropout=0", " dropout=0.1")],
        ),
    ],
)
def test_labels_tell_methods_apart_and_no_more(lines, expected):
    assert labels(*lines) == expected


@given(
    st.lists(st.sampled_from([1, 2, 8]), min_size=1, max_size=3),
    st.lists(st.sampled_from(["2r", "r", 8, 16]), min_size=1, max_size=3),
    st.lists(st.sampled_from(["true", "false"]), min_size=1, max_size=2),
    st.sampled_from(["1e-3", "[1e-3, 1e-2]", "{tune: [1e-3, 1e-2]}"]),
    st.sampled_from(["", ", label: mine"]),
)
def test_a_label_names_one_tune_group_in_any_product(ranks, alphas, doras, lr, label):
    fields = f"rank: {ranks}, alpha: [{', '.join(map(str, alphas))}], dora: [{', '.join(doras)}], lr: {lr}{label}"
    all_cells = methods(f"{{method: lora, {fields}}}", f"{{method: qlora, {fields}}}")
    assert len({cell.method.label for cell in all_cells}) == len({tune_group(cell) for cell in all_cells})
    assert len({(cell.method.label, tune_group(cell)) for cell in all_cells}) == len(
        {tune_group(cell) for cell in all_cells}
    )


def test_a_tune_group_differs_in_nothing_but_the_seed_and_the_tuned_rate():
    all_cells = methods("{method: lora, rank: [2, 8], lr: {tune: [1e-3, 2e-3]}}", "{method: full, lr: [1e-3, 2e-3]}")
    groups = [list(g) for _, g in groupby(all_cells, key=tune_group)]
    assert sorted(map(len, groups)) == [1, 1, 2, 2]
    for group in groups:
        assert len({repr(replace(cell, method=replace(cell.method, lr=None))) for cell in group}) == 1
    assert tune_group(all_cells[0]) == tune_group(replace(all_cells[0], seed=1))


# One other value for every field of the schema, written as overrides of a recipe: (recipe's method, overrides).
FULL, LORA = "full", "lora"
OTHER = {
    "Recipe.version": None,  # its only value is 1
    "Recipe.name": (FULL, ["name=other"]),
    "Recipe.seeds": (FULL, ["seeds=[7]"]),
    "Recipe.model": (FULL, ["model=x/y"]),
    "Recipe.domains": (FULL, ["domains=[hub:x/y]"]),
    "Recipe.general": (FULL, ["general=[hub:x/y]"]),
    "Recipe.pretraining_text": None,  # counted, not trained on: tests/plan/test_sample.py
    "Recipe.methods": (FULL, ["methods=[lora]"]),
    "Recipe.train": (FULL, ["train={budget: 1 steps}"]),
    "Recipe.score": (FULL, ["score={tokens: 1k}"]),
    "Recipe.measure": (FULL, ["measure=[degradation]"]),
    "MeasureOptions.similarity": None,  # measured on the bases, not on the cells: tests/plan/test_states_plan.py
    **{f"Similarity.{name}": None for name in Similarity.model_fields},  # the same
    "MeasureOptions.noise": None,  # measured on the bases, not on the cells: tests/plan/test_noise_plan.py
    **{f"Noise.{name}": None for name in Noise.model_fields},  # the same
    "MeasureOptions.contrast": None,  # compares cells, and changes none: tests/report/test_contrast.py
    **{f"Contrast.{name}": None for name in Contrast.model_fields},  # the same
    "Recipe.tasks": (FULL, ["tasks=[bundled/boolq]"]),
    "Task.name": (FULL, ["tasks=[{name: n, source: hub:x/y}]"]),
    "Task.source": (FULL, ["tasks=[{source: hub:x/y}]"]),
    "Task.path": (FULL, ["tasks=[{path: x.jsonl}]"]),
    "Task.split": (FULL, ["tasks=[{source: hub:x/y, split: dev}]"]),
    "Task.examples": (FULL, ["tasks=[{source: hub:x/y, examples: 9}]"]),
    "Task.config": (FULL, ["tasks=[{source: hub:x/y, config: c}]"]),
    "Task.revision": (FULL, ["tasks=[{source: hub:x/y, revision: v}]"]),
    "Model.name": (FULL, ["model={name: x/y}"]),
    "Model.revisions": (FULL, ["model.revisions=[a]"]),
    "Model.weights": (FULL, ["model={name: x/y, weights: bin}"]),
    "Model.equal_rungs": None,  # read by the plan: tests/models/test_equal_rungs.py
    "Rungs.tokens": (FULL, ["model.revisions={tokens: 1B}"]),
    "Rungs.every": (FULL, ["model.revisions={every: 1B}"]),
    "Rungs.start": (FULL, ["model.revisions={every: 1B, from: 2B}"]),
    "Rungs.to": (FULL, ["model.revisions={every: 1B, to: 2B}"]),
    "Rungs.arm": (FULL, ["model.revisions={every: 1B, arm: trunk}"]),
    "Model.max_position_embeddings": (FULL, ["model={name: random/x, max_position_embeddings: 1k}"]),
    "Corpus.name": (FULL, ["domains[0].name=n"]),
    "Corpus.source": (FULL, ["domains[0].source=hub:x/y"]),
    "Corpus.path": (FULL, ["domains[0]={path: x}"]),
    "Corpus.field": (FULL, ["domains[0].field=body"]),
    "Corpus.columns": (FULL, ["domains[0].columns={messages: talk}"]),
    "Columns.prompt": (FULL, ["domains[0].columns={prompt: q, completion: a}"]),
    "Columns.completion": (FULL, ["domains[0].columns={prompt: a, completion: q}"]),
    "Columns.messages": (FULL, ["domains[0].columns={messages: talk}"]),
    "Corpus.bad_rows": (FULL, ["domains[0].bad_rows=drop"]),
    "Corpus.dedupe": (FULL, ["domains[0].dedupe=test"]),
    "Corpus.split": (FULL, ["domains[0].split={test: 5%}"]),
    "Corpus.newline": (FULL, ["domains[0].newline=strip"]),
    "Corpus.config": (FULL, ["domains[0].config=en"]),
    "Corpus.special_tokens": (FULL, ["domains[0].special_tokens=parse"]),
    "Corpus.revision": (FULL, ["domains[0].revision=v1"]),
    "Split.train": (FULL, ["domains[0].split={train: a}"]),
    "Split.valid": (FULL, ["domains[0].split={valid: a}"]),
    "Split.test": (FULL, ["domains[0].split={test: a}"]),
    "Budget.amount": (FULL, ["train.budget=300k tokens"]),
    "Budget.unit": (FULL, ["train.budget=200k steps"]),
    "Train.budget": (FULL, ["train.budget=[200k tokens, 300k tokens]"]),
    "Train.seq_len": (FULL, ["train.seq_len=128"]),
    "Train.batch_tokens": (FULL, ["train.batch_tokens=8k"]),
    "Train.schedule": (FULL, ["train.schedule=wsd"]),
    "Train.warmup": (FULL, ["train.warmup=5 steps"]),
    "Train.weight_decay": (FULL, ["train.weight_decay=0.1"]),
    "Train.grad_clip": (FULL, ["train.grad_clip=0"]),
    "Train.betas": (FULL, ["train.betas=[0.9, 0.95]"]),
    "Train.objective": (FULL, ["train.objective=sft"]),
    "Train.too_long": (FULL, ["train.objective=sft", "train.too_long=drop"]),
    "Train.chat_template": (FULL, ["train.objective=sft", "train.chat_template=plain"]),
    "Train.eval_at": (FULL, ["train.eval_at=50%"]),
    "Train.precision": (FULL, ["train.precision=bf16"]),
    "Train.optimizer": (FULL, ["train.optimizer=adamw"]),
    "Train.engine": (FULL, ["train.engine=trl"]),
    "Train.multi_lora": (FULL, ["train.multi_lora=4"]),
    "Train.select": (FULL, ["train.select={halving: 2}", "train.eval_at=50%", "train.schedule=wsd"]),
    "Select.halving": (FULL, ["train.select={halving: 3}", "train.eval_at=50%", "train.schedule=wsd"]),
    "Select.on": None,  # its only value is validation
    "Score.context": (FULL, ["score.context=128"]),
    "Score.stride": (FULL, ["score.stride=64"]),
    "Score.tokens": (FULL, ["score.tokens=all"]),
    "Score.first_token": (FULL, ["score.first_token=skip"]),
    "Score.mode": (FULL, ["score.mode=stream"]),
    "LearningRateSpec.fixed": (FULL, ["methods[0].lr=1e-5"]),
    "LearningRateSpec.auto": (FULL, ["methods[0].lr={tune: auto}"]),
    "LearningRateSpec.max_cells": (FULL, ["methods[0].lr={tune: auto, max_cells: 7}"]),
    "LearningRateSpec.tune": (FULL, ["methods[0].lr={tune: [1e-5, 1e-4]}"]),
    **{f"{kind.__name__}.label": (name, ["methods[0].label=mine"]) for name, kind in METHOD_CLASSES.items()},
    **{
        f"{kind.__name__}.method": (name, ["methods[0]={method: full, lr: 1}"]) for name, kind in METHOD_CLASSES.items()
    },
    **{
        f"{kind.__name__}.lr": (name, ["methods[0].lr=1e-6"])
        for name, kind in METHOD_CLASSES.items()
        if name not in ("saved", "truncate")
    },
    **{
        f"{kind.__name__}.{key}": (name, [f"methods[0].{key}={value}", *more])
        for name, kind in METHOD_CLASSES.items()
        if name in ("lora", "qlora")
        for key, value, more in (
            ("rank", 2, []),
            ("alpha", "r", []),
            ("targets", "[q]", []),
            ("dropout", 0.5, []),
            ("rslora", "true", []),
            ("dora", "true", []),
            ("init", "gaussian", []),
            ("double_quant", "false", ["methods[0].quant=nf4"]),
            ("quant", "fp4", []),
        )
    },
    **{
        f"{kind.__name__}.{key}": (name, [f"methods[0].{key}={value}"])
        for name, kind in METHOD_CLASSES.items()
        for key, value in (
            ("l2_sp", 1),
            ("norm_ball", 0.1),
            ("wise_ft", "50%"),
            ("replay", "10%"),
            ("early_stop", "{}"),
        )
        if key in kind.model_fields
    },
    "EarlyStop.general": (FULL, ["methods[0].early_stop.general=0.5"]),
    "EarlyStop.patience": (FULL, ["methods[0].early_stop.patience=7"]),
    "EarlyStop.num_evals": (FULL, ["methods[0].early_stop.num_evals=7"]),
    "Full.dropout": (FULL, ["methods[0].dropout=config"]),
    "Full.master_weights": (FULL, ["methods[0].master_weights=bf16"]),
    "LastLayers.layers": ("last_layers", ["methods[0].layers=2"]),
    "Ia3.targets": ("ia3", ["methods[0].targets=all-linear"]),
    "Peft.peft_type": ("peft", ["methods[0].peft_type=LOKR"]),
    "Peft.config": ("peft", ["methods[0].config={r: 4}"]),
    "Truncate.label": (FULL, ["methods=[full, {method: truncate, label: x}]"]),
    "Truncate.method": (FULL, ["methods=[full, truncate]"]),
    "Truncate.rank": (FULL, ["methods=[full, {method: truncate, rank: 3}]"]),
    "Truncate.vectors": (FULL, ["methods=[full, {method: truncate, vectors: in}]"]),
    "Saved.path": ("saved", ["methods[0].path=other"]),
}
NEEDED = {"peft": {"peft_type": "VERA"}, "saved": {"path": "here"}}


RECIPE = recipe_class(SPECS)


def schema_fields(kind=RECIPE, seen=None):
    seen = set() if seen is None else seen
    if kind in seen:
        return
    seen.add(kind)
    for name, field in kind.model_fields.items():
        yield kind, name, field
        for inner in {c for part in (field.annotation, *field.metadata) for c in section_classes(part)}:
            yield from schema_fields(inner, seen)


ALL_FIELDS = {f"{kind.__name__}.{name}": field for kind, name, field in schema_fields()}


def test_the_table_names_every_field_of_the_schema():
    assert set(METHOD_CLASSES.values()) <= {kind for kind, _, _ in schema_fields()}
    assert set(OTHER) == set(ALL_FIELDS)


@pytest.mark.parametrize("field", [name for name, way in OTHER.items() if way])
def test_every_field_is_read(field):
    method, overrides = OTHER[field]
    first = {"method": method, **NEEDED.get(method, {})}
    base = [f"methods=[{{{', '.join(f'{k}: {v}' for k, v in first.items())}}}]"]
    if field.endswith(".double_quant"):
        base.append("methods[0].quant=nf4")
    if field.startswith("EarlyStop."):
        base.append("methods[0].early_stop={}")
    assert cells(load_recipe(MINIMAL, [*base, *overrides])) != cells(load_recipe(MINIMAL, base))


@pytest.mark.parametrize("field", sorted(ALL_FIELDS))
def test_every_field_has_a_sentence(field):
    description = ALL_FIELDS[field].description
    assert description
    assert description.endswith(".")
