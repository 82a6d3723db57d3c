"""Files of strangers: whatever is in them, the answer is a sentence, soon."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import micro

from peftodyssey.errors import InputError, ModelError, RecipeError, StoreError
from peftodyssey.measures.registry import SPECS
from peftodyssey.models.local_model import read_config
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.recipe import numbers
from peftodyssey.recipe.load import load_recipe
from peftodyssey.store import manifest, plans, sealed
from peftodyssey.untrusted.safetensors_header import read_header

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "max_position_embeddings": 128,
    "intermediate_size": 128,
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("what", ["a pipe", "a device", "50 MB", "many values", "nested", "aliases"])
def test_a_recipe_that_is_none_is_a_sentence(what: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a device":
        path = Path("/dev/zero")
    elif what == "50 MB":
        path.write_text("domains: [" + "x, " * (50 << 20 >> 2) + "]\n")
    elif what == "many values":
        path.write_text("domains: [" + "x, " * 100_000 + "]\n")
    elif what == "nested":
        path.write_text("domains: " + "[" * 100_000)
    else:
        path.write_text("a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(f"{c}: &{c} [*a, *a]\n" for c in "a" * 3000))
    for verb in ("check", "run", "plan"):
        ended = micro.invoke(verb, path)
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("key", [key for key in LLAMA if key != "model_type"])
@pytest.mark.parametrize("value", ["64", float("nan"), [64], 0, -5, 10**6 * 10**3, 10**400, True, 2.5, {}])
def test_a_config_that_cannot_be_is_a_sentence(key: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, key: value}))
    if key == "max_position_embeddings" and value == 10**9:
        return
    with pytest.raises(ModelError, match=key):
        shape_from_config(read_config(tmp_path))


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "{" * 10, "", "null", "[]", '"x"', '{"model_type": 5}', "\x00", "9" * 5000]
)
def test_what_is_no_config_is_a_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError):
        shape_from_config(read_config(tmp_path))


def test_a_config_cannot_name_a_kernel_of_a_repository(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "attn_implementation": "kernels-community/flash-attn"}))
    with pytest.raises(ModelError, match="code of a repository"):
        read_config(tmp_path)


@settings(max_examples=300)
@given(st.one_of(st.text(max_size=40), st.integers(), st.floats(), st.booleans(), st.none(), JSON))
def test_numbers_are_read_or_refused(value: Any) -> None:
    for parse in (
        numbers.parse_count,
        numbers.parse_share,
        numbers.parse_bytes,
        numbers.parse_duration,
        numbers.parse_number,
    ):
        try:
            number = parse(value)
        except ValueError:
            continue
        assert number == number  # not NaN


@settings(max_examples=150)
@given(
    st.one_of(st.text(max_size=200), JSON.map(json.dumps), JSON.map(lambda v: "version: 1\nmodel: " + json.dumps(v)))
)
def test_recipes_are_read_or_refused(text: str) -> None:
    with contextlib.suppress(RecipeError, InputError):
        load_recipe(text + "\n", measures=SPECS)


@settings(max_examples=150)
@given(data=st.one_of(st.binary(max_size=200), JSON.map(lambda v: json.dumps(v).encode())))
def test_manifests_and_plans_are_read_or_damaged(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzz"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "plans").mkdir(parents=True)
    (folder / "manifest.json").write_bytes(data)
    (folder / "plans" / "x.json").write_bytes(data)
    assert manifest.read(folder) is None or isinstance(manifest.read(folder), dict)
    manifest.status_record(folder)
    with pytest.raises((StoreError, sealed.Damaged)):
        plans.read_all(folder)


@settings(max_examples=300)
@given(
    data=st.one_of(
        st.binary(max_size=100),
        JSON.map(lambda v: json.dumps(v).encode()),
        st.dictionaries(
            st.text(max_size=5), st.fixed_dictionaries({"dtype": JSON, "shape": JSON, "data_offsets": JSON}), max_size=2
        ).map(lambda v: json.dumps(v).encode()),
    )
)
def test_safetensors_headers_are_read_or_refused(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    for content in (data, len(data).to_bytes(8, "little") + data):
        path.write_bytes(content)
        try:
            header, begin = read_header(path)
        except ValueError:
            continue
        assert begin <= len(content)
        assert isinstance(header, dict)
