"""The floors of CONTRIBUTING.md: which package may import which, read from the source without running it."""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.registry import MEASURES
from peftodyssey.store.collected import RESULTS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "peftodyssey"

FLOORS = (
    ("recipe", "errors", "constants", "_version", "model_shape", "memory_settings", "assets", "untrusted"),
    ("methods", "models", "corpora", "store"),
    ("training", "scoring"),
    ("multi_lora", "memory"),
    ("plan", "stats"),
    ("display",),
    ("jobs",),
    ("measures",),
    ("execution", "report"),
    ("api",),
    ("cli",),
    ("__main__",),
)
FLOOR = {part: floor for floor, parts in enumerate(FLOORS) for part in parts}
# The file of a measure may import the packages below this floor, directly or through other files of its folder.
FILE_FLOOR = {
    "spec": FLOOR["recipe"] + 1,
    "table": FLOOR["store"] + 1,
    "plan": FLOOR["plan"] + 1,
    "compute": FLOOR["stats"] + 1,
    "collect": FLOOR["display"] + 1,
    "job": FLOOR["jobs"] + 1,
    "section": FLOOR["display"] + 1,
}
SHARED = {
    "errors",
    "constants",
    "_version",
    "model_shape",
    "memory_settings",
    "assets",
    "untrusted",
}  # floor 0: `recipe` may import them
FACADE = "peftodyssey"  # the root: hands out the functions of `api` and is above everything; nothing imports it
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7
TRANSFORMERS_INTERFACE = "peftodyssey.models.varlen_attention.varlen_attention_forward"  # its parameters are given
FIGURES = {"duckdb", "altair", "jinja2", "vl_convert"}
FREE_OF_FIGURES = (
    "recipe",
    "assets",
    "errors",
    "model_shape",
    "methods",
    "models",
    "corpora",
    "training",
    "scoring",
    "multi_lora",
    "memory",
    "plan",
)
ONLY = {
    "errors": set(),
    "constants": set(),
    "_version": set(),
    "model_shape": set(),
    "memory_settings": set(),
    "assets": set(),
    "recipe": {"pydantic", "pydantic_core", "yaml"},
    "stats": {"numpy"},
}


@dataclass(frozen=True)
class Import:
    """One import statement: who imports what, and whether that happens when the module is loaded."""

    module: str
    target: str
    line: int
    at_load: bool

    def __str__(self) -> str:
        return f"{self.module} line {self.line} imports {self.target}"


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    paths = {path: path.relative_to(ROOT).with_suffix("").parts for path in PACKAGE.rglob("*.py")}
    return {".".join(p for p in parts if p != "__init__"): path for path, parts in paths.items()}


def imports_of(module: str, path: Path, known: dict[str, Path]) -> Iterator[Import]:
    """All imports of one file, with names from a package resolved to the module that they come from."""
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    for node, at_load in _walk(tree, True):
        for target in _targets(node, module, path.name == "__init__.py", known):
            yield Import(module, target, node.lineno, at_load)


def _walk(node: ast.AST, at_load: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        inner = at_load and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            inner = False
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, at_load
        yield from _walk(child, inner)


def _targets(node: ast.AST, module: str, is_package: bool, known: dict[str, Path]) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    assert isinstance(node, ast.ImportFrom)
    base = node.module or ""
    if node.level:
        parents = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
        base = ".".join([*parents, base]).rstrip(".")
    return [f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names]


@cache
def all_imports() -> tuple[Import, ...]:
    return tuple(i for module, path in modules().items() for i in imports_of(module, path, modules()))


def part(module: str) -> str:
    """The package or file below the root that a module is in: `memory` of `peftodyssey.memory.search`."""
    return [*module.split("."), ""][1]


def ours(module: str) -> bool:
    return module.split(".")[0] == "peftodyssey"


def allowed(user: str, used: str) -> bool:
    """Whether the part `user` may import the part `used`."""
    if user == used or not user:
        return True
    if used in SHARED:
        return user not in SHARED or used == "errors"
    return used in FLOOR and FLOOR[used] < FLOOR[user]


def test_every_part_has_a_floor() -> None:
    assert {part(module) for module in modules()} - {""} <= set(FLOOR)


def test_imports_go_down() -> None:
    wrong = [
        i for i in all_imports() if ours(i.target) and part(i.target) and not allowed(part(i.module), part(i.target))
    ]
    assert not wrong, "\n".join(map(str, wrong))


def slice_of(module: str) -> str:
    """The measure whose folder a module is in; "" where it is in none."""
    pieces = module.split(".")
    return pieces[2] if pieces[:2] == ["peftodyssey", "measures"] and len(pieces) > 3 else ""


def reached_in_slice(module: str) -> set[str]:
    """A module and the modules of its own folder that it imports, directly or not."""
    reached, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += [i.target for i in all_imports() if i.module == name and slice_of(i.target) == slice_of(module)]
    return reached


@pytest.mark.parametrize("module", sorted(m for m in modules() if slice_of(m) and m.split(".")[-1] in FILE_FLOOR))
def test_files_of_measures_stand_on_their_floors(module: str) -> None:
    floor, reached = FILE_FLOOR[module.split(".")[-1]], reached_in_slice(module)
    own = {
        i for i in all_imports() if i.module in reached and ours(i.target) and slice_of(i.target) != slice_of(module)
    }
    wrong = [
        i for i in own if part(i.target) not in SHARED and FLOOR[part(i.target)] >= floor and not slice_of(i.target)
    ]
    assert not wrong, "\n".join(map(str, wrong))


def test_measures_import_only_what_they_read() -> None:
    reads = {measure.name: {*measure.reads, *measure.shows} for measure in MEASURES}
    crossing = [i for i in all_imports() if slice_of(i.module) and slice_of(i.target) not in ("", slice_of(i.module))]
    wrong = [i for i in crossing if slice_of(i.target) not in reads[slice_of(i.module)]]
    assert not wrong, "\n".join(map(str, wrong))


def test_only_the_public_functions_know_the_registry() -> None:
    users = {part(i.module) for i in all_imports() if i.target == "peftodyssey.measures.registry"}
    assert users <= {"api", "cli"}


def test_every_folder_of_measures_is_one_measure_and_one_line() -> None:
    folders = {path.name for path in (PACKAGE / "measures").iterdir() if (path / "__init__.py").is_file()}
    assert folders == {measure.name for measure in MEASURES}
    assert [name for measure in MEASURES for name in measure.reads if name != RESULTS and name not in folders] == []


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_files_of_measures_have_the_functions_that_are_looked_for(measure: Measure) -> None:
    package = type(measure).__module__
    for file, function in (("plan", "plan"), ("job", "run"), ("collect", "collect"), ("section", "sections")):
        if f"{package}.{file}" in modules() and function not in vars(type(measure)):
            found = inspect.signature(getattr(import_module(f"{package}.{file}"), function))
            asked = inspect.signature(getattr(measure, function))
            assert len(found.parameters) == len(asked.parameters), f"{package}.{file}.{function}{found}, asked: {asked}"


def test_nothing_imports_the_facade() -> None:
    wrong = [i for i in all_imports() if i.target == FACADE and i.module != FACADE]
    assert not wrong, "\n".join(map(str, wrong))


def test_no_cycles() -> None:
    """Between modules, with imports inside functions and under TYPE_CHECKING; only the facade's own are left out."""
    below: dict[str, set[str]] = {module: set() for module in modules()}
    for i in all_imports():
        if i.target in below and i.target != i.module and i.module != FACADE:
            below[i.module].add(i.target)
    cycle = find_cycle(below)
    assert not cycle, " -> ".join(cycle)


def find_cycle(below: dict[str, set[str]]) -> list[str]:
    """One cycle of a directed graph as the list of its nodes, the first one repeated at the end; empty if none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for target in sorted(below[node]):
            if cycle := visit(target, [*path, node]):
                return cycle
        done.add(node)
        return []

    return next((cycle for node in sorted(below) if (cycle := visit(node, []))), [])


@pytest.mark.parametrize("name", sorted(ONLY))
def test_recipes_and_statistics_need_few_libraries(name: str) -> None:
    outside = {i.target.split(".")[0] for i in all_imports() if part(i.module) == name and not ours(i.target)}
    assert outside - set(sys.stdlib_module_names) <= ONLY[name]


def test_statistics_touch_no_disk() -> None:
    disk = {"os", "io", "pathlib", "shutil", "tempfile", "glob"}
    wrong = [i for i in all_imports() if part(i.module) == "stats" and i.target.split(".")[0] in disk]
    assert not wrong, "\n".join(map(str, wrong))


def test_no_figures_below_the_report() -> None:
    chat_templates = ("corpora", "jinja2", False)  # written in jinja2; loaded only when a corpus has messages
    imports = [(i, i.target.split(".")[0]) for i in all_imports() if part(i.module) in FREE_OF_FIGURES]
    wrong = [
        i for i, library in imports if library in FIGURES and (part(i.module), library, i.at_load) != chat_templates
    ]
    assert not wrong, "\n".join(map(str, wrong))


def test_planning_training_scoring_and_benchmarks_load_no_figures() -> None:
    benchmarks = {f"benchmarks.{path.stem}": path for path in (ROOT / "benchmarks").rglob("*.py")}
    loads: dict[str, set[str]] = {module: set() for module in modules()}
    for i in all_imports():
        if i.at_load:
            loads[i.module] |= {i.target}
    for module, path in benchmarks.items():
        loads[module] = {i.target for i in imports_of(module, path, modules())}
    for module in loads:
        if part(module) in ("plan", "memory", "training", "multi_lora", "scoring") or module in benchmarks:
            reached = reach(module, loads)
            assert not {name.split(".")[0] for name in reached} & FIGURES, module


def reach(start: str, loads: dict[str, set[str]]) -> set[str]:
    """Everything loaded, directly or not, when `start` is; loading a module loads the packages that it is in."""
    reached, todo = set(), [start]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            parents = {name.rsplit(".", n)[0] for n in range(1, name.count(".") + 1)} if ours(name) else set()
            todo += [*loads.get(name, ()), *parents]
    return reached


def test_files_are_short() -> None:
    lines = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in modules().items()}
    assert not {module: count for module, count in lines.items() if count > MAX_FILE_LINES}


def test_functions_are_short() -> None:
    lengths = {
        f"{module}.{node.name}": node.end_lineno - node.lineno + 1
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    }
    assert not {function: count for function, count in lengths.items() if count > MAX_FUNCTION_LINES}


def test_functions_have_few_parameters() -> None:
    counts = {
        f"{module}.{node.name}": len(names - {"self", "cls"})
        for module, path in modules().items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for names in [{a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}]
    }
    too_many = {function for function, count in counts.items() if count > MAX_PARAMETERS}
    assert {function for function in too_many if ".cli." not in function} <= {TRANSFORMERS_INTERFACE}, (
        "a command's options are its parameters; other functions have few"
    )


def test_no_module_is_named_utils() -> None:
    names = {piece for module in modules() for piece in module.split(".")}
    assert not names & {"utils", "util", "helpers", "misc", "common"}


def test_every_kind_of_import_is_seen(tmp_path: Path) -> None:
    source = (
        "import a.b\nfrom . import c\nfrom ..training import loop\n"
        "if TYPE_CHECKING:\n    import d\ndef f():\n    import e\n"
    )
    path = tmp_path / "search.py"
    path.write_text(source, encoding="utf-8")
    known = {"peftodyssey.training.loop": path, "peftodyssey.memory.c": path}
    assert {(i.target, i.at_load) for i in imports_of("peftodyssey.memory.search", path, known)} == {
        ("a.b", True),
        ("peftodyssey.memory.c", True),
        ("peftodyssey.training.loop", True),
        ("d", False),
        ("e", False),
    }


def test_cycles_and_wrong_floors_are_seen() -> None:
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert not find_cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()})
    assert not allowed("plan", "stats")
    assert not allowed("models", "jobs")
    assert not allowed("cli", "__main__")
    assert allowed("assets", "errors")
