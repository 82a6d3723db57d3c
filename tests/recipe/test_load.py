"""A recipe is loaded, or refused with every problem and its place."""

import json
import subprocess
import sys

import pytest
from support.plans import load_recipe
from support.recipes import GOOD, MINIMAL, only, problems

from peftodyssey.constants import TEXT_COMPRESSION, TEXT_FORMATS
from peftodyssey.errors import InputError, RecipeError
from peftodyssey.recipe import bundled
from peftodyssey.recipe.corpus_names import corpus_name
from peftodyssey.recipe.grid import cells
from peftodyssey.recipe.schema_texts import Corpus

TEN_MISTAKES = """\
version: 1
nam: ten
model: {name: bundled/odyssey-3n}
domains:
  - bundled/wiki_histry_events
general: []
methods:
  - {method: lorra}
  - {method: lora, rank: 0}
  - {method: full, lr: 0}
  - {method: saved}
train:
  batch_tokens: 1000
  warmup: 30
score: {stride: 512, tokens: -1}
"""


def test_all_mistakes_are_reported_at_once_with_their_lines(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text(TEN_MISTAKES)
    with pytest.raises(RecipeError) as caught:
        load_recipe(file)
    places = [(p.line, p.column, p.key) for p in caught.value.problems]
    assert places == [
        (2, 1, "nam"),
        (3, 15, "model.name"),
        (5, 5, "domains[0]"),
        (6, 10, "general"),
        (8, 14, "methods[0].method"),
        (9, 26, "methods[1].rank"),
        (10, 24, "methods[2].lr"),
        (11, 5, "methods[3].path"),
        (13, 17, "train.batch_tokens"),
        (14, 11, "train.warmup"),
        (15, 17, "score.stride"),
        (15, 30, "score.tokens"),
    ]
    text = str(caught.value)
    for line, column, key in places:
        assert f"{file}:{line}:{column}: {key}: " in text
    for hint in (
        "did you mean name?",
        "did you mean bundled/odyssey-3m?",
        "did you mean bundled/wiki_history_events?",
        "did you mean lora?",
    ):
        assert hint in text
    assert all(p.what and (p.got or p.next_step) for p in caught.value.problems)


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("seed: 1", "seed", "did you mean seeds?"),
        ("tasks: [{path: x.jsonl, source: bundled/boolq}]", "tasks[0]", "one of `source` and `path`"),
        ("tasks: [bundled/boolq, bundled/boolq]", "tasks[1]", "another `name:`"),
        ("measure: [likeness]", "measure[0]", "degradation, forgetting"),
        ("measure: [similarity]", "measure", "add pretraining_text"),
        ("measure: [{similarity: {layer: last}}]", "measure[0].similarity.layer", "integer"),
        ("measure: [noise: {gamas: [0.1]}]", "measure[0].noise.gamas", "did you mean gammas?"),
        ("measure: [noise: {gammas: [-0.1]}]", "measure[0].noise.gammas[0]", "above 0"),
        ("measure: [{}]", "measure[0]", "a word, or {noise: {gammas: [0.1, 0.2]}}"),
        ("measure: [tokns]", "measure[0]", "did you mean tokens?"),
        ("warmup: 3%", "warmup", "did you mean train.warmup?"),
        ("train: {budget: 200k}", "train.budget", "200k tokens"),
        ("train: {budget: -1 tokens}", "train.budget", "300 steps"),
        ("train: {budget: 0 steps}", "train.budget", "above 0"),
        ("train: {schedule: cosin}", "train.schedule", "did you mean cosine?"),
        ("train: {precision: no}", "train.precision", "auto, fp32, bf16, fp16"),
        ("train: {seq_len: 0256}", "train.seq_len", "leading zero"),
        ("train: {betas: [0.9]}", "train.betas", "too short"),
        ("train: {betas: [0.9, 1]}", "train.betas[1]", "below 1"),
        ("train: {warmup:}", "train.warmup", "delete the line"),
        ("train: {warmup: 1 epoch}", "train.warmup", "2k tokens or 10 steps"),
        ("train: {budget: [4 steps, 2 epochs]}", "train.budget", "one unit"),
        ("train: {budget: [40 steps, 80 steps], schedule: wsd}", "train.warmup", "write warmup: 2 steps"),
        (
            "train: {budget: [40 steps, 80 steps], schedule: wsd, warmup: 33 steps}",
            "train.warmup",
            "up to 32 of its 40",
        ),
        ("train: {seq_len: 512, batch_tokens: 256}", "train.batch_tokens", "at least seq_len (512)"),
        ("train: {seq_len: 1024, batch_tokens: 1.5k}", "train.batch_tokens", "1024 or 2048"),
        ("train: {eval_at: [0, 50%]}", "train.eval_at[0]", "above 0"),
        ("train: 5", "train", "`key: value`"),
        ("score: {mode: stream, stride: 5}", "score.stride", "disjoint"),
        ("score: {tokens: -1}", "score.tokens", "not negative"),
        ("seeds: [-1]", "seeds[0]", "not negative"),
        ("seeds: []", "seeds", "empty"),
        ("seeds: yes", "seeds", "whole number"),
        ("name: a/b", "name", "letters, digits"),
        ("general: [other, bundled/nowhere]", "general[1]", "bundled/wiki_general"),
        ("general: [{name: text, path: a, source: b}]", "general[0]", "one of"),
        ("general: [{path: a, split: {valid: 60%, test: 50%}}]", "general[0].split", "less than 100%"),
        ("general: [{path: a, split: {valid: 0}}]", "general[0].split.valid", "between 0 and 1"),
        ("general: [{path: a, split: {train: x, test: 5%}}]", "general[0].split", "train"),
        ("general: [{path: a, newline: [keep, strip]}]", "general[0].newline", "name one policy"),
        ("pretraining_text: bundled/nowhere", "pretraining_text", "bundled/pretrain_sample"),
        ("pretraining_text: {name: text, path: a, source: b}", "pretraining_text", "one of"),
        ("general: [{path: a, newlines: keep}]", "general[0].newlines", "did you mean newline?"),
        ("general: [a/t.jsonl, b/t.txt]", "general[1]", "another `name:`"),
    ],
)
def test_one_mistake_is_one_problem_at_its_place(line, key, words):
    problem = only(f"{MINIMAL}{line}\n")
    assert problem.key == key
    assert words in str(problem)
    assert (problem.where, problem.line) == ("recipe", 4)


@pytest.mark.parametrize(
    ("method", "key", "words"),
    [
        ("{method: full, quant: nf4}", "quant", "use lora or qlora"),
        ("{method: full, rank: 8}", "rank", "use lora"),
        ("{method: saved, path: x, lr: 1}", "lr", "remove lr"),
        ("{method: saved}", "path", "missing"),
        ("{method: lora, rank: [4, -1]}", "rank[1]", "not negative"),
        ("{method: lora, rnk: 4}", "rnk", "did you mean rank?"),
        ("{method: lora, alpha: 2x}", "alpha", "2r"),
        ("{method: lora, lr: {tune: [1e-3, -1]}}", "lr.tune[1]", "above 0"),
        ("{method: lora, lr: {grid: [1]}}", "lr", "tune"),
        ("{method: lora, lr: fast}", "lr", "1e-3"),
        ("{method: lora, dora: on}", "dora", "true or false"),
        ("{method: lora, init: eva}", "init", "eva"),
        ("{method: lora, init: pissa, quant: nf4}", "init", "quantised"),
        ("{method: lora, init: orthogonal, rank: 3}", "rank", "even"),
        ("{method: lora, double_quant: true}", "double_quant", "4 bits"),
        ("{method: lora, quant: int8, double_quant: true}", "double_quant", "4 bits"),
        ("{method: qlora, quant: int8}", "quant", "nf4, fp4"),
        ("{method: lora, targets: 5}", "targets", "all-linear"),
        ("{method: lora, dropout: 1}", "dropout", "below 1"),
        ("{method: peft, peft_type: VERRA}", "peft_type", "did you mean VERA?"),
        ("{method: peft}", "peft_type", "missing"),
        ("{method: last_layers, layers: 0}", "layers", "at least 1"),
        ("{rank: 8}", "", "which method"),
        ("{method: [full]}", "method", "no such method"),
        ("qlra", "", "did you mean qlora?"),
    ],
)
def test_one_mistake_in_a_method(method, key, words):
    problem = only(f"model: gpt2\ndomains: [hub:a/b]\nmethods:\n  - full\n  - {method}\n")
    assert problem.key == "methods[1]" + f".{key}" * bool(key)
    assert words in str(problem)
    assert problem.line == 5


@pytest.mark.parametrize("missing", ["model", "domains", "methods"])
def test_each_required_key_is_asked_for(missing):
    text = "".join(line + "\n" for line in MINIMAL.splitlines() if not line.startswith(missing))
    problem = only(text)
    assert problem.key == missing
    assert problem.next_step.startswith("add")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("- a\n- b\n", "mapping of keys"),
        ("model: [a\n", "not valid YAML"),
        ("model:\n\tname: a\n", "spaces, not tabs"),
        ("a: 1\n---\nb: 2\n", "one document"),
        ("model: a: b\n", "quotes"),
        ("model: a\0b\n", "does not allow"),
        (MINIMAL + "model: gpt2\n", "written twice; the first is on line 1"),
        (MINIMAL + "name: !!python/object/apply:os.system [ls]\n", "tags are not used"),
        (MINIMAL + "name: !!str 5\n", "tags are not used"),
        (MINIMAL + "? [a, b]\n: c\n", "plain word"),
        (MINIMAL + "name: " + "[" * 9000 + "\n", "five levels"),
        (MINIMAL + "general: &a [*a]\n", "repeats without end"),
    ],
)
def test_text_that_is_no_recipe(text, words):
    mistakes = problems(text) if "\n" in text or not text else None
    assert len(mistakes) == 1
    assert words in str(mistakes[0])
    assert mistakes[0].line >= 1


def test_nested_aliases_do_not_fill_memory():
    layers = "".join(f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 10)}]\n" for i in range(1, 9))
    mistakes = problems(f"{MINIMAL}b0: &b0 [x]\n{layers}")
    assert any("more than 10,000 values" in p.what for p in mistakes)


def test_anchors_and_merge_keys_serve_shared_settings():
    methods = "methods:\n  - &base {method: lora, rank: 4, lr: 1e-3}\n  - {<<: *base, rank: 16}\n"
    recipe = load_recipe("model: gpt2\ndomains: [hub:a/b]\n" + methods)
    assert [cell.method.rank for cell in cells(recipe)] == [4, 16]


def test_numbers_that_yaml_1_1_misreads_are_read_as_meant():
    recipe = load_recipe(MINIMAL + "train: {weight_decay: 1e-2, warmup: 5e-2}\nseeds: [1_0]\nname: on\n")
    assert (recipe.train.weight_decay, recipe.train.warmup, recipe.seeds, recipe.name) == (
        0.01,
        0.05,
        (10,),
        "on",
    )


def test_files_that_cannot_be_read(tmp_path):
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: é\n".encode("latin-1"))
    for path, words in (
        (latin, "not UTF-8: byte 6"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.yaml", "there is no recipe"),
        ("quikstart", "quickstart"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            load_recipe(path)
        assert caught.value.next_step


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path):
    (tmp_path / "r.yaml").write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert load_recipe(tmp_path / "r.yaml").name == "r"


def test_paths_are_relative_to_the_recipe(tmp_path):
    (tmp_path / "m").mkdir()
    text = "model: [m, ./n, other/hub]\ndomains: [data/x.jsonl]\nmethods: [{method: saved, path: ../ad}]\n"
    (tmp_path / "r.yaml").write_text(text)
    all_cells = cells(load_recipe(tmp_path / "r.yaml"))
    assert [cell.model.name for cell in all_cells] == [str(tmp_path / "m"), str(tmp_path / "n"), "other/hub"]
    assert all_cells[0].domain.source == str(tmp_path / "data/x.jsonl")
    assert all_cells[0].method.options["path"] == str(tmp_path / "../ad")


def test_warnings_do_not_stop_a_recipe():
    recipe = load_recipe(
        MINIMAL.replace("[full]", "[{method: full, lr: {tune: [1e-3]}}, {method: lora, lr: 3}]") + "seeds: [0, 0]\n"
    )
    assert [(w.key, w.severity) for w in recipe.warnings] == [
        ("methods[0].lr", "warning"),
        ("methods[1].lr", "warning"),
        ("seeds", "warning"),
    ]


def test_a_loaded_recipe_knows_its_text_and_places():
    recipe = load_recipe(GOOD, where="demo.yaml")
    assert recipe.source_text == GOOD
    assert recipe.where == "demo.yaml"
    assert recipe.place(("domains", 0)) == (3, 11)
    assert recipe.place(("domains", 0, "field")) == (3, 11)
    assert recipe.place(("methods", 1, "rank", 1)) == (6, GOOD.splitlines()[5].index("8") + 1)
    assert (
        str(recipe.problem(("domains", 0), "empty", got="0 bytes"))
        == "demo.yaml:3:11: domains[0]: empty\n    got: 0 bytes"
    )


def test_overrides_change_append_and_delete():
    text = GOOD + "train: {warmup: 10%, seq_len: 128}\n"
    recipe = load_recipe(
        text,
        [
            "methods[1].rank=[4, 16]",
            "train.budget=100k tokens",
            "~train.warmup",
            "train.seq_len=",
            "methods[2]=bitfit",
            "domains[0].newline=strip",
            "score.tokens=1k",
            "seeds=[3]",
            "model.revisions=[init]",
        ],
    )
    assert [getattr(m, "rank", None) for m in recipe.methods] == [None, (4, 16), None]
    assert (recipe.train.budget[0].amount, recipe.train.warmup, recipe.train.seq_len) == (100_000, 0.03, 256)
    assert (recipe.domains[0].source, recipe.domains[0].newline) == ("bundled/arxiv_cs.CL", ("strip",))
    assert (recipe.score.tokens, recipe.seeds, recipe.model[0].revisions) == (1000, (3,), ("init",))
    assert recipe.place(("seeds",)) == (0, 0)


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("methods[9].rank=3", "methods[9].rank", "methods has 2 items"),
        ("methods.rank=3", "methods.rank", "methods[0].rank"),
        ("train.seqlen=3", "train.seqlen", "did you mean seq_len?"),
        ("train.warmup=30", "train.warmup", "between 0 and 1"),
        ("name.first=x", "name.first", "set name itself"),
        ("~seed", "seed", "nothing to delete"),
        ("seeds", "", "not an override"),
        ("seeds=[1", "seeds", "not valid YAML"),
        ("model[0].name=x", "model[0].name", "not a list"),
        ("methods[1].rank=0", "methods[1].rank", "at least 1"),
    ],
)
def test_a_wrong_override_is_reported_under_its_own_text(text, key, words):
    problem = only(GOOD, text)
    assert (problem.where, problem.line, problem.key) == (f"--set {text}", 0, key)
    assert words in str(problem)


def test_loading_imports_no_heavy_library():
    code = f"""
import sys, json
from peftodyssey.measures.registry import SPECS
from peftodyssey.recipe.load import load_recipe
from peftodyssey.recipe.grid import cells
cells(load_recipe({str(bundled.path("quickstart"))!r}, measures=SPECS))
heavy = sorted(set(sys.modules) & {{"torch", "transformers", "numpy", "datasets", "peft", "pyarrow", "bitsandbytes"}})
print(json.dumps(heavy))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_the_short_name_of_a_file_has_no_ending_that_is_read():
    names = {corpus_name(Corpus(path=f"data/v1.2{a}{b}")) for a in TEXT_FORMATS for b in ("", *TEXT_COMPRESSION)}
    assert names == {"v1.2"}
    assert corpus_name(Corpus(path="data/notes/*.csv")) == "notes"
