"""Sources: what is found, how it is split, and what is said where it cannot be read."""

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import subprocess
import sys
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from peftodyssey.constants import SPLITS
from peftodyssey.corpora import m2d2, newlines
from peftodyssey.corpora.documents import Document, check_splits, cut_at_paragraphs, documents, text_key
from peftodyssey.corpora.local import find_splits
from peftodyssey.corpora.source import check_objective, resolve
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec

ROWS = [{"id": f"r{i}", "text": f"Document number {i}, with some words."} for i in range(400)]


def point(source, **options):
    return CorpusSpec(name="x", source=str(source), **options)


def jsonl(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def separated(rows, separator=","):
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    table.writeheader()
    table.writerows(rows)
    return text.getvalue().encode()


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def texts(corpus, split):
    return [document.text for document in documents(corpus, split)]


def everything(corpus):
    return [text for split in corpus.splits for text in texts(corpus, split)]


def forms(tmp_path):
    plain = jsonl(ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    return [
        written(tmp_path / "a.jsonl", plain),
        written(tmp_path / "b.jsonl.gz", gzip.compress(plain)),
        written(tmp_path / "c.jsonl.zst", zstandard.compress(plain)),
        tmp_path / "d.parquet",
        written(tmp_path / "e.csv", separated(ROWS)),
        written(tmp_path / "f.tsv.gz", gzip.compress(separated(ROWS, "\t"))),
    ]


def test_every_form_gives_the_same_documents_in_the_same_splits(tmp_path):
    splits = [
        {split: texts(resolve(point(path)), split) for split in ("train", "valid", "test")} for path in forms(tmp_path)
    ]
    assert all(split == splits[0] for split in splits)
    assert sorted(text for split in splits[0].values() for text in split) == sorted(row["text"] for row in ROWS)
    assert 5 <= len(splits[0]["valid"]) <= 45
    assert 20 <= len(splits[0]["test"]) <= 65


@pytest.mark.parametrize(("name", "separator"), [("a.csv", ","), ("a.tsv", "\t")])
def test_cells_keep_separators_quotes_and_line_breaks(tmp_path, name, separator):
    long = "word " * 40_000  # more than the 131,072 characters that Python's csv reads by default
    cells = ['a, b\tc; "d"', "two\nlines\n", " spaces ", "007", "NULL", "caf\u00e9", long]
    rows = [{"n": str(i), "body": cell} for i, cell in enumerate(cells)]
    corpus = resolve(point(written(tmp_path / name, b"\xef\xbb\xbf" + separated(rows, separator)), field="body"))
    assert corpus.fields == ("n", "body")
    assert sorted(everything(corpus)) == sorted(cells)


def test_blank_rows_and_empty_cells_of_csv_are_left_out_and_places_count_lines(tmp_path):
    content = b'\n,text\n1,"one\n\nmore"\n\n2,\n3,""\n4,four\n'
    corpus = resolve(point(written(tmp_path / "a.csv", content)))
    found = {document.id: document.text for document in documents(corpus, "all")}
    assert found == {"a.csv:3": "one\n\nmore", "a.csv:9": "four"}
    assert corpus.fields == ("text",)


def test_prompts_and_completions_of_csv(tmp_path):
    corpus = resolve(point(written(tmp_path / "a.csv", b'prompt,completion\n"1, 2?"," 3"\n4?, 5\n')))
    check_objective(corpus, "sft")
    assert {d.text: d.prompt_chars for d in documents(corpus, "all")} == {"1, 2? 3": 5, "4? 5": 2}


@pytest.mark.parametrize(
    ("files", "split", "said"),
    [
        ({"a.jsonl": 1}, {}, r"a: valid \(5%\) and test \(10%\) would be empty: there is 1 document.*about 60"),
        ({"a.jsonl": 20}, {"valid": 0.3, "test": 0}, r"test \(0%\) would be empty: there are 20 documents"),
        (
            {"a.jsonl": 3},
            {"valid": 0.49, "test": 0.5},
            r"train \(1%\) would be empty.* are 3 documents.*about 300",
        ),
        ({"train.jsonl": 90, "test.jsonl": 1}, {"valid": 0.01}, r"valid \(1%\) would be empty: there are 90 documents"),
        ({"train.jsonl": 90, "test.jsonl": 0}, {}, "the test split holds no text"),
    ],
)
def test_splits_without_a_document_are_refused(tmp_path, files, split, said):
    for name, rows in files.items():
        written(tmp_path / "a" / name, jsonl(ROWS[:rows] or [{"text": " "}]))
    corpus = resolve(CorpusSpec("a", str(tmp_path / "a"), split=split))
    with pytest.raises(CorpusError, match=f"(?s){said}"):
        check_splits(corpus, SPLITS)


def test_splits_with_a_document_each_are_accepted(tmp_path):
    corpus = resolve(point(written(tmp_path / "a.jsonl", jsonl(ROWS[:80]))))
    assert all(texts(corpus, split) for split in SPLITS)
    check_splits(corpus, SPLITS)


def test_zst_of_several_frames_is_read_to_the_end(tmp_path):
    path = written(
        tmp_path / "a.jsonl.zst", zstandard.compress(jsonl(ROWS[:200])) + zstandard.compress(jsonl(ROWS[200:]))
    )
    assert len(everything(resolve(point(path)))) == 400


def test_shares_of_the_recipe_are_followed_and_copies_stay_together(tmp_path):
    doubled = [{"text": row["text"]} for row in ROWS] + [{"text": row["text"].replace(" ", "\n ")} for row in ROWS]
    corpus = resolve(point(written(tmp_path / "a.jsonl", jsonl(doubled)), split={"valid": 0.3, "test": 0.3}))
    keys = {split: {text_key(text) for text in texts(corpus, split)} for split in corpus.splits}
    assert sum(map(len, keys.values())) == 400
    assert 85 < len(keys["valid"]) < 155
    assert 85 < len(keys["test"]) < 155


def test_files_named_after_splits_are_these_splits(tmp_path):
    written(tmp_path / "train-00.jsonl", jsonl(ROWS[:300]))
    written(tmp_path / "validation.jsonl.gz", gzip.compress(jsonl(ROWS[300:350])))
    written(tmp_path / "test" / "any.jsonl", jsonl(ROWS[350:]))
    corpus = resolve(point(tmp_path))
    assert [texts(corpus, s) for s in ("train", "valid", "test")] == [
        [r["text"] for r in rows] for rows in (ROWS[:300], ROWS[300:350], ROWS[350:])
    ]
    assert texts(resolve(point(tmp_path / "*.jsonl*")), "valid") == texts(corpus, "valid")
    with pytest.raises(CorpusError, match="has a test split"):
        resolve(point(tmp_path, split={"test": 0.2}))


def test_a_missing_split_is_cut_from_train_and_only_the_missing_one(tmp_path):
    written(tmp_path / "train.jsonl", jsonl(ROWS[:350]))
    written(tmp_path / "test.jsonl", jsonl(ROWS[350:]))
    corpus = resolve(point(tmp_path))
    assert texts(corpus, "test") == [r["text"] for r in ROWS[350:]]
    valid, train = texts(corpus, "valid"), texts(corpus, "train")
    assert 4 <= len(valid) <= 40
    assert sorted(valid + train) == sorted(r["text"] for r in ROWS[:350])


def test_splits_by_name_in_the_recipe(tmp_path):
    written(tmp_path / "a.jsonl", jsonl(ROWS[:300]))
    written(tmp_path / "held.jsonl", jsonl(ROWS[300:]))
    assert texts(resolve(point(tmp_path, split={"test": "held"})), "test") == [r["text"] for r in ROWS[300:]]
    with pytest.raises(CorpusError, match="no file or folder named 'gone'"):
        resolve(point(tmp_path, split={"test": "gone"}))


def test_without_a_train_part_there_is_no_train_split(tmp_path):
    written(tmp_path / "test.jsonl", jsonl(ROWS))
    written(tmp_path / "valid.jsonl", jsonl(ROWS))
    corpus = resolve(point(tmp_path))
    assert corpus.splits == ("valid", "test")
    with pytest.raises(CorpusError, match="no train split"):
        texts(corpus, "train")


@pytest.mark.parametrize(
    ("files", "read"),
    [
        ({"a.txt", "metadata.csv"}, {"a.txt"}),
        ({"a.md.gz", "metadata.tsv"}, {"a.md.gz"}),
        ({"a.csv", "sub/b.tsv.gz", "README.md"}, {"a.csv", "sub/b.tsv.gz"}),
        ({"a.txt", "README.md"}, {"a.txt", "README.md"}),
        ({"README.md"}, {"README.md"}),
        ({"a.jsonl", "b.txt", "metadata.csv"}, {"a.jsonl"}),
    ],
)
def test_one_kind_of_file_is_read_of_a_folder(tmp_path, files, read):
    for name in files:
        written(tmp_path / name, b"")
    (found,) = find_splits(str(tmp_path), {}).values()
    assert {str(path.relative_to(tmp_path)) for path in found} == read


def test_a_folder_of_text_files_is_one_document_a_file(tmp_path):
    for number in range(60):
        written(tmp_path / f"{number}.txt", f"Text {number}.\n\nMore.\n".encode())
    corpus = resolve(point(tmp_path))
    assert corpus.unit == "document"
    assert sorted(everything(corpus)) == sorted(f"Text {n}.\n\nMore.\n" for n in range(60))


def test_one_text_file_is_cut_at_paragraphs_and_loses_nothing(tmp_path):
    text = "".join(f"Paragraph {i}. " + "word " * 60 + "\n\n" * (1 + i % 3) for i in range(300))
    corpus = resolve(point(written(tmp_path / "book.txt", b"\xef\xbb\xbf" + text.encode())))
    assert corpus.unit == "block"
    pieces = sorted((d for s in corpus.splits for d in documents(corpus, s)), key=lambda d: int(d.id.split(":")[1]))
    assert "".join(d.text for d in pieces).strip() == text.strip()
    assert all(2000 <= len(d.text) < 3000 for d in pieces[:-1])
    assert all(d.text.endswith("\n\n") or d.text.endswith("\n") for d in pieces)


def test_pieces_without_blank_lines_end_at_lines():
    pieces = list(cut_at_paragraphs(["x" * 99 + "\n"] * 1000))
    assert "".join(pieces) == ("x" * 99 + "\n") * 1000
    assert {len(p) for p in pieces[:-1]} == {8000}


def test_fingerprint_follows_content_and_field_not_place(tmp_path):
    one = resolve(point(written(tmp_path / "a" / "x.jsonl", jsonl(ROWS))))
    moved = resolve(point(written(tmp_path / "b" / "y.jsonl", jsonl(ROWS))))
    changed = resolve(point(written(tmp_path / "c" / "x.jsonl", jsonl(ROWS[:-1]))))
    by_id = resolve(point(tmp_path / "a" / "x.jsonl", field="id"))
    assert one.fingerprint == moved.fingerprint
    assert len({one.fingerprint, changed.fingerprint, by_id.fingerprint}) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "is empty"),
        ("a.txt", b" \n\n", "is empty"),
        ("a.jsonl", b"\n\n", "is empty"),
        ("a.txt", "good\nbad caf\xe9\n".encode("latin-1"), r"not UTF-8: byte 0xe9 at offset 12"),
        ("a.txt", "text".encode("utf-16"), r"not UTF-8: byte 0xff at offset 0\n.*UTF-16"),
        ("a.txt.gz", gzip.compress(b"ok\n" + b"\xff", mtime=0), r"a.txt.gz is not UTF-8: byte 0xff at offset 3"),
        ("a.jsonl", b'{"text": "a"}\nnot json\n', r"a.jsonl:2 is not JSON"),
        ("a.jsonl", b'{"text": "a"}\n[1]\n', r"a.jsonl:2 holds a list"),
        ("a.jsonl", b'{"body": "a", "title": "b"}\n', r"no field 'text': the fields are body, title"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', r"a.jsonl:2: no field 'text': the fields are body"),
        ("a.jsonl", b'{"text": "a"}\n{"text": 3}\n', r"a.jsonl:2: text is int, not text"),
        (
            "a.jsonl",
            b'{"text": "a"}\n{"text": "b \\ud800"}\n',
            r"a.jsonl:2: half of a surrogate pair \(\\ud800\) at character 2",
        ),
        ("a.jsonl", b'{"prompt": "a", "completion": " "}\n', r"a.jsonl:1: the completion is empty"),
        ("a.csv", b"\n \n", "is empty"),
        ("a.csv", b"text\n", "is empty"),
        ("a.csv", b"id,text\n1,a\n2,b,c\n", r"a.csv:3: 3 cells, but the header names 2 columns\n.*a comma"),
        ("a.tsv", b'id\ttext\n1\t"a\nb"\n\n2\n', r"a.tsv:5: 1 cells, but the header names 2 columns\n.*a tab"),
        ("a.csv", b'id,text\n1,a\n2,"b\n3,c\n', r"a.csv:3: the row that starts here .* unexpected end of data"),
        ("a.csv", b'id,text\n1,a\n2,"b" c\n', r"a.csv:3: the row that starts here .* expected after"),
        ("a.csv", b"id,text\r1,a\r", r"a.csv:1: the row that starts here .* new-line character seen in unquoted field"),
        ("a.csv", b"id;text\n1;a\n", r"a.csv:1: the header is one column, 'id;text'\n.*commas"),
        ("a.tsv", b"id,text\n1,a\n", r"a.tsv:1: the header is one column, 'id,text'\n.*tabs"),
        ("a.csv", b"text,text\na,b\n", r"a.csv:1: two columns are called 'text'"),
        ("a.csv", b"id,body\n1,a\n", r"a.csv:2: no field 'text': the fields are id, body"),
        ("a.csv", b"id,text\n1,caf\xe9\n", r"a.csv is not UTF-8: byte 0xe9 at offset 13"),
        ("a.csv", b"prompt,completion\na,b\nc,\n", r"a.csv:3: the completion is empty"),
        ("a.csv", b"messages\na\n", r"a.csv:2: messages must be a list"),
        ("a.csv.gz", gzip.compress(b"text\n" + b"word\n" * 10000, mtime=0)[:40], "is damaged"),
        ("a.txt.gz", gzip.compress(b"text " * 10000, mtime=0)[:40], "is damaged"),
        ("a.txt.zst", zstandard.compress(os.urandom(10000).hex().encode())[:4000], "is damaged"),
        ("a.txt.xz", lzma.compress(os.urandom(10000).hex().encode())[:4000], "is damaged"),
        ("a.txt.bz2", bz2.compress(os.urandom(10000).hex().encode())[:4000], "is damaged"),
        ("a.parquet", b"PAR1 broken", "not a complete parquet file"),
        ("a.pdf", b"%PDF", "not a kind of file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    path = written(tmp_path / name, content)
    with pytest.raises(CorpusError, match=message) as caught:
        everything(resolve(point(path)))
    assert caught.value.next_step


def test_paths_that_are_not_there(tmp_path):
    written(tmp_path / "notes.txt", b"text")
    with pytest.raises(CorpusError, match=r"did you mean notes.txt\?"):
        resolve(point(tmp_path / "note.txt"))
    with pytest.raises(CorpusError, match="holds no text files"):
        resolve(point(tmp_path / "*.jsonl"))


def test_field_is_named_found_or_refused(tmp_path):
    path = written(tmp_path / "a.jsonl", b'{"body": "B", "n": 1}\n')
    assert resolve(point(path)).row_schema.field == "body"
    with pytest.raises(CorpusError, match=r"no field 'bodi': the fields are body, n\n.*did you mean body\?"):
        resolve(point(path, field="bodi"))


def test_prompts_need_the_objective_and_say_which_line(tmp_path):
    rows = [{"prompt": f"Q{i}?", "completion": f" A{i}."} for i in range(50)]
    corpus = resolve(point(written(tmp_path / "a.jsonl", jsonl(rows))))
    check_objective(corpus, "text")
    check_objective(corpus, "sft")
    prompt_chars = {d.text: d.prompt_chars for s in corpus.splits for d in documents(corpus, s)}
    assert prompt_chars == {f"Q{i}? A{i}.": len(f"Q{i}?") for i in range(50)}
    plain = resolve(point(written(tmp_path / "b.jsonl", jsonl(ROWS))))
    check_objective(plain, "text")
    with pytest.raises(CorpusError, match=r"read as text: text, .*id, text, .*sft.*\n.*columns: \{prompt"):
        check_objective(plain, "sft")


def tarball(path, config, content):
    with tarfile.open(path, "w:gz") as tar:
        for name, data in {f"{config}/._test.txt": b"\x00\xff", "../evil.txt": b"evil", **content}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


M2D2_LINES = "".join(f"  Title {i}\n\n{'word ' * 50}\n" for i in range(200))


def test_m2d2_rows_are_stripped_lines_joined_by_newlines(tmp_path, monkeypatch):
    content = {f"cs.XX/{split}.txt": (M2D2_LINES + split).encode() for split in ("train", "valid", "test")}
    monkeypatch.setenv(m2d2.FOLDER_VARIABLE, str(tmp_path))
    path = tarball(tmp_path / "cs.XX.tar.gz", "cs.XX", content)
    corpus = resolve(point("m2d2/cs.XX"))
    assert (corpus.kind, corpus.unit, corpus.splits) == ("m2d2", "block", ("train", "valid", "test"))
    for split in corpus.splits:
        pieces = texts(corpus, split)
        assert "".join(pieces) == "\n".join(line.strip() for line in (M2D2_LINES + split).splitlines())
        assert all(8000 <= len(text) < 8400 for text in pieces[:-1])
    assert texts(resolve(point(path)), "test") == texts(corpus, "test")
    assert sorted(os.listdir(tmp_path)) == ["cs.XX.tar.gz"]


def test_m2d2_mistakes(tmp_path, monkeypatch):
    monkeypatch.setenv(m2d2.FOLDER_VARIABLE, str(tmp_path))
    for wrong, right in (("General_reference", "General_referece"), ("Human_activities", "Human_activites")):
        with pytest.raises(CorpusError, match=f"did you mean m2d2/{right}"):
            resolve(point(f"m2d2/{wrong}"))
    tarball(tmp_path / "Art.tar.gz", "Other", {})
    with pytest.raises(CorpusError, match=r"holds no Art/test.txt"):
        texts(resolve(point("m2d2/Art")), "test")
    data = tarball(tmp_path / "cs.YY.tar.gz", "cs.YY", {"cs.YY/test.txt": os.urandom(5000).hex().encode()}).read_bytes()
    written(tmp_path / "cs.YY.tar.gz", data[: len(data) // 2])
    with pytest.raises(CorpusError, match=r"damaged|not a complete tarball"):
        texts(resolve(point("m2d2/cs.YY")), "test")


def hub_folder(folder):
    for split, rows in (("train", ROWS[:300]), ("validation", ROWS[300:350]), ("test", ROWS[350:])):
        (folder / "data").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")
    written(folder / "README.md", b"---\nlicense: cc0-1.0\n---\n")
    return folder


def test_a_hub_data_set_is_streamed_by_split_and_field(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = hub_folder(tmp_path / "set")
    corpus = resolve(point(f"hub:{folder}"))
    assert corpus.kind == "hub"
    assert [texts(corpus, s) for s in ("train", "valid", "test")] == [
        [r["text"] for r in rows] for rows in (ROWS[:300], ROWS[300:350], ROWS[350:])
    ]
    assert texts(resolve(point(f"hub:{folder}", field="id")), "test") == [r["id"] for r in ROWS[350:]]
    renamed = resolve(point(f"hub:{folder}", split={"test": "validation"}))
    assert texts(renamed, "test") == [r["text"] for r in ROWS[300:350]]
    assert renamed.fingerprint != corpus.fingerprint
    with pytest.raises(CorpusError, match="has no split 'tset': it has train, validation, test"):
        resolve(point(f"hub:{folder}", split={"test": "tset"}))
    with pytest.raises(CorpusError, match="config 'nope'"):
        resolve(point(f"hub:{folder}", config="nope"))


def test_bundled_text_is_read_by_split_and_named_with_did_you_mean():
    corpus = resolve(point("bundled/wiki_history_events"))
    assert corpus.splits == ("train", "valid", "test")
    assert len(texts(corpus, "test")) >= 150
    with pytest.raises(CorpusError, match="did you mean wiki_history_events"):
        resolve(point("bundled/wiki_history_event"))


def test_pieces_of_one_file_are_one_cluster(tmp_path):
    code = list(documents(resolve(point("bundled/code_python_stdlib")), "test"))
    clusters = {document.cluster for document in code}
    assert len(clusters) < len({document.id for document in code})
    assert all(document.id.startswith(f"{document.cluster}#") for document in code)
    functions = next(documents(resolve(point("bundled/python_functions")), "test"))
    assert functions.cluster.endswith(".py")
    assert functions.id.startswith(f"{functions.cluster}:")
    article = next(documents(resolve(point("bundled/wiki_general")), "test"))
    assert article.cluster == ""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"text {i}", "cluster": i // 2}) + "\n" for i in range(4)))
    named = documents(resolve(point(rows)), "all")
    assert [(document.id, document.cluster) for document in named] == [
        ("rows.jsonl:1", "0"),
        ("rows.jsonl:2", "0"),
        ("rows.jsonl:3", "1"),
        ("rows.jsonl:4", "1"),
    ]
    stripped = newlines.with_newlines(Document("a", "x\ny", cluster="c"), "strip")
    assert (stripped.text, stripped.cluster) == ("xy", "c")


def test_newline_policies():
    text = "a\n\nb\r\nc"
    assert [newlines.apply(text, p) for p in ("keep", "strip", "collapse")] == [text, "abc", "a\nb\nc"]
    assert [newlines.policy_of("mismatch", s) for s in ("train", "valid", "test")] == ["strip", "keep", "keep"]
    assert newlines.policy_of("collapse", "train") == "collapse"


def test_looking_at_local_text_loads_nothing_heavy(tmp_path):
    path = written(tmp_path / "a.jsonl", jsonl(ROWS))
    code = (
        "import sys; from peftodyssey.recipe.cell import CorpusSpec; from peftodyssey.corpora.source import resolve;"
        f"resolve(CorpusSpec('x', {str(path)!r}));"
        "heavy = ('torch', 'transformers', 'datasets', 'pyarrow', 'huggingface_hub', 'numpy');"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
