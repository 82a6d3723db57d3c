"""Texts as people have them: what `check` says of a file, and the recipe that `recipes new` writes for it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import micro

WORDS = [
    "the",
    "of",
    "and",
    "model",
    "data",
    "graph",
    "proof",
    "energy",
    "river",
    "king",
    "battle",
    "city",
    "music",
    "law",
    "network",
    "theory",
    "market",
    "planet",
]
RECIPE = """\
version: 1
name: case
model: bundled/odyssey-3m
domains: [{{name: d, path: "{path}"}}]
methods: [{{method: lora, rank: 4, lr: 1e-3}}]
train: {{budget: 2 steps, seq_len: 256, batch_tokens: 512, objective: {objective}, chat_template: plain}}
score: {{context: 128, tokens: 2k}}
measure: [degradation]
"""
COUNT = 120


def sentences(seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(WORDS) for _ in range(60)) + "." for _ in range(COUNT)]


TEXTS = sentences()


def rows(path: Path, make: Callable[[int, str], object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(make(i, text)) + "\n" for i, text in enumerate(TEXTS)))
    return path


def talk(text: str, answer: object, **more: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text[:30]}, {"role": "assistant", "content": answer}], **more}


def tool_calls(i: int, text: str) -> dict[str, object]:
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    answer = {"role": "assistant", "content": text}
    return {"messages": [{"role": "user", "content": text[:30]}, call, {"role": "tool", "content": "1"}, answer]}


def code(folder: Path) -> Path:
    (folder / "code").mkdir()
    for i, text in enumerate(TEXTS):
        (folder / "code" / f"m{i}.py").write_text(f'def f{i}():\n    """{text}"""\n    return {i}\n')
    return folder / "code" / "*.py"


def array(folder: Path) -> Path:
    (folder / "array.json").write_text(json.dumps([{"text": text} for text in TEXTS], indent=1))
    return folder / "array.json"


def table(folder: Path) -> Path:
    (folder / "t.csv").write_text("id,text\n" + "\n".join(f'{i},"{text}"' for i, text in enumerate(TEXTS)))
    return folder / "t.csv"


def lists(folder: Path) -> Path:
    pq.write_table(pa.table({"text": [[text] for text in TEXTS]}), folder / "lists.parquet")
    return folder / "lists.parquet"


# name -> (file, objectives, what `check` says of it, text that `check --show` prints as learnt, of sft)
READ: dict[str, tuple[Callable[[Path], Path], tuple[str, ...], str, str]] = {
    "alpaca": (
        lambda f: rows(f / "a.jsonl", lambda i, t: {"instruction": t[:20], "input": t[20:40] * (i % 2), "output": t}),
        ("sft", "text"),
        "read as Alpaca: instruction + input -> output; 120 documents",
        "### Response:",
    ),
    "sharegpt": (
        lambda f: rows(
            f / "a.jsonl",
            lambda i, t: {"conversations": [{"from": "human", "value": t[:30]}, {"from": "gpt", "value": t}]},
        ),
        ("sft", "text"),
        "read as ShareGPT: conversations; 120 documents",
        "assistant:",
    ),
    "question and answer": (
        lambda f: rows(f / "a.jsonl", lambda i, t: {"question": t[:30], "answer": t}),
        ("sft", "text"),
        "read as question and answer: question -> answer",
        "Answer:",
    ),
    "chosen and rejected": (
        lambda f: rows(
            f / "a.jsonl",
            lambda i, t: {
                "chosen": f"\n\nHuman: {t[:30]}\n\nAssistant: {t}",
                "rejected": f"\n\nHuman: {t[:30]}\n\nAssistant: no",
            },
        ),
        ("sft", "text"),
        "read as transcripts of Human and Assistant: chosen",
        "Assistant:",
    ),
    "parts": (
        lambda f: rows(f / "a.jsonl", lambda i, t: talk(t, [{"type": "text", "text": t}])),
        ("sft", "text"),
        "read as conversations: messages",
        "assistant:",
    ),
    "tool calls": (lambda f: rows(f / "a.jsonl", tool_calls), ("sft", "text"), "conversations: messages", "tool: 1"),
    "roles in capitals": (
        lambda f: rows(
            f / "a.jsonl",
            lambda i, t: {"messages": [{"role": "User", "content": t[:9]}, {"role": "Assistant", "content": t}]},
        ),
        ("sft", "text"),
        "read as conversations: messages",
        "assistant:",
    ),
    "one-token answers": (
        lambda f: rows(f / "a.jsonl", lambda i, t: {"prompt": t[:40], "completion": " yes" if i % 2 else " no"}),
        ("sft", "text"),
        "read as prompt and completion: prompt -> completion",
        "<|endoftext|>",
    ),
    "array": (array, ("text",), "read as text: text; 120 documents", ""),
    "csv": (table, ("text",), "read as text: text; 120 documents", ""),
    "code": (code, ("text",), "read as plain text: 120 files, each a document", ""),
    "lists": (lists, ("text",), "read as text, lists joined by line breaks: text", ""),
    "control tokens": (
        lambda f: rows(f / "a.jsonl", lambda i, t: {"text": f"{t} <|endoftext|> {t}"}),
        ("text",),
        "spell <|endoftext|> or the like and are encoded as text",
        "",
    ),
    "one huge line": (
        lambda f: rows(f / "a.jsonl", lambda i, t: {"text": t if i < COUNT - 1 else t * 100}),
        ("text",),
        "a scored document is cut at score.tokens, 2,000",
        "",
    ),
}


@pytest.mark.parametrize("case", READ)
def test_check_says_how_a_text_is_read_and_new_recipes_pass_it(case: str, tmp_path: Path) -> None:
    make, objectives, said, shown = READ[case]
    path = make(tmp_path)
    for objective in objectives:
        recipe = micro.write(tmp_path, RECIPE.format(path=path, objective=objective))
        ended = micro.invoke("check", recipe, "--show", "1")
        assert ended.returncode == 0, ended.stderr
        assert said in " ".join(ended.stdout.split())  # whatever the width
        assert shown in ended.stdout.rpartition("document 1:")[2]
        assert ("trains on the answers only" in ended.stdout) == (objective == "text" and len(objectives) == 2)
    new = tmp_path / "new.yaml"
    written = micro.invoke("recipes", "new", new, "--model", "bundled/odyssey-3m", "--domain", path)
    assert written.returncode == 0, written.stderr
    assert f"objective: {objectives[0]} " in new.read_text()
    assert micro.invoke("check", new).returncode == 0


def parts(folder: Path) -> Path:
    (folder / "parts").mkdir()
    pq.write_table(pa.table({"text": TEXTS[:60]}), folder / "parts" / "a.parquet")
    pq.write_table(pa.table({"content": TEXTS[60:]}), folder / "parts" / "b.parquet")
    return folder / "parts"


REFUSED: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "empty answers": (
        lambda f: rows(f / "a.jsonl", lambda i, t: talk(t, "" if i % 10 == 0 else t)),
        'a.jsonl:1: the answer is empty; of 120 rows 12 with "the answer is empty"',
        "bad_rows: drop",
    ),
    "numbers and nulls": (
        lambda f: rows(f / "a.jsonl", lambda i, t: {"text": None if i % 7 == 0 else 42 if i % 11 == 0 else t}),
        'a.jsonl:12: text is int, not text; of 120 rows 9 with "text is int, not text"',
        "bad_rows: drop",
    ),
    "columns differ": (parts, "b.parquet has the columns content, and", "the same columns"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_read_is_refused_with_a_way_out_that_works(case: str, tmp_path: Path) -> None:
    make, said, way_out = REFUSED[case]
    path = make(tmp_path)
    recipe = micro.write(tmp_path, RECIPE.format(path=path, objective="sft" if "answers" in case else "text"))
    ended = micro.invoke("check", recipe)
    assert ended.returncode == 2
    assert said in ended.stderr
    assert way_out in ended.stderr
    new = tmp_path / "new.yaml"
    written = micro.invoke("recipes", "new", new, "--model", "bundled/odyssey-3m", "--domain", path)
    if way_out == "bad_rows: drop":
        assert written.returncode == 0, written.stderr
        dropped = micro.invoke("check", new)
        assert dropped.returncode == 0, dropped.stderr
        assert "left out: " in dropped.stdout
    else:
        assert written.returncode == 2
        assert said in written.stderr
