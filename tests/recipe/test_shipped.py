"""Bundled recipes load and say what they are for; recipes that `recipes new` writes load as they are."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.plans import load_recipe

from peftodyssey import api
from peftodyssey.errors import InputError
from peftodyssey.measures.registry import SPECS
from peftodyssey.recipe import bundled
from peftodyssey.recipe.grid import cells
from peftodyssey.recipe.schema import json_schema
from peftodyssey.stats.contrast import MIN_SEEDS


@pytest.mark.parametrize(("name", "sentence"), bundled.names())
def test_every_bundled_recipe_loads_without_a_warning(name, sentence):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.warnings == ()
    assert cells(recipe)
    assert 20 < len(sentence) < 160
    assert sentence[-1] in ".?"


MIN_RATES = 3  # of a grid: the best of two is always an edge


@pytest.mark.parametrize("name", [name for name, _ in bundled.names()])
def test_no_recipe_compares_a_tuned_method_with_a_fixed_one(name):
    rates = [method.lr for method in load_recipe(name).methods if hasattr(method, "lr")]
    tuned = [lr.auto or bool(lr.tune) for lr in rates]
    assert all(tuned) or not any(tuned)
    assert all(lr.auto or len(set(lr.tune)) >= MIN_RATES for lr in rates if lr.auto or lr.tune)


def test_the_quickstart_can_compare_three_methods_on_two_texts():
    all_cells = cells(load_recipe("quickstart"))
    compared = {(c.domain.name, c.method.method) for c in all_cells}
    assert len(compared) == 2 * 3
    assert {method for _, method in compared} == {"full", "lora", "qlora"}
    assert len({c.seed for c in all_cells}) == MIN_SEEDS
    assert len(all_cells) == len(compared) * MIN_RATES * MIN_SEEDS


def test_the_template_shows_every_key_that_can_be_set():
    text, schema = bundled.read("your-text"), json_schema(SPECS)
    keys = {*schema["properties"]}
    for owner in (
        "Model",
        "Corpus",
        "Train",
        "Score",
        "Full",
        "Lora",
        "Qlora",
        "LastLayers",
        "Peft",
        "Saved",
        "MeasureOptions",
        "Noise",
    ):
        keys |= {*schema["$defs"][owner]["properties"]}
    assert {key for key in keys if f"{key}:" not in text} == set()


def test_copies_are_exact_and_never_overwrite(tmp_path):
    copied = bundled.copy("smoke", tmp_path)
    assert copied.read_text() == bundled.read("smoke")
    with pytest.raises(InputError, match=r"smoke\.yaml"):
        bundled.copy("smoke", tmp_path)
    assert copied.read_text() == bundled.read("smoke")
    with pytest.raises(InputError, match=r"folder\.yaml"):
        bundled.copy("smoke", tmp_path / "no" / "folder.yaml")
    with pytest.raises(InputError, match="smoek") as caught:
        bundled.read("smoek")
    assert "smoke" in caught.value.next_step


def rows(path, *objects):
    text = "".join(json.dumps(row) + "\n" for row in objects).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return str(path)


TALK = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


@pytest.mark.parametrize(
    ("name", "row", "field", "objective"),
    [
        ("a.jsonl", {"id": "a long name indeed", "text": "hi"}, None, "text"),
        ("a.jsonl.gz", {"id": "x", "body": "hi"}, "body", "text"),
        ("a.jsonl", {"id": "q", "words": "more than one hi", "n": "q"}, "words", "text"),
        ("a.jsonl", {"prompt": "q", "completion": "a"}, None, "sft"),
        ("a.jsonl", {"instruction": "q", "input": "", "output": "a"}, None, "sft"),
        ("a.jsonl", {"messages": TALK}, None, "sft"),
        ("a.jsonl", {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, None, "sft"),
        ("it's 5: odd #1.txt", None, None, "text"),
    ],
)
def test_a_written_recipe_loads_as_it_is(tmp_path, name, row, field, objective):
    text = tmp_path / name
    if row is None:
        text.write_text("".join(f"Number {i}. {'plain ' * 400}\n\n" for i in range(60)))
    else:
        written = json.dumps(row)
        rows(text, *(json.loads(written.replace('"q"', f'"q{i}"').replace("hi", f"hi {i}")) for i in range(60)))
    recipe = load_recipe(api.new_recipe(tmp_path / "my.yaml", "gpt2", [str(text)]))
    assert recipe.warnings == ()
    all_cells = cells(recipe)
    assert {c.method.method for c in all_cells} == {"full", "lora", "qlora"}
    assert all(c.method.tuned for c in all_cells)
    assert {(c.domain.source, c.domain.field, c.train.objective, c.model.name) for c in all_cells} == {
        (str(text), field, objective, "gpt2")
    }


def test_a_written_recipe_takes_parquet_folders_patterns_names_and_several_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pa.table(
        {"n": list(range(60)), "passage": [f"w {i}" for i in range(60)], "id": [str(i) for i in range(60)]}
    )
    pq.write_table(table, tmp_path / "p.parquet")
    (tmp_path / "d").mkdir()
    rows(tmp_path / "d" / "one.jsonl", *({"text": f"x {i}"} for i in range(60)))
    (tmp_path / "m").mkdir()
    (tmp_path / "elsewhere").mkdir()
    domains = ["p.parquet", "d", "d/*.jsonl", "bundled/arxiv_cs.CL"]
    all_cells = cells(load_recipe(api.new_recipe("elsewhere/r.yaml", ["m", "gpt2"], domains)))
    assert {(c.domain.name, c.domain.source, c.domain.field) for c in all_cells} == {
        ("p", str(tmp_path / "p.parquet"), "passage"),
        ("d", str(tmp_path / "d"), None),
        ("d-2", str(tmp_path / "d/*.jsonl"), None),
        ("arxiv_cs.CL", "bundled/arxiv_cs.CL", None),
    }
    assert {c.model.name for c in all_cells} == {str(tmp_path / "m"), "gpt2"}


def test_a_written_recipe_follows_what_is_in_the_text(tmp_path):
    answers = [
        {"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": "a " * i}]}
        for i in range(40)
    ]
    text = rows(tmp_path / "a.jsonl", *answers)
    path = api.new_recipe(tmp_path / "my.yaml", "bundled/odyssey-3m", [text])
    recipe = load_recipe(path)
    assert 'left out: 1 with "the answer is empty"' in path.read_text()
    assert (recipe.domains[0].bad_rows, recipe.train.chat_template) == ("drop", "plain")
    assert recipe.train.seq_len == 64  # answers of up to 39 words, and roles
    plan = api.plan(recipe, device="cpu")
    assert len(plan.cells) == 12
    assert all(cell.cell.method.tuned for cell in plan.cells)
    few = rows(tmp_path / "few.jsonl", *({"text": f"{i} " * 300} for i in range(9)))
    wider = api.new_recipe(tmp_path / "few.yaml", "bundled/odyssey-3m", [few])
    assert "split: {valid: 15%, test: 25%}" in wider.read_text()
    assert api.plan(wider, device="cpu").cells


def test_a_written_recipe_needs_text_that_exists(tmp_path):
    plain, answers = (
        rows(tmp_path / "t.jsonl", *({"text": f"x {i}"} for i in range(60))),
        rows(tmp_path / "q.jsonl", *({"prompt": f"q {i}", "completion": "a"} for i in range(60))),
    )
    numbers, broken = rows(tmp_path / "n.jsonl", {"n": 1}), tmp_path / "b.jsonl"
    broken.write_text("{")
    for domains, named in (
        ([], "--domain"),
        ([str(tmp_path / "none.txt")], "none.txt"),
        ([plain, answers], "one recipe for each"),
        ([numbers], "n.jsonl"),
        ([str(broken)], "b.jsonl"),
    ):
        with pytest.raises(InputError) as caught:
            api.new_recipe(tmp_path / "my.yaml", "gpt2", domains)
        assert named in str(caught.value)
        assert not (tmp_path / "my.yaml").exists()
