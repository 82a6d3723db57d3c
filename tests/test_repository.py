"""The repository as a whole: its size, what its text may say, names in its text, and how its corpora are split."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from peftodyssey import assets

ROOT = Path(__file__).parent.parent
DOMAINS = tuple(name for name in assets.corpora() if assets.corpus_kind(name) == "domain")
MODEL = "odyssey-3m"


@cache
def tracked() -> tuple[Path, ...]:
    """Files that git tracks, or those of an unpacked source distribution."""
    if not (ROOT / ".git").exists():
        return tuple(
            path for path in ROOT.rglob("*") if path.is_file() and not set(path.parts) & {".venv", "__pycache__"}
        )
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    return tuple(path for name in listed.split("\0") if name and (path := ROOT / name).is_file())


@cache
def tracked_text() -> dict[Path, str]:
    texts = {}
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content[:8000]:
            texts[path] = content.decode("utf-8")
    return texts


@cache
def texts(name: str, split: str) -> tuple[str, ...]:
    with assets.open_corpus(name, split) as lines:
        return tuple(json.loads(line)["text"] for line in lines)


@cache
def token_counts(name: str, split: str) -> tuple[int, ...]:
    tokenizer = Tokenizer.from_file(str(assets.model_files(MODEL) / "tokenizer.json"))
    return tuple(len(e.ids) for e in tokenizer.encode_batch(list(texts(name, split)), add_special_tokens=False))


def test_the_tree_is_small() -> None:
    assert sum(path.stat().st_size for path in tracked()) < 50e6


MACHINE = re.compile(
    r"(?<![\w.])/(?:work|home|root|Users|opt|mnt|workspace|tmp)/[\w.-]|[A-Z]:\\Users"
    r"|(?:pypi|files\.pythonhosted|test\.pypi|download\.pytorch|conda\.anaconda)\.org|\bindex-url\b|\bfind-links\b"
)


def test_no_machine_and_no_registry_is_named() -> None:
    assert MACHINE.search("see /" + "home/someone/x")
    assert MACHINE.search("https://pypi." + "org/simple")
    assert not MACHINE.search("a/work/b or .venv/bin/python")
    named = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path, text in tracked_text().items()
        if path != Path(__file__)
        for match in MACHINE.finditer(text)
    }
    assert not named


def test_no_stub_is_left() -> None:
    word = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|raise NotImplemented" + r"Error)\b")
    stubs = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path, text in tracked_text().items()
        if path.suffix == ".py"
        for match in word.finditer(text)
    }
    assert not stubs


DOTTED = re.compile(r"\bpeftodyssey(?:\.[A-Za-z_]\w*)+(?::[A-Za-z_]\w*)?")
NOT_READ_FOR_NAMES = {
    "CHANGELOG.md",
    "renamed.md",
    "test_api.py",
    "test_floors.py",
    "test_repository.py",
}  # old or invented names


@cache
def package_modules() -> dict[str, Path]:
    files = {path: path.relative_to(ROOT).with_suffix("").parts for path in (ROOT / "peftodyssey").rglob("*.py")}
    return {".".join(part for part in parts if part != "__init__"): path for path, parts in files.items()}


@cache
def names_in(path: Path) -> set[str]:
    """Functions, classes, variables and imports of a module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.alias):
            names.add((node.asname or node.name).split(".")[-1])
    return names


def is_known(dotted: str) -> bool:
    """Whether `peftodyssey.a.b` is a module, or a name in the longest module that it starts with."""
    parts, modules = dotted.replace(":", ".").split("."), package_modules()
    depth = next(depth for depth in range(len(parts), 0, -1) if ".".join(parts[:depth]) in modules)
    return depth == len(parts) or parts[depth] in names_in(modules[".".join(parts[:depth])])


def test_dotted_names_in_text_and_strings_exist() -> None:
    """Code in strings, patches by name and documentation are seen by no renaming tool."""
    assert is_known("peftodyssey.store.layout.CELLS")
    assert not is_known("peftodyssey.store.no_such_module")
    unknown = {
        f"{path.relative_to(ROOT)}: {match.group()}"
        for path, text in tracked_text().items()
        if path.suffix in (".py", ".md", ".toml") and path.name not in NOT_READ_FOR_NAMES
        for match in DOTTED.finditer(text)
        if not is_known(match.group())
    }
    assert not unknown


@pytest.mark.parametrize("name", [name for name in assets.corpora() if "test" in assets.splits(name)])
def test_test_splits_carry_intervals(name: str) -> None:
    tokens = token_counts(name, "test")
    assert len(tokens) >= (100 if name == "wiki_general" else 150)
    assert max(tokens) <= 0.02 * sum(tokens)


@pytest.mark.parametrize("name", DOMAINS)
def test_domains_are_large_enough(name: str) -> None:
    assert sum(token_counts(name, "train")) >= 400_000
    assert sum(token_counts(name, "test")) >= 80_000
    assert sum(token_counts(name, "valid")) >= 35_000
    assert len(texts(name, "valid")) >= 60
    assert max(token_counts(name, "valid")) <= 0.02 * sum(token_counts(name, "valid"))


def test_no_text_is_in_two_splits() -> None:
    seen: dict[str, str] = {}
    for name in assets.corpora():
        for split in assets.splits(name):
            for text in texts(name, split):
                assert text not in seen, f"{name} {split} holds a text of {seen[text]}: {text[:80]!r}"
            seen |= dict.fromkeys(texts(name, split), f"{name} {split}")


def test_no_article_or_file_is_in_two_splits() -> None:
    seen: dict[str, str] = {}
    for name in (*DOMAINS, "wiki_general", "pretrain_sample"):
        for split in assets.splits(name):
            with assets.open_corpus(name, split) as lines:
                sources = {json.loads(line)["source"] for line in lines}
            assert not {source: seen[source] for source in sources if source in seen}, f"{name} {split}"
            seen |= dict.fromkeys(sources, f"{name} {split}")


def test_notice_names_every_asset() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    words = set(re.findall(r"[\w.-]+", notice))
    assert {*assets.corpora(), *assets.models()} <= words
    licences = {path.name for path in (ROOT / "peftodyssey" / "assets" / "licenses").iterdir()}
    assert licences <= words
    blocks = [set(re.findall(r"[\w.-]+", block)) for block in notice.split("\n\n")]
    for name in assets.corpora():
        assert any({name, "Licence", "Changes"} <= block for block in blocks), name
