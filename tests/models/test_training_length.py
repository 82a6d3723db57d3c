"""The length that a base was trained on, which `score` and new recipes heed; and start tokens that mark chats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import micro
from support.damaged import variant
from support.plans import load_recipe
from support.tiny import copy_tokenizer, tiny

from peftodyssey import api
from peftodyssey.models.source import resolve
from peftodyssey.models.training_length import training_length


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny("llama", tmp_path_factory.mktemp("length"))


def rewrite(path: Path, **entries: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize(
    ("config", "tokenizer", "expected", "where"),
    [
        ({"max_position_embeddings": 300}, {"model_max_length": 10**30}, 300, "positions"),
        ({"max_position_embeddings": 8192}, {"model_max_length": 2048}, 2048, "model_max_length"),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            },
            {"model_max_length": 131072},
            512,
            "original_max_position_embeddings",
        ),
    ],
)
def test_the_least_that_the_files_state(config, tokenizer, expected, where, llama, tmp_path):
    folder = variant(llama, tmp_path / "model", **config)
    rewrite(folder / "tokenizer_config.json", **tokenizer)
    found = training_length(resolve(str(folder)))
    assert found.tokens == expected
    assert where in found.stated_in


def test_ladders_state_their_sequence_length(tmp_path, llama):
    assert training_length(resolve("bundled/odyssey-3m")).tokens == 512
    variant(llama, tmp_path / "ladder" / "step100")
    (tmp_path / "ladder" / "ladder.json").write_text(
        json.dumps({"sequence_length": 64, "rungs": [{"name": "step100", "tokens": 1, "arm": "trunk"}]})
    )
    assert training_length(resolve(str(tmp_path / "ladder"), "step100")).tokens == 64
    assert (
        training_length(resolve("random/tiny-llama")).tokens
        == resolve("random/tiny-llama").config["max_position_embeddings"]
    )


def test_score_takes_the_length_by_default_and_warns_beyond_it():
    options = {"tokens": "4k"}
    taken = api.score("bundled/odyssey-3m", "bundled/wiki_general", **options, device="cpu")
    assert taken.context == 512
    printed = micro.invoke(
        *("score", "bundled/odyssey-3m", "bundled/wiki_general", "--tokens", "1k", "--context", 1024, "--device", "cpu")
    )
    assert "trained on 512 tokens at once" in printed.stderr
    assert "trained on" not in micro.invoke("score", "--help").stderr
    assert "at most 1024" in " ".join(micro.invoke("score", "--help").stdout.split())


@pytest.mark.slow
def test_an_adapter_of_a_run_is_scored_as_its_run_was(tmp_path):
    lora = micro.RECIPE[: micro.RECIPE.index("methods:")] + "methods:\n  - {method: lora, rank: 2, lr: 1e-2}\n"
    plan = api.plan(load_recipe(lora + micro.RECIPE[micro.RECIPE.index("train:") :]), device="cpu")
    run, _, folder = api.run_plan(plan, tmp_path / "run")
    adapter = next(folder.glob("cells/*/adapter"))
    scored = api.score(
        "bundled/odyssey-3m",
        "bundled/arxiv_cs.CL",
        [adapter],
        revision="annealed-64M",
        tokens="500",
        device="cpu",
    )
    assert scored.context == 64
    assert run is not None


def test_check_warns_of_a_scoring_context_beyond_it():
    plan = api.plan(load_recipe(micro.RECIPE, ["score.context=1024", "score.stride=512"]), device="cpu")
    assert any("512 tokens at once" in warning and "1,024" in warning for warning in plan.warnings)
    assert not any("at once" in warning for warning in api.plan(load_recipe(micro.RECIPE), device="cpu").warnings)


@pytest.mark.parametrize("marker", ["<|im_start|>", "<|start_header_id|>", "<start_of_turn>", "[INST]", "<|user|>"])
def test_a_start_token_that_marks_a_chat_is_warned_of_and_skipped_in_new_recipes(marker, llama, tmp_path):
    folder = variant(llama, tmp_path / "chat")
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace("<|endoftext|>", marker))
    rewrite(folder / "tokenizer_config.json", bos_token=marker, eos_token=marker, pad_token=None)
    recipe = tmp_path / "new.yaml"
    assert micro.invoke("recipes", "new", recipe, "--model", folder, "--domain", "bundled/arxiv_cs.CL").returncode == 0
    assert load_recipe(recipe).score.first_token == "skip"
    assert any(
        marker in warning and "first_token: skip" in warning for warning in api.plan(recipe, device="cpu").warnings
    )
    plain = tmp_path / "plain.yaml"
    copy_tokenizer(folder)
    micro.invoke("recipes", "new", plain, "--model", folder, "--domain", "bundled/arxiv_cs.CL")
    assert load_recipe(plain).score.first_token == "bos"


def test_new_recipes_heed_the_training_length(llama, tmp_path):
    folder = variant(llama, tmp_path / "short", max_position_embeddings=128)
    recipe = tmp_path / "new.yaml"
    assert micro.invoke("recipes", "new", recipe, "--model", folder, "--domain", "bundled/arxiv_cs.CL").returncode == 0
    loaded = load_recipe(recipe)
    assert (loaded.train.seq_len, loaded.score.context) == (128, 128)
