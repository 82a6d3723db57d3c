"""PEFT's adapter types and the fields of their configs, read from the source of the installed package.

Neither PEFT nor torch is imported, so that `check` reports a misspelt type or field in milliseconds.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from peftodyssey.errors import MethodError

SET_BY_PEFT = (
    "task_type",
    "peft_type",
    "auto_mapping",
    "peft_version",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
)


@lru_cache(maxsize=1)
def config_fields_by_type() -> dict[str, tuple[str, ...]]:
    """{type in capitals: fields of its config} of the installed PEFT."""
    spec = find_spec("peft")
    if spec is None or spec.origin is None:
        raise MethodError("peft is not installed", "pip install peft")
    root = Path(spec.origin).parent
    files = [
        root / "config.py",
        *sorted((root / "tuners").glob("*.py")),
        *sorted((root / "tuners").glob("*/config.py")),
    ]
    fields = _config_fields(files)
    types: dict[str, tuple[str, ...]] = {}
    for package in sorted((root / "tuners").glob("*/__init__.py")):
        for name, config in _registered(ast.parse(package.read_text(encoding="utf-8"))):
            types[name.upper()] = tuple(f for f in fields.get(config, ()) if f not in SET_BY_PEFT)
    return types


def _registered(tree: ast.Module) -> list[tuple[str, str]]:
    """(name, config class) of each register_peft_method call in a package."""
    registered = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(call.func, ast.Name) and call.func.id == "register_peft_method":
            arguments = {k.arg: k.value for k in call.keywords}
            name, config = arguments.get("name"), arguments.get("config_cls")
            if isinstance(name, ast.Constant) and isinstance(config, ast.Name):
                registered.append((str(name.value), config.id))
    return registered


def _config_fields(files: list[Path]) -> dict[str, tuple[str, ...]]:
    """{class: names of its dataclass fields, those of its bases first}."""
    classes = {
        node.name: node
        for file in files
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    }

    def fields(name: str) -> tuple[str, ...]:
        node = classes.get(name)
        if node is None:
            return ()
        inherited = [f for base in node.bases if isinstance(base, ast.Name) for f in fields(base.id)]
        own = [s.target.id for s in node.body if isinstance(s, ast.AnnAssign) and isinstance(s.target, ast.Name)]
        return tuple(dict.fromkeys([*inherited, *own]))

    return {name: fields(name) for name in classes}
