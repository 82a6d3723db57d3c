"""What `check` says of the length of a training: tokens of text, steps and epochs, by hand."""

from __future__ import annotations

import json
import re

import pytest
from support.plans import build, load_recipe

from peftodyssey.corpora.documents import documents
from peftodyssey.errors import RecipeError
from peftodyssey.memory.device import detect
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.report.training_length import lengths

RECIPE = """\
model: bundled/odyssey-3m
domains: [{{name: mine, path: {path}}}]
methods: [{{method: lora, lr: 1e-3}}, {{method: full, lr: 1e-4}}]
train: {{budget: {budget}, seq_len: 64, batch_tokens: 256}}
"""


def planned(path, budget, rows=200):
    text = "Row {} is a sentence that a model reads in training, as long as the others."
    path.write_text("".join(json.dumps({"text": text.format(n)}) + "\n" for n in range(rows)))
    return build(load_recipe(RECIPE.format(path=path, budget=budget)), detect("cpu"))


def train_tokens(plan):
    index = next(index for index in plan.indexes if index.split == "train")
    read = [document.text for document in documents(index.corpus, "train")]
    encodings = load_tokenizer(index.tokenizer_source).backend.encode_batch(read, add_special_tokens=False)
    return sum(len(encoding.ids) for encoding in encodings)


@pytest.mark.parametrize("budget", ["5000 tokens", "20 steps", "2 epochs", "1 epochs"])
def test_tokens_steps_and_epochs_belong_together(tmp_path, budget):
    plan = planned(tmp_path / "a.jsonl", budget)
    (line,), warnings = lengths(plan)
    exact = train_tokens(plan)
    found = re.fullmatch(r"mine: about ([\d.]+)k tokens of text, (\d+) steps, ([\d.]+) epochs?", line)
    tokens, steps, epochs = 1000 * float(found[1]), int(found[2]), float(found[3])
    assert tokens == pytest.approx(exact, rel=0.05)
    assert epochs == pytest.approx(steps * 256 / exact, rel=0.1)
    number, unit = budget.split()
    counts = {"steps": steps, "epochs": epochs, "tokens": (steps - 0.5) * 256}
    assert counts[unit] == pytest.approx(int(number), abs=128 if unit == "tokens" else 0)
    assert line.endswith("epoch") == (epochs == 1)
    assert warnings == []


def test_steps_alone_where_the_text_is_too_large_to_be_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("peftodyssey.report.training_length.MOST_BYTES", 100)
    assert lengths(planned(tmp_path / "a.jsonl", "5000 tokens"))[0] == ["mine: 20 steps"]
    assert lengths(planned(tmp_path / "a.jsonl", "2 epochs"))[0] == ["mine: 2 epochs"]


def test_less_than_one_sequence_is_a_warning(tmp_path):
    recipe = RECIPE.replace("seq_len: 64, batch_tokens: 256", "seq_len: 1024, batch_tokens: 1024")
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(100)))
    plan = build(load_recipe(recipe.format(path=path, budget="3 steps")), detect("cpu"))
    assert train_tokens(plan) < 1024
    (warning,) = lengths(plan)[1]
    assert warning.startswith("mine, train: about ")
    assert "1,024" in warning


def test_a_file_of_one_row_is_refused_at_the_line_of_the_domains(tmp_path):
    with pytest.raises(RecipeError) as caught:
        planned(tmp_path / "a.jsonl", "20 steps", rows=1)
    (problem,) = caught.value.problems
    assert (problem.key, problem.line) == ("domains", 2)
    assert "1 document" in str(problem)
