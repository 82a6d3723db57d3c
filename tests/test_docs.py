"""The documentation against the program: generated pages, command lines, links, names of recipes."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
import typer
from support.plans import load_recipe

from peftodyssey.cli.main import app
from peftodyssey.measures.registry import SPECS, document
from peftodyssey.recipe import bundled, reference
from peftodyssey.recipe.field_types import RecipeSection
from peftodyssey.recipe.schema import Recipe, recipe_class
from peftodyssey.recipe.schema_ladder import LadderRecipe
from peftodyssey.recipe.schema_texts import Columns, Corpus, Split

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
DOC_PAGES = tuple(page for page in sorted(DOCS.glob("*.md")) if page.name != "renamed.md")  # that one is of old names
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOC_PAGES)
WRITTEN = {"recipes.md", "tables.md"}
LOCAL = re.compile(r"!?\[[^\]]*\]\((?!https?://|#)([^)#\s]+)(#[^)]*)?\)")
COMMAND = re.compile(r"^\s*(?:\$ )?peftodyssey\b.*$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
VERB = re.compile(r"peftodyssey [a-z]+\b")


@cache
def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def command_lines(markdown: str) -> list[str]:
    """Every `peftodyssey ...` line of the plain code blocks, and every inline one."""
    blocks = "\n".join(body for language, body in FENCE.findall(markdown) if language in ("", "bash", "sh", "console"))
    inline = [code for code in INLINE.findall(FENCE.sub("", markdown)) if VERB.match(code)]
    return [line.strip().removeprefix("$ ") for line in COMMAND.findall(blocks)] + inline


COMMANDS = [(page.name, line) for page in PAGES for line in command_lines(text(page))]


def parse(line: str) -> None:
    """Parses a command line without running it; raises what the command line would say where it is wrong.

    Arguments may be left out, as in a verb that is named in passing. Typer may bring its own copy of click.
    """
    command, words = typer.main.get_command(app), shlex.split(line)[1:]
    while hasattr(command, "commands") and words:
        assert words[0] in command.commands, f"there is no {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    try:
        if not hasattr(command, "commands"):
            command.make_context(command.name, words)
    except Exception as error:
        if type(error).__name__ != "MissingParameter":
            raise


def test_the_recipe_reference_is_that_of_the_schema() -> None:
    assert text(DOCS / "recipes.md") == document("recipes")


def test_the_table_reference_is_that_of_the_tables() -> None:
    assert text(DOCS / "tables.md") == document("tables")


def parts_below(annotation: object) -> set[type[RecipeSection]]:
    """Every class of the schema that an annotation leads to."""
    if isinstance(annotation, type) and issubclass(annotation, RecipeSection):
        below = (parts_below(field.annotation) for field in annotation.model_fields.values())
        return {annotation}.union(*below)
    return set().union(*(parts_below(inner) for inner in get_args(annotation)), set())


def test_the_recipe_reference_has_every_class_and_key() -> None:
    documented = {part for _, part in reference.sections(SPECS)}
    assert parts_below(recipe_class(SPECS)) == documented | set(reference.WRITTEN_AS_VALUES)
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.+) \|$", document("recipes"), re.MULTILINE)
    assert [name for name, _, _ in rows if name in Recipe.model_fields][: len(Recipe.model_fields)] == list(
        Recipe.model_fields
    )
    ladders = {part for _, part in reference.LADDER_SECTIONS}
    assert parts_below(LadderRecipe) == ladders | {Columns, Corpus, Split}
    assert len(rows) == sum(len(part.model_fields) for part in documented | ladders)
    assert all(meaning.strip() and meaning != "None" for _, _, meaning in rows)


def test_forms_in_the_recipe_reference_are_read_as_they_stand() -> None:
    forms = {"1.5M": 1_500_000, "2B": 2_000_000_000, "200k": 200_000}
    smallest = "model: bundled/odyssey-3m\ndomains: [bundled/arxiv_cs.CL]\nmethods: [lora]\n"
    for written, number in forms.items():
        assert f"`{written}`" in reference.OPENING
        assert load_recipe(f"{smallest}score: {{tokens: {written}}}\n").score.tokens == number
    for budget in ("200k tokens", "2 epochs", "300 steps"):
        assert f"`{budget}`" in reference.OPENING
        assert load_recipe(f"{smallest}train: {{budget: {budget}}}\n").train.budget[0].unit == budget.split()[1]


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 20
    assert {"README.md", "questions.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(
    "line",
    ["peftodyssey fly", "peftodyssey run x --no-such", "peftodyssey recipes sing", "peftodyssey plan --rank many"],
)
def test_a_wrong_command_line_is_seen(line: str) -> None:
    with pytest.raises(Exception, match=r"fly|such|sing|integer"):
        parse(line)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_command_lines_parse(page: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link, _ in LOCAL.findall(text(page)) if not (page.parent / link).exists()]
    assert not missing


def test_every_page_is_reached_from_the_readme() -> None:
    linked = {(ROOT / link).resolve() for link, _ in LOCAL.findall(text(ROOT / "README.md"))}
    assert {page.resolve() for page in DOC_PAGES} <= linked


LAW = re.compile(r"^## (\d+)\. .*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
CITED = re.compile(r"\blaws? (\d+)(?: and (\d+))?", re.IGNORECASE)


def laws() -> dict[int, list[tuple[str, str]]]:
    """The laws of docs/guarantees.md by number: files and names of the tests that hold them."""
    return {int(law[1]): TEST.findall(law[0]) for law in LAW.finditer(text(DOCS / "guarantees.md"))}


def test_every_law_has_tests_that_exist() -> None:
    assert list(laws()) == list(range(1, len(laws()) + 1))
    for number, named in laws().items():
        assert named, number
        for file, name in named:
            assert re.search(rf"^def {name}\(", text(ROOT / file), re.MULTILINE), f"law {number}: {file}::{name}"


def test_a_law_that_a_test_cites_lists_the_file_of_that_test() -> None:
    citations = 0
    for path in (ROOT / "tests").rglob("test_*.py"):
        for match in CITED.finditer(text(path)):
            file, numbers = str(path.relative_to(ROOT)), [int(number) for number in match.groups() if number]
            if path != Path(__file__):
                citations += len(numbers)
                assert all(file in dict(laws()[number]) for number in numbers), f"{file}: {match.group()}"
    assert citations > 8


def test_shipped_recipes_that_are_named_exist() -> None:
    known = {name for name, _ in (*bundled.names(), *bundled.ladders())}
    named = {
        found
        for page in PAGES
        for pattern in (r"recipes/([\w-]+)\.yaml", r"peftodyssey recipes (?:show|copy) ([\w-]+)")
        for found in re.findall(pattern, text(page))
    }
    assert "quickstart" in named
    assert named <= known


def test_files_and_make_targets_that_are_named_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", text(ROOT / "Makefile"), re.MULTILINE))
    for page in PAGES:
        if page.name == "renamed.md":  # its first column names what is gone
            continue
        codes = INLINE.findall(FENCE.sub("", text(page)))
        for code in codes:
            if target := re.fullmatch(r"make ([a-z-]+)", code):
                assert target[1] in targets, f"{page.name}: {code}"
            if re.fullmatch(r"[a-z_]+(?:/[a-z_]+)*\.py", code):
                places = (ROOT, ROOT / "peftodyssey", ROOT / "benchmarks", *(ROOT / "peftodyssey/measures").iterdir())
                assert any((place / code).exists() for place in places), f"{page.name}: {code}"


def test_the_readme_is_short_and_names_the_test_command() -> None:
    readme = text(ROOT / "README.md")
    assert len(readme.splitlines()) <= 220
    assert "\nmake test\n" in readme
    assert "-m pytest" in text(ROOT / "Makefile").split("\ntest: .venv")[1].split("\n")[1]
    assert "`.venv/bin/python -m pytest`" in readme


def test_yaml_in_the_pages_is_a_list_of_methods_or_a_recipe() -> None:
    blocks = [body for page in PAGES for language, body in FENCE.findall(text(page)) if language == "yaml"]
    assert blocks
    for body in blocks:
        if body.startswith("version:"):
            load_recipe(body)
            continue
        lines = "\n".join(f"  {line}" for line in body.splitlines())
        load_recipe(f"model: bundled/odyssey-3m\ndomains: [bundled/arxiv_cs.CL]\nmethods:\n{lines}\n")
