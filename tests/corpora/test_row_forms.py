"""Texts as people have them: known by their columns, read as what they are, or refused with the row and a way out."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from peftodyssey.corpora import json_values, text_stream
from peftodyssey.corpora.chat import PLAIN_TEMPLATE, Chat
from peftodyssey.corpora.documents import cut_at_paragraphs, documents
from peftodyssey.corpora.source import check_objective, resolve
from peftodyssey.corpora.survey import read_as, survey
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec

CHAT = Chat(PLAIN_TEMPLATE, {"eos_token": "</s>"})
TOOLS = Chat(
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
    "<call>{{ c.function.name }}{{ c.function.arguments | tojson }}</call>{% endfor %}\n{% endfor %}"
)
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}


def spec(path, **options):
    return CorpusSpec("x", str(path), **options)


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def learnt(path, chat=CHAT, **options):
    """(how it is read, prompt, what is learnt) of the one row of a file."""
    corpus = resolve(spec(path, **options))
    check_objective(corpus, "sft")
    [document] = documents(corpus, "all", chat)
    spans = document.answers or ((document.prompt_chars, len(document.text)),)
    return corpus.row_schema.described(), document.text[: spans[0][0]], [document.text[a:b] for a, b in spans]


FORMS = [
    (
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        "Alpaca: instruction + input -> output",
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:\n",
        ["3"],
    ),
    (
        {"Instruction": "Add.", "Input": " ", "Output": "3"},
        "Alpaca: Instruction + Input -> Output",
        "### Instruction:\nAdd.\n\n### Response:\n",
        ["3"],
    ),
    (
        {"instruction": "Add.", "output": "3", "text": "all of it"},
        "Alpaca: instruction -> output",
        "### Instruction:\nAdd.\n\n### Response:\n",
        ["3"],
    ),
    (
        {"instruction": "Who?", "context": "Ada did.", "response": "Ada"},
        "Dolly: instruction + context -> response",
        "### Instruction:\nWho?\n\n### Input:\nAda did.\n\n### Response:\n",
        ["Ada"],
    ),
    ({"question": "1?", "answer": "2"}, "question and answer: question -> answer", "Question: 1?\nAnswer:", [" 2"]),
    ({"prompt": "1?", "response": "2"}, "prompt and response: prompt -> response", "1?\n\n", ["2"]),
    ({"prompt": "1?", "completion": " 2"}, "prompt and completion: prompt -> completion", "1?", [" 2"]),
    ({"input": "1?", "output": "2"}, "input and output: input -> output", "1?\n\n", ["2"]),
    (
        {"chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d", "rejected": "e"},
        "transcripts of Human and Assistant: chosen",
        "Human: a\n\nAssistant:",
        [" b", " d"],
    ),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, "preferences, chosen: prompt -> chosen", "a\n\n", ["b"]),
    (
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]},
        "ShareGPT: conversations",
        "user: a\n\nassistant: ",
        ["b</s>"],
    ),
    (
        {"messages": [{"role": "User", "content": "a"}, {"role": "ASSISTANT", "content": "b"}]},
        "conversations: messages",
        "user: a\n\nassistant: ",
        ["b</s>"],
    ),
    (
        {"messages": json.dumps([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])},
        "conversations: messages",
        "user: a\n\nassistant: ",
        ["b</s>"],
    ),
    (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "a"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
            ]
        },
        "conversations: messages",
        "user: aa\n\nassistant: ",
        ["b</s>"],
    ),
    (
        {"messages": [{"role": "user", "content": "a"}, CALL, {"role": "tool", "content": "1"}, CALL]},
        "conversations: messages",
        "user: a\n\nassistant: ",
        ['{"name": "f", "arguments": {"x": 1}}</s>'] * 2,
    ),
    (
        {
            "chosen": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "rejected": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "c"}],
        },
        "preferences, chosen: chosen",
        "user: a\n\nassistant: ",
        ["b</s>"],
    ),
]


@pytest.mark.parametrize(("row", "form", "prompt", "answers"), FORMS, ids=[form for _, form, _, _ in FORMS])
def test_forms_are_known_by_their_columns(tmp_path, row, form, prompt, answers):
    path = jsonl(tmp_path / "a.jsonl", row)
    assert learnt(path) == (form, prompt, answers)
    check_objective(resolve(spec(path)), "text")  # the same text, learnt whole


def test_a_template_that_knows_tool_calls_gets_them_with_arguments_as_objects(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"messages": [{"role": "user", "content": "a"}, CALL]})
    [document] = documents(resolve(spec(path)), "all", TOOLS)
    assert document.text == 'user:aassistant:<call>f{"x": 1}</call>'


def test_columns_of_the_recipe_go_before_what_is_known(tmp_path):
    row = {"instruction": "I", "output": "O", "q": "Q", "hint": "", "a": "A"}
    path = jsonl(tmp_path / "a.jsonl", row)
    named = learnt(path, columns={"prompt": "q", "completion": "a"})
    assert named == ("prompt and completion: q -> a", "Q", ["A"])
    templates = {"prompt": "Q: {q}\n\nHint: {hint}\n\nA:", "completion": " {a}"}
    assert learnt(path, columns=templates)[1:] == ("Q: Q\n\nA:", [" A"])
    assert len({resolve(spec(path, columns=c)).fingerprint for c in ({}, templates)}) == 2
    [document] = documents(resolve(spec(path, field="{q} and {a}")), "all")
    assert document.text == "Q and A"
    with pytest.raises(CorpusError, match=r"no field 'ouput': the fields are .*\n.*did you mean output\?"):
        resolve(spec(path, columns={"prompt": "q", "completion": "ouput"}))


def test_text_goes_before_columns_whose_names_mean_other_things_too(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"input": "a", "output": "b", "text": "T"})
    assert resolve(spec(path)).row_schema.described() == "text: text"


BAD = [
    ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}, "the answer is empty"),
    ({"messages": "not JSON"}, "messages must be a list of objects"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a message holds a part of type image_url"),
    ({"messages": [{"role": "user", "content": "a"}]}, "messages end with 'user'"),
]


@pytest.mark.parametrize(("row", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_rows_that_cannot_be_used_are_counted_and_refused_or_left_out(tmp_path, row, reason):
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path = jsonl(tmp_path / "a.jsonl", good, row, good, row)
    with pytest.raises(CorpusError, match=rf"a\.jsonl:2: {reason}.*of 4 rows 2 with.*\n.*bad_rows: drop"):
        survey(resolve(spec(path)), CHAT)
    lenient = resolve(spec(path, bad_rows="drop"))
    assert len(list(documents(lenient, "all", CHAT))) == 2
    assert sum(survey(lenient, CHAT).left_out.values()) == 2
    assert lenient.fingerprint != resolve(spec(path)).fingerprint


def test_nulls_empty_rows_and_numbers_are_counted(tmp_path):
    rows = [{"text": t} for t in ("a b", None, None, " ", 42, "c d")]
    path = jsonl(tmp_path / "a.jsonl", *rows)
    with pytest.raises(CorpusError, match=r"a\.jsonl:5: text is int, not text; of 6 rows 1 with"):
        survey(resolve(spec(path)))
    corpus = resolve(spec(path, bad_rows="drop"))
    said = 'x: read as text: text; 2 documents; left out: 2 null, 1 empty, 1 with "text is int, not text"'
    assert read_as(corpus, survey(corpus)) == said


def test_parquet_with_lists_bytes_and_columns_that_differ(tmp_path):
    pq.write_table(pa.table({"text": [["a", "b"], ["c"]]}), tmp_path / "lists.parquet")
    lists = resolve(spec(tmp_path / "lists.parquet"))
    assert [d.text for d in documents(lists, "all")] == ["a\nb", "c"]
    assert lists.row_schema.described() == "text, lists joined by line breaks: text"
    pq.write_table(pa.table({"text": ["é".encode(), b"\xff"]}), tmp_path / "bytes.parquet")
    assert [d.text for d in documents(resolve(spec(tmp_path / "bytes.parquet", bad_rows="drop")), "all")] == ["é"]
    (tmp_path / "parts").mkdir()
    for name, column in (("a", "text"), ("b", "content")):
        pq.write_table(pa.table({column: ["x"], "id": ["1"]}), tmp_path / "parts" / f"{name}.parquet")
    with pytest.raises(CorpusError, match=r"b\.parquet has the columns content, id, and .*a\.parquet is read by text"):
        resolve(spec(tmp_path / "parts"))


ROWS = [{"text": f"row {i} {'é' * (i % 50)}", "n": [i, {"k": "]}"}]} for i in range(500)]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\ufeff \n" + json.dumps(ROWS),
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        "\n".join(map(json.dumps, ROWS)),
    ],
    ids=["array", "indented array", "array behind a mark", "objects over lines", "lines"],
)
def test_arrays_and_objects_over_lines_are_rows(tmp_path, monkeypatch, content):
    monkeypatch.setattr(text_stream, "PIECE_BYTES", 97)  # values and characters go over the ends of pieces
    (tmp_path / "a.json").write_text(content)
    assert [d.text for d in documents(resolve(spec(tmp_path / "a.json")), "all")] == [row["text"] for row in ROWS]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "a"}, {"text": ]', r"a\.json:2 is not JSON"),
        ('[{"text": "a"}', "ends before its array does"),
        ('[{"text": "a"}] x', "goes on after its array"),
        ('[{"text": "a"}, 3]', r"a\.json:2 holds a int"),
        ("[]", "is empty: it has no rows"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_arrays_that_cannot_be_read(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CorpusError, match=message):
        list(documents(resolve(spec(tmp_path / "a.json")), "all"))


def test_compression_is_known_by_content_whatever_the_name(tmp_path):
    plain = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    packed = {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}
    for kind, compress in packed.items():
        for name in (f"{kind}.jsonl", f"{kind}.jsonl.{kind}", f"{kind}.jsonl.gz"):
            (tmp_path / name).write_bytes(compress(plain))
            assert len(list(documents(resolve(spec(tmp_path / name)), "all"))) == 500, name
    (tmp_path / "plain.jsonl.gz").write_bytes(plain)
    assert len(list(documents(resolve(spec(tmp_path / "plain.jsonl.gz")), "all"))) == 500


def test_any_text_by_a_pattern_or_by_its_name_and_no_binary(tmp_path):
    (tmp_path / "code" / "sub").mkdir(parents=True)
    for i in range(30):
        (tmp_path / "code" / ("sub" if i % 2 else ".") / f"m{i}.py").write_text(f"def f{i}():\n    return {i}\n")
    corpus = resolve(spec(tmp_path / "code" / "**" / "*.py"))
    assert len(list(documents(corpus, "all"))) == 30
    assert read_as(corpus, survey(corpus)) == "x: read as plain text: 30 files, each a document; 30 documents"
    with pytest.raises(CorpusError, match=r"it holds 30 \.py\n.*by a pattern: .*code/\*\*/\*\.py"):
        resolve(spec(tmp_path / "code"))
    (tmp_path / "code" / "NOTES.md").write_text("Notes on the code.")
    assert len(list(documents(resolve(spec(tmp_path / "code" / "**" / "*")), "all"))) == 31
    for name in ("rows.csv", "log.log"):
        (tmp_path / "mixed").mkdir(exist_ok=True)
        (tmp_path / "mixed" / name).write_text("text\na b\nc d\n")
    assert len(list(documents(resolve(spec(tmp_path / "mixed" / "*")), "all"))) == 2
    (tmp_path / "Makefile").write_text("all:\n\tcc a.c\n")
    assert len(list(documents(resolve(spec(tmp_path / "Makefile")), "all"))) == 1
    for name, content in (("a.docx", b"PK\x03\x04 rest"), ("a.pdf", b"%PDF-1.7"), ("a.bin", b"a\x00b")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CorpusError, match="not a kind of file that is read: "):
            resolve(spec(tmp_path / name))


def test_a_line_or_row_above_the_stated_size_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_stream, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(json_values, "MAX_LINE_BYTES", 1000)
    for name, content in (
        ("a.jsonl", '{"text": "a"}\n{"text": "%s"}\n'),
        ("a.json", '[{"text": "a"}, {"text": "%s"}]'),
    ):
        (tmp_path / name).write_text(content % ("b " * 1000))
        with pytest.raises(CorpusError, match=rf"{name}:2 is longer than"):
            list(documents(resolve(spec(tmp_path / name)), "all"))


def test_a_text_in_one_line_is_cut_at_spaces_and_loses_nothing():
    line = "word " * 10_000 + "x" * 20_000
    pieces = list(cut_at_paragraphs([line]))
    assert "".join(pieces) == line
    assert max(map(len, pieces)) <= 16_000
    assert sum(piece.endswith(" ") for piece in pieces) >= 6
