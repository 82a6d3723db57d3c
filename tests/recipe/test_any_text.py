"""Whatever is written, the answer is a recipe or a list of problems, never a traceback."""

import copy
import json

from hypothesis import given, settings
from hypothesis import strategies as st
from support.plans import load_recipe

from peftodyssey.errors import RecipeError
from peftodyssey.recipe.grid import cells

BASE = {
    "name": "x",
    "seeds": [0],
    "model": {"name": "gpt2", "revisions": ["a"]},
    "domains": ["hub:a/b", {"path": "x", "split": {"test": "5%"}}],
    "general": ["hub:c/d"],
    "methods": [
        {"method": "full", "lr": {"tune": [1, 2]}},
        {"method": "lora", "rank": [2], "targets": ["q"]},
        "qlora",
        {"method": "peft", "peft_type": "VERA", "config": {"r": 1}},
        {"method": "saved", "path": "p"},
    ],
    "train": {"budget": "1 steps", "betas": [0.1, 0.2], "eval_at": ["50%"]},
    "score": {"stride": 1},
    "measure": ["tokens", {"noise": {"gammas": [0.1], "ranks": ["full"]}}],
}
WORDS = st.sampled_from(
    [
        "lora",
        "full",
        "name",
        "method",
        "5%",
        "2r",
        "tune",
        "all",
        "bundled/x",
        "bundled/wiki_general",
        "-",
        "~",
        "a[0]",
        "é",
    ]
)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | WORDS | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def problems(text, *overrides):
    """The problems of a recipe's text; None where it loads and its grid is made."""
    try:
        cells(load_recipe(f"{text}\n", overrides))
    except RecipeError as error:
        return error.problems
    return None


def paths(value, above=()):
    yield above
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from paths(inner, (*above, key))


PATHS = [path for path in paths(BASE) if path]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PATHS), ANY), min_size=1, max_size=4), st.booleans())
def test_any_value_anywhere(changes, more):
    data = copy.deepcopy(BASE)
    for path, value in changes:
        owner = data
        try:
            for step in path[:-1]:
                owner = owner[step]
            owner[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    mistakes = problems(json.dumps(data))
    assert mistakes is None or all(problem.what and problem.line >= 0 for problem in mistakes)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.sampled_from(list("abm:-[]{}&*!|>'\"#%@`?, \n\t01.<~=\\")), max_size=40))
def test_any_text(text):
    assert problems(text) != []


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PATHS), ANY, st.sampled_from(["", "~"]), st.text(max_size=4))
def test_any_override(path, value, tilde, tail):
    name = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
    for text in (f"{tilde}{name}", f"{name}={json.dumps(value)}", f"{name}{tail}={tail}"):
        assert problems(json.dumps(BASE), text) != []
