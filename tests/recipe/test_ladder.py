"""The recipe of a ladder: problems come with their place, what is allowed and the next step."""

from __future__ import annotations

import pytest
from support.plans import load_recipe

from peftodyssey.errors import InputError, RecipeError
from peftodyssey.recipe import bundled
from peftodyssey.recipe.load_ladder import is_ladder, load_ladder, rung_label
from peftodyssey.recipe.schema_ladder import LadderRecipe
from peftodyssey.recipe.validation_errors import section_classes

GOOD = """\
version: 1
kind: ladder
model: {layers: 2, width: 64, heads: 2, feed_forward: 96, vocabulary: 512, positions: 256}
text: bundled/pretrain_sample
train: {seq_len: 128, batch_tokens: 4096, peak_lr: 1e-2, warmup_steps: 10}
rungs: {trunk: [200k], annealed: [200k, 1M]}
"""


def problems(text: str, *overrides: str):
    with pytest.raises(RecipeError) as caught:
        load_ladder(text, overrides, where="l.yaml")
    return caught.value.problems


def test_a_good_one_loads():
    recipe = load_ladder(GOOD)
    assert recipe.rungs.annealed == (200_000, 1_000_000)
    assert (recipe.name, recipe.tokenizer, recipe.train.betas) == ("recipe", "train", (0.9, 0.95))


@pytest.mark.parametrize(
    ("was", "becomes", "line", "key", "words"),
    [
        ("positions: 256", "postions: 256", 3, "model.postions", "did you mean positions?"),
        ("heads: 2", "heads: 3", 3, "model", "3 x 64"),
        ("layers: 2", "layers: none", 3, "model.layers", "whole number"),
        ("peak_lr: 1e-2", "peak_lr: 0", 5, "train.peak_lr", "above 0"),
        ("batch_tokens: 4096", "batch_tokens: 4000", 5, "train", "3968 or 4096"),
        ("seq_len: 128, batch_tokens: 4096", "seq_len: 512, batch_tokens: 4096", 5, "train.seq_len", "up to 256"),
        ("trunk: [200k], annealed: [200k, 1M]", "trunk: []", 6, "rungs", "64M"),
        ("annealed: [200k, 1M]", "annealed: [20k, 1M]", 6, "rungs.annealed[0]", "53,007 tokens"),
        ("trunk: [200k]", "trunk: [1k]", 6, "rungs.trunk[0]", "4,096 tokens"),
        ("text: bundled/pretrain_sample", "text: [hub:c/a, {source: hub:b/a}]", 4, "text[1]", "`name:`"),
        ("version: 1", "version: 1\nlayers: 3", 2, "layers", "did you mean model.layers?"),
        ("text: bundled/pretrain_sample\n", "", 0, "text", "missing"),
    ],
)
def test_mistakes_are_placed(was, becomes, line, key, words):
    mistakes = problems(GOOD.replace(was, becomes))
    assert len(mistakes) == 1
    assert mistakes[0].key == key
    assert words in str(mistakes[0])
    assert not line or mistakes[0].line == line


def test_all_mistakes_are_reported_at_once():
    mistakes = problems(GOOD.replace("width", "widht").replace("1e-2", "fast"))
    assert {p.key for p in mistakes} == {"model.widht", "model.width", "train.peak_lr"}


def test_overrides_are_checked_alike():
    assert load_ladder(GOOD, ["train.peak_lr=3e-3"]).train.peak_lr == 3e-3
    assert problems(GOOD, "train.peak_rl=3e-3")[0].next_step == "did you mean peak_lr?"


def test_kinds_of_recipes_are_told_apart(tmp_path):
    (tmp_path / "l.yaml").write_text(GOOD)
    assert is_ladder(tmp_path / "l.yaml")
    assert is_ladder("ladder-tiny")
    assert not is_ladder("quickstart")
    assert not is_ladder(tmp_path / "nowhere.yaml")
    for ladder in (tmp_path / "l.yaml", "ladder-3m"):
        with pytest.raises(InputError) as caught:
            load_recipe(ladder)
        assert caught.value.next_step == f"peftodyssey ladder train {ladder}"
    with pytest.raises(InputError) as caught:
        load_ladder("quickstart")
    assert "peftodyssey run quickstart" in caught.value.next_step


@pytest.mark.parametrize(("name", "sentence"), bundled.ladders())
def test_bundled_ladders_load(name, sentence):
    assert load_ladder(name).name == name
    assert name not in dict(bundled.names())
    assert 20 < len(sentence) < 160


def test_ladder_3m_has_the_shape_and_budgets_of_the_bundled_one():
    from peftodyssey import assets
    from peftodyssey.models.local_model import read_config
    from peftodyssey.plan.ladder import config_of

    recipe, ladder = load_ladder("ladder-3m"), assets.ladder("odyssey-3m")
    bundled_config, config = read_config(assets.model_files("odyssey-3m")), config_of(recipe)
    keys = set(config) - {"dtype"}
    assert {key: config[key] for key in keys} == {key: bundled_config[key] for key in keys}
    assert ladder["tokens_per_step"] == recipe.train.batch_tokens
    assert ladder["peak_lr"] == recipe.train.peak_lr
    tokens = {(r["name"], r["tokens"]) for r in ladder["rungs"] if r["arm"] != "init"}
    assert tokens == {
        (f"{arm}-{rung_label(n)}", n // 65536 * 65536)
        for arm in ("trunk", "annealed")
        for n in getattr(recipe.rungs, arm)
    }


def every_field(kind=LadderRecipe, seen=None):
    seen = set() if seen is None else seen
    if kind in seen:
        return
    seen.add(kind)
    for name, field in kind.model_fields.items():
        yield kind.__name__, name, field
        for inner in {c for part in (field.annotation, *field.metadata) for c in section_classes(part)}:
            yield from every_field(inner, seen)


def test_every_field_has_a_description_and_the_bundled_recipes_show_every_key():
    text = bundled.read("ladder-3m") + bundled.read("ladder-tiny")
    for owner, name, field in every_field():
        assert field.description
        assert field.description.endswith(".")
        assert (
            not owner.startswith("Ladder")
            or f"{name}:" in text
            or name in ("micro_batch_size", "kv_heads", "rope_theta")
        ), name


def test_labels_are_exact():
    assert [rung_label(n) for n in (64_000_000, 1_024_000_000, 10**9, 1280, 200_000)] == [
        "64M",
        "1024M",
        "1B",
        "1280",
        "200k",
    ]
