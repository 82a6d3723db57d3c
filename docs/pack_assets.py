"""Packs models and corpora into `peftodyssey/assets/data`: `python docs/pack_assets.py SOURCE` (needs `tokenizers`).

SOURCE holds `models/odyssey-3m/` and `corpora/{domains,general,tasks}/` and `corpora/pretrain_sample.jsonl.gz`, where
every record is {id, text, source}. Run once by whoever changes the assets; what it does to the texts is told in NOTICE.
Every choice among documents is by the hash of their id, so the same source gives the same bytes.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import lzma
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from peftodyssey.assets import bf16_codec

Record = dict[str, Any]
DATA = Path(__file__).parent.parent / "peftodyssey" / "assets" / "data"
MODEL = "odyssey-3m"
WIKI = ("wiki_culture_arts", "wiki_history_events", "wiki_mathematics_logic", "wiki_physical_sciences")
ARXIV = ("arxiv_cs.CL", "arxiv_math.AG", "arxiv_quant-ph")
CODE = "code_python_stdlib"
TASKS = {  # records kept of train and test
    "arc_easy": (1500, 500),
    "arxiv_field": (2000, 500),
    "boolq": (600, 300),
    "gsm8k": (1500, 400),
}
TEST_TOKENS, TRAIN_TOKENS, TRAIN_SPLIT_TOKENS = 640, 8_000, 440_000
CODE_TOKENS, CODE_PIECES = 900, 3
ARXIV_VALID = 200
FUNCTION_TOKENS, FUNCTIONS = 1_000, (1300, 200)
PRETRAIN_TOKENS, PRETRAIN_SPLIT_TOKENS = 4_000, 440_000


def main(source: Path) -> None:
    shutil.rmtree(DATA, ignore_errors=True)
    models = {MODEL: _model(source / "models" / MODEL, DATA / "models" / MODEL)}
    tokenizer = Tokenizer.from_file(str(source / "models" / MODEL / "tokenizer.json"))

    def count(text: str) -> int:
        return len(tokenizer.encode(text, add_special_tokens=False).ids)

    corpora = {name: _write(name, kind, splits) for name, kind, splits in _corpora(source / "corpora", count)}
    checksums = {"models": models, "corpora": dict(sorted(corpora.items()))}
    (DATA.parent / "checksums.json").write_text(json.dumps(checksums, indent=1) + "\n", encoding="utf-8")


def _corpora(folder: Path, count: Callable[[str], int]) -> Iterator[tuple[str, str, dict[str, list[Record]]]]:
    for name in WIKI:
        yield name, "domain", wiki(_splits(folder / "domains" / name), count)
    for name in ARXIV:
        yield name, "domain", arxiv(_splits(folder / "domains" / name), count)
    yield CODE, "domain", code(_splits(folder / "domains" / CODE), count)
    general = {split: _read(folder / "general" / "wiki" / f"{split}.jsonl.gz") for split in ("valid", "test")}
    yield (
        "wiki_general",
        "general",
        {split: _cut_all(rows, TEST_TOKENS, count) for split, rows in general.items()},
    )
    sample = _without(_read(folder / "pretrain_sample.jsonl.gz"), folder)
    sample = _cut_all(_shuffled(sample), PRETRAIN_TOKENS, count)
    yield "pretrain_sample", "pretraining", {"train": _up_to(sample, PRETRAIN_SPLIT_TOKENS, count)}
    for name, (train, test) in TASKS.items():
        rows = {split: _read(folder / "tasks" / name / f"{split}.jsonl.gz") for split in ("train", "test")}
        yield (
            name,
            "task",
            {"train": _shuffled(rows["train"])[:train], "test": _shuffled(rows["test"])[:test]},
        )
    rows = {split: _read(folder / "tasks" / "python_functions" / f"{split}.jsonl.gz") for split in ("train", "test")}
    yield "python_functions", "task", functions(rows, count)


def wiki(splits: dict[str, list[Record]], count: Callable[[str], int]) -> dict[str, list[Record]]:
    """Whole articles move from train until test has 170 and valid 75; one piece, the beginning, of each."""
    rest = _shuffled(splits["train"])
    test = splits["test"] + [rest.pop() for _ in range(170 - len(splits["test"]))]
    valid = splits["valid"] + [rest.pop() for _ in range(75 - len(splits["valid"]))]
    return {
        "train": _up_to(_cut_all(rest, TRAIN_TOKENS, count), TRAIN_SPLIT_TOKENS, count),
        "valid": _cut_all(valid, TEST_TOKENS, count),
        "test": _cut_all(test, TEST_TOKENS, count),
    }


def arxiv(splits: dict[str, list[Record]], count: Callable[[str], int]) -> dict[str, list[Record]]:
    """Titles and abstracts as they are; valid and train shortened by whole documents."""
    train = _up_to(_shuffled(splits["train"]), TRAIN_SPLIT_TOKENS, count)
    return {"train": train, "valid": _shuffled(splits["valid"])[:ARXIV_VALID], "test": splits["test"]}


def code(splits: dict[str, list[Record]], count: Callable[[str], int]) -> dict[str, list[Record]]:
    """Files cut before top-level definitions; 80 files in test, 36 in valid, at most three pieces of a file there."""
    rest = _shuffled(splits["train"])
    test = splits["test"] + [rest.pop() for _ in range(80 - len(splits["test"]))]
    valid = splits["valid"] + [rest.pop() for _ in range(36 - len(splits["valid"]))]
    train = [piece for row in rest for piece in _pieces(row, count)]
    return {
        "train": _up_to(_shuffled(train), TRAIN_SPLIT_TOKENS, count),
        "valid": [piece for row in valid for piece in _shuffled(_pieces(row, count))[:CODE_PIECES]],
        "test": [piece for row in test for piece in _shuffled(_pieces(row, count))[:CODE_PIECES]],
    }


def functions(splits: dict[str, list[Record]], count: Callable[[str], int]) -> dict[str, list[Record]]:
    """Functions of at most 1,000 tokens; whole files move from train until test has 200."""
    short = {split: [row for row in rows if count(row["text"]) <= FUNCTION_TOKENS] for split, rows in splits.items()}
    test, rest = short["test"], short["train"]
    for file in sorted({_file(row) for row in rest}, key=lambda name: hashlib.sha256(name.encode()).hexdigest()):
        if len(test) >= FUNCTIONS[1]:
            break
        test = test + [row for row in rest if _file(row) == file]
        rest = [row for row in rest if _file(row) != file]
    return {"train": _shuffled(rest)[: FUNCTIONS[0]], "test": test}


def _file(row: Record) -> str:
    return row["id"].split(":")[1]


def _without(rows: list[Record], folder: Path) -> list[Record]:
    """The rows whose article is in no domain and not in the general text."""
    used = {row["id"] for name in WIKI for part in _splits(folder / "domains" / name).values() for row in part}
    used |= {row["id"] for part in ("valid", "test") for row in _read(folder / "general" / "wiki" / f"{part}.jsonl.gz")}
    return [row for row in rows if row["id"] not in used]


def _pieces(row: Record, count: Callable[[str], int]) -> list[Record]:
    """Runs of neighbouring top-level definitions of one file; the rest of a longer one is dropped."""
    lines = row["text"].splitlines(keepends=True)
    starts = [0, *_definition_lines(row["text"]), len(lines)]
    pieces: list[str] = []
    size = CODE_TOKENS
    for begin, end in pairwise(starts):
        part = "".join(lines[begin:end])
        tokens = count(part)
        if size + tokens > CODE_TOKENS:
            pieces.append("")
            size = 0
        pieces[-1] += part
        size += tokens
    texts = [cut(piece, CODE_TOKENS, count).strip("\n") + "\n" for piece in pieces if count(piece) >= 40]
    return [{**row, "id": f"{row['id']}#{i}", "text": text} for i, text in enumerate(texts)]


def _definition_lines(text: str) -> list[int]:
    """Index of the first line of every top-level definition, with its decorators and the comment above it."""
    lines = text.splitlines()
    starts = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            line = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
            while line > 0 and lines[line - 1].startswith("#"):
                line -= 1
            starts.append(line)
    return sorted(set(starts) - {0})


def cut(text: str, limit_tokens: int, count: Callable[[str], int]) -> str:
    """The longest beginning of `text` that ends at a line (in prose: a paragraph) and has at most `limit_tokens`."""
    if count(text) <= limit_tokens:
        return text
    lines = text.split("\n")
    low, high = 1, len(lines)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count("\n".join(lines[:middle])) <= limit_tokens else (low, middle)
    kept = lines[:low]
    while len(kept) > 2 and len(kept[-1]) < 40:  # a heading whose paragraph is gone, or an empty line
        kept.pop()
    return "\n".join(kept)


def _cut_all(rows: Iterable[Record], limit_tokens: int, count: Callable[[str], int]) -> list[Record]:
    """Beginnings of the documents; one whose first paragraph is longer than the limit, or that is left short, goes."""
    short = [{**row, "text": cut(row["text"], limit_tokens, count)} for row in rows]
    return [row for row in short if 60 <= count(row["text"]) <= limit_tokens]


def _up_to(rows: Iterable[Record], limit_tokens: int, count: Callable[[str], int]) -> list[Record]:
    kept, total = [], 0
    for row in rows:
        total += count(row["text"])
        if total > limit_tokens:
            break
        kept.append(row)
    return kept


def _shuffled(rows: Iterable[Record]) -> list[Record]:
    return sorted(rows, key=lambda row: hashlib.sha256(row["id"].encode()).hexdigest())


def _splits(folder: Path) -> dict[str, list[Record]]:
    return {split: _read(folder / f"{split}.jsonl.gz") for split in ("train", "valid", "test")}


def _read(path: Path) -> list[Record]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _write(name: str, kind: str, splits: dict[str, list[Record]]) -> dict[str, Any]:
    folder = DATA / "corpora" / name
    folder.mkdir(parents=True)
    entries = {}
    for split, rows in splits.items():
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")
        (folder / f"{split}.jsonl.xz").write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
        entries[split] = {**_entry(content), "documents": len(rows)}
    return {"kind": kind, "splits": entries}


def _model(source: Path, target: Path) -> dict[str, Any]:
    target.mkdir(parents=True)
    rungs = {}
    for path in sorted(source.glob("*.safetensors")):
        content = path.read_bytes()
        packed = bf16_codec.pack(content)
        assert bf16_codec.unpack(packed) == content, path
        (target / f"{path.name}.xz").write_bytes(packed)
        rungs[path.stem] = _entry(content)
    files = {}
    for name in ("README.md", "config.json", "ladder.json", "tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((source / name).read_bytes())
        files[name] = _entry((source / name).read_bytes())
    return {"files": files, "rungs": rungs}


def _entry(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
