"""Prompts with choices: read from every place, refused with file and line, and cut into prompt and choice as lm-eval
does.
"""

import json

import pytest
from tokenizers import Tokenizer

from peftodyssey import assets
from peftodyssey.corpora.multiple_choice import questions, requests, resolve
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import TaskSpec

GOOD = {"prompt": "2 + 2 =", "choices": ["3", "4", " five"], "answer": 1}


def task(path, **more):
    return resolve(TaskSpec("t", str(path), **more))


def written(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(assets.model_files("odyssey-3m") / "tokenizer.json"))


@pytest.mark.parametrize(
    ("name", "examples", "choices"), [("arxiv_field", 500, 10), ("boolq", 300, 2), ("arc_easy", 500, None)]
)
def test_bundled_tasks_are_whole(name, examples, choices):
    loaded = questions(resolve(TaskSpec(name, f"bundled/{name}")))
    assert len(loaded) == examples
    assert all(choices in (None, len(q.choices)) for q in loaded)
    assert len({q.answer for q in loaded}) > 1


def test_an_own_file_is_read_and_a_choice_stands_behind_a_space(tmp_path):
    rows = [GOOD, {**GOOD, "id": "b", "answer": "five"}, {**GOOD, "prompt": "A: "}]
    one, two, three = questions(task(written(tmp_path / "q.jsonl", *rows)))
    assert (one.id, one.choices, one.answer) == ("q.jsonl:1", (" 3", " 4", " five"), 1)
    assert (two.id, two.answer) == ("b", 2)
    assert three.choices == ("3", "4", " five")
    assert one.choice_bytes == (1, 1, 4)


def test_a_folder_has_splits_and_a_cap_chooses_by_hash(tmp_path):
    many = [{**GOOD, "prompt": f"{n} + 2 ="} for n in range(30)]
    written(tmp_path / "train.jsonl", GOOD)
    written(tmp_path / "test.jsonl", *many)
    assert len(questions(task(tmp_path))) == 30
    assert len(questions(task(tmp_path, split="train"))) == 1
    some = [q.prompt for q in questions(task(tmp_path, examples=10))]
    assert len(some) == 10
    assert set(some) > {q.prompt for q in questions(task(tmp_path, examples=4))}
    assert some != [row["prompt"] for row in many[:10]]
    with pytest.raises(CorpusError, match="no split 'dev'"):
        task(tmp_path, split="dev")


BAD = [
    ("no json", r"q.jsonl:2 is not JSON"),
    ({**GOOD, "prompt": " "}, r"q.jsonl:2: no prompt"),
    ({"question": "?"}, r"q.jsonl:2: no prompt: the fields are question"),
    ({**GOOD, "choices": ["4"]}, r"q.jsonl:2: `choices` must be a list of two or more"),
    ({**GOOD, "choices": ["4", ""]}, r"q.jsonl:2: `choices`"),
    ({**GOOD, "choices": ["4", " 4"]}, r"q.jsonl:2: two choices are the same"),
    ({**GOOD, "answer": 3}, r"q.jsonl:2: `answer` is 3, neither the index of a choice \(0 to 2\)"),
    ({**GOOD, "answer": True}, r"q.jsonl:2: `answer` is True"),
    ({**GOOD, "answer": "six"}, r"q.jsonl:2: `answer` is 'six'"),
    ({"prompt": "x", "choices": ["a", "b"]}, r"q.jsonl:2: `answer` is None"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_a_bad_row_is_named_with_file_and_line_and_the_format(row, message, tmp_path):
    with pytest.raises(CorpusError, match=message):
        questions(task(written(tmp_path / "q.jsonl", GOOD, row)))
    with pytest.raises(CorpusError, match=message.replace(":2", ":1")):
        task(written(tmp_path / "q.jsonl", row, GOOD))


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(CorpusError, match=r"no bundled task 'bolq'\n.*did you mean boolq"):
        resolve(TaskSpec("t", "bundled/bolq"))
    with pytest.raises(CorpusError, match="`choices` must be"):
        resolve(TaskSpec("t", "bundled/gsm8k"))
    with pytest.raises(CorpusError, match="there is no"):
        task(tmp_path / "none.jsonl")


def test_requests_are_cut_as_lm_eval_cuts_them(tokenizer, tmp_path):
    """The rule of lm-eval's TemplateLM._encode_pair, by its own code."""
    from lm_eval.api.model import TemplateLM

    class Encodes:
        backend = "causal"

        def tok_encode(self, text, **_):
            return tokenizer.encode(text, add_special_tokens=False).ids

    rows = [
        GOOD,
        {**GOOD, "prompt": "A list:\n"},
        {**GOOD, "prompt": "def f(x):\n    return", "choices": ["x", "xx", " x y"]},
    ]
    for question in questions(task(written(tmp_path / "q.jsonl", *rows))):
        ours = requests(question, tokenizer)
        theirs = [TemplateLM._encode_pair(Encodes(), question.prompt, choice) for choice in question.choices]
        assert [(r.context, r.choice) for r in ours] == theirs
