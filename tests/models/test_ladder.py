"""Ladders: five schemes of names, warnings about tokens and missing budgets, weights in pickles."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from support import micro
from support.plans import build, load_recipe
from support.tiny import tiny

from peftodyssey.errors import ModelError, RecipeError
from peftodyssey.memory.device import Device
from peftodyssey.models.ladder import Ladder, find_ladder
from peftodyssey.models.published_schedules import learning_rate_at_step, published_schedule
from peftodyssey.models.rung_choice import choose_rungs
from peftodyssey.models.rung_names import format_tokens, parse_rung, parse_rungs, token_problems
from peftodyssey.models.source import resolve, weights_folder
from peftodyssey.recipe.schema_rungs import Rungs

OLMO_1B = [
    f"step{n}-tokens{n * 4_194_304 // 10**9}B" for n in (*range(1000, 117_851, 1000), *range(330_000, 738_001, 1000))
]
BILLION = 10**9
CPU = Device("cpu", "CPU", 16 << 30, 8 << 30, False)


def of(repository: str, names: list[str]) -> Ladder:
    rungs, _ = parse_rungs(repository, names)
    return Ladder(repository, tuple(rungs), tuple(token_problems(repository, rungs)))


@pytest.mark.parametrize(
    ("repository", "name", "tokens", "arm", "rate"),
    [
        ("allenai/OLMo-1B-hf", "step1000-tokens4B", 4 * BILLION, "cosine", 2e-4),  # half way up a warm-up of 2,000
        ("allenai/OLMo-1B-hf", "step738020-tokens3094B", 3094 * BILLION, "cosine", 4.0e-5),
        ("allenai/OLMo-2-0425-1B", "stage1-step10000-tokens21B", 21 * BILLION, "cosine", 4.0e-4),
        (
            "allenai/OLMo-2-0425-1B",
            "stage2-ingredient3-step23852-tokens51B",
            4052 * BILLION,
            "stage2-ingredient3",
            None,
        ),
        ("allenai/OLMo-2-1124-7B", "step150-tokens1B", BILLION, None, None),  # early branches lack the stage
        ("LLM360/Amber", "ckpt_000", 1_706_976 * 2048, "cosine", 3.0e-4),
        ("LLM360/Amber", "ckpt_359", 360 * 1_706_976 * 2048, "cosine", 3.0e-5),
        ("EleutherAI/pythia-410m", "step143000", 143_000 * 2_097_152, "cosine", 3.0e-5),
        ("EleutherAI/pythia-1.4b", "step0", 0, "init", None),
        ("HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints", "step-240000", 240_000 * 1_048_576, "trunk", 3e-3),
        ("HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints", "step-1920000", 1_920_000 * 1_048_576, "decay", 6e-4),
        ("somebody/else", "step1000", None, None, None),
        ("somebody/else", "step1000-tokens0.5T", BILLION * 500, None, None),
    ],
)
def test_names_of_every_scheme(repository, name, tokens, arm, rate):
    rung = parse_rung(repository, name)
    assert (rung.tokens, rung.arm) == (tokens, arm)
    assert rung.learning_rate == (None if rate is None else pytest.approx(rate, rel=0.02))


@pytest.mark.parametrize("name", ["main", "step", "refs/pr/1", "step1000-tokens4B-old", "ckpt_12a", "stage1", "v1.0"])
def test_other_names_are_no_rungs(name):
    assert parse_rung("allenai/OLMo-1B-hf", name) is None


@pytest.mark.parametrize(
    ("tokens_t", "rate"),
    [(0.49, 3.8e-4), (1.38, 2.5e-4), (2.0, 1.4e-4), (2.30, 9.7e-5), (2.50, 7.3e-5), (2.89, 4.4e-5), (3.09, 4.0e-5)],
)
def test_olmo_1b_has_the_published_learning_rates(tokens_t, rate):
    facts = published_schedule("allenai/OLMo-1B-hf")
    assert learning_rate_at_step(facts, round(tokens_t * 1e12 / facts.tokens_per_step)) == pytest.approx(rate, rel=0.02)


@pytest.mark.parametrize(("tokens_t", "rate"), [(0.5, 3.9e-4), (1, 3.7e-4), (2, 2.8e-4), (3, 1.65e-4), (4, 7.5e-5)])
def test_olmo_2_1b_has_the_published_learning_rates(tokens_t, rate):
    facts = published_schedule("allenai/OLMo-2-0425-1B")
    assert learning_rate_at_step(facts, round(tokens_t * 1e12 / facts.tokens_per_step)) == pytest.approx(rate, rel=0.02)


def test_rungs_are_sorted_by_stage_and_step_and_others_are_listed():
    names = [
        "stage2-ingredient1-step1000-tokens3B",
        "main",
        "stage1-step10000-tokens21B",
        "stage1-step2000-tokens5B",
        "stage1-step2000-tokens5B",
    ]
    rungs, others = parse_rungs("allenai/OLMo-2-0425-1B", names)
    assert [rung.step for rung in rungs] == [2000, 10000, 1000]
    assert others == ["main"]


def test_wrong_and_missing_tokens_are_noted():
    assert token_problems("allenai/OLMo-1B-hf", parse_rungs("allenai/OLMo-1B-hf", OLMO_1B)[0]) == []
    wrong = of("allenai/OLMo-1B-hf", [*OLMO_1B, "step400000-tokens167B"]).notes
    assert len(wrong) == 1
    assert "step400000-tokens167B" in wrong[0]
    assert "1.68T" in wrong[0]
    unknown = [f"step{n}-tokens{n // 100}B" for n in range(10_000, 60_000, 10_000)]
    assert of("some/body", unknown).notes == ()
    assert "step60000-tokens999B says" in of("some/body", [*unknown, "step60000-tokens999B"]).notes[0]
    bare = of("some/body", ["step1000", "step2000"]).notes
    assert len(bare) == 1
    assert "no tokens" in bare[0]


def test_a_budget_without_a_near_rung_is_left_out_with_a_warning():
    chosen = choose_rungs(
        of("allenai/OLMo-1B-hf", OLMO_1B), Rungs.model_validate({"every": "250B", "from": "0.5T", "to": "3T"})
    )
    steps = [parse_rung("allenai/OLMo-1B-hf", name) for name in chosen.names]
    assert [round(rung.tokens / 250e9) for rung in steps] == [2, 6, 7, 8, 9, 10, 11, 12]
    assert all(abs(rung.tokens / 250e9 - round(rung.tokens / 250e9)) < 0.05 for rung in steps)
    missing = [text for text in chosen.warnings if "left out" in text]
    assert [text.split("near ")[1].split(" tokens")[0] for text in missing] == ["750B", "1T", "1.25T"]
    assert all("(490B)" in text and "step330000-tokens1384B" in text for text in missing)


def test_rungs_are_chosen_in_each_arm():
    ladder = find_ladder("bundled/odyssey-3m")
    assert choose_rungs(ladder, Rungs(tokens=["64M", "256M"], arm="trunk")).names == ("trunk-64M", "trunk-256M")
    both = choose_rungs(ladder, Rungs(tokens=["16M", "1024M"]))
    assert both.names == ("annealed-16M", "annealed-1024M", "trunk-1024M")
    assert both.warnings == ()  # without `arm`, an arm that has no such rung gives no warning
    one = choose_rungs(ladder, Rungs(tokens=["16M", "1024M"], arm=["annealed", "trunk"]))
    assert "of arm trunk near 16M" in one.warnings[0]
    with pytest.raises(ModelError, match="anealed"):
        choose_rungs(ladder, Rungs(tokens=["16M"], arm="anealed"))
    with pytest.raises(ModelError, match="no rung near"):
        choose_rungs(ladder, Rungs(tokens=["500M"]))


def test_smollm2_has_a_constant_arm_and_a_decaying_one():
    name = "HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints"
    ladder = of(name, [f"step-{n}" for n in range(240_000, 2_000_000, 240_000)])
    assert choose_rungs(ladder, Rungs(every="250B", arm="trunk")).names[-1] == "step-1440000"
    assert choose_rungs(ladder, Rungs(every="250B", arm="decay", to="2T", start="1.75T")).names == (
        "step-1680000",
        "step-1920000",
    )


def cache_of(folder: Path, repository: str, revisions: dict[str, Path]) -> Path:
    """`folder/models--...`, laid out like the Hub cache, each revision a copy of a model's folder."""
    root = folder / ("models--" + repository.replace("/", "--"))
    for number, (name, model) in enumerate(revisions.items()):
        commit = f"{number:040x}"
        (root / "refs" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "refs" / name).write_text(commit)
        shutil.copytree(model, root / "snapshots" / commit)
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rungs")
    return [tiny("gpt_neox", folder, seed) for seed in range(2)]


def test_a_cache_folder_is_a_ladder_and_its_rungs_are_models(tmp_path, models):
    root = cache_of(
        tmp_path, "EleutherAI/pythia-410m", {"main": models[0], "step1000": models[0], "step143000": models[1]}
    )
    assert [rung.name for rung in find_ladder(str(root)).rungs] == ["step1000", "step143000"]
    assert any("main" in remark for remark in find_ladder(str(root)).notes)
    source = resolve(str(root), "step143000")
    assert (source.pretrain_tokens, source.arm) == (143_000 * 2_097_152, "cosine")
    assert source.fingerprint == resolve(str(models[1])).fingerprint != resolve(str(root)).fingerprint
    assert find_ladder(str(root)).parameters() == sum(
        p.numel() for p in load_model(weights_folder(source)).parameters()
    )
    with pytest.raises(ModelError, match="step2000"):
        resolve(str(root), "step2000")
    with pytest.raises(ModelError, match="no revision"):
        resolve(str(root), "../snapshots")


def load_model(folder: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder)


def test_a_recipe_gets_the_names_that_the_ladder_has(tmp_path, models):
    root = cache_of(tmp_path, "EleutherAI/pythia-410m", {"step1000": models[0], "step2000": models[1]})
    line = f"{{name: {root}, revisions: {{tokens: [2B, 4.2B, 50B]}}}}"
    text = micro.RECIPE.replace("{name: bundled/odyssey-3m, revisions: [annealed-64M]}", line)
    plan = build(load_recipe(text), CPU)
    assert {(t.cell.model.revision, t.base.source.pretrain_tokens, t.base.source.arm) for t in plan.cells} == {
        ("step1000", 1000 * 2_097_152, "cosine"),
        ("step2000", 2000 * 2_097_152, "cosine"),
    }
    assert any("50B tokens, which is left out; the nearest: step2000 (4.19B)" in warning for warning in plan.warnings)
    assert plan.recipe.model[0].revisions == ("step1000", "step2000")
    with pytest.raises(RecipeError) as caught:
        build(load_recipe(text, ["model.revisions={tokens: 7T}"]), CPU)
    assert caught.value.problems[0].key == "model.revisions"
    assert "step1000 (2.1B)" in caught.value.problems[0].next_step


def test_a_folder_of_rung_files_is_a_ladder_of_models(tmp_path):
    whole = weights_folder(resolve("bundled/odyssey-3m", "annealed-64M"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "ladder.json"):
        shutil.copyfile(whole / name, tmp_path / name)
    shutil.copyfile(whole / "model.safetensors", tmp_path / "annealed-64M.safetensors")
    source = resolve(str(tmp_path), "annealed-64M")
    assert (source.pretrain_tokens, source.arm) == (63_963_136, "annealed")
    theirs, ours = load_model(whole).state_dict(), load_model(weights_folder(source)).state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    with pytest.raises(ModelError, match="trunk-64M"):
        resolve(str(tmp_path), "trunk-64M")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"rungs": [{"name": "a", "tokens": -1, "arm": "x"}]}, "-1 tokens"),
        ({"rungs": [{"name": "a"}]}, "arm"),
        ([], "not a ladder"),
    ],
)
def test_a_wrong_ladder_file_is_an_error(tmp_path, content, words):
    (tmp_path / "ladder.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=words):
        find_ladder(str(tmp_path))


def test_a_ladder_file_without_tokens_is_noted(tmp_path):
    (tmp_path / "ladder.json").write_text(
        json.dumps({"rungs": [{"name": "a", "arm": "trunk"}, {"name": "b", "tokens": 5, "arm": "trunk"}]})
    )
    assert "a: ladder.json states no tokens" in find_ladder(str(tmp_path)).notes


class Harmful:
    def __reduce__(self):
        return (print, ("code of a pickle ran",))


@pytest.fixture
def pickled(models, tmp_path):
    folder = tmp_path / "pickled"
    folder.mkdir()
    for path in models[0].iterdir():
        if path.suffix != ".safetensors":
            shutil.copyfile(path, folder / path.name)
    torch.save(load_model(models[0]).state_dict(), folder / "pytorch_model.bin")
    return folder


def test_pickles_are_opened_only_when_asked(pickled, models, monkeypatch, tmp_path):
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ModelError, match="pickled") as caught:
        resolve(str(pickled))
    assert "weights: bin" in caught.value.next_step
    source = resolve(str(pickled), weights="bin")
    assert source.pickled
    place = weights_folder(source)
    theirs, ours = load_model(models[0]).state_dict(), load_model(place).state_dict()
    assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    written = (place / "model.safetensors").stat().st_mtime_ns
    assert (weights_folder(source) / "model.safetensors").stat().st_mtime_ns == written  # once
    assert not resolve(str(models[0]), weights="bin").pickled  # safetensors go first


def test_shards_of_pickles_are_one_model(pickled, models, monkeypatch, tmp_path):
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path / "cache"))
    state = load_model(models[0]).state_dict()
    names = sorted(state)
    halves = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, keys in halves.items():
        torch.save({name: state[name] for name in keys}, pickled / file)
    (pickled / "pytorch_model.bin").unlink()
    index = {"weight_map": {name: file for file, keys in halves.items() for name in keys}}
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    ours = load_model(weights_folder(resolve(str(pickled), weights="bin"))).state_dict()
    assert all(torch.equal(state[name], ours[name]) for name in state)


def test_code_in_a_pickle_is_not_run(pickled, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path / "cache"))
    (pickled / "pytorch_model.bin").write_bytes(pickle.dumps({"weight": Harmful()}))
    with pytest.raises(ModelError, match="more than tensors"):
        weights_folder(resolve(str(pickled), weights="bin"))
    assert "ran" not in capsys.readouterr().out
    torch.save({"weight": Harmful()}, pickled / "pytorch_model.bin")
    with pytest.raises(ModelError, match="more than tensors"):
        weights_folder(resolve(str(pickled), weights="bin"))
    assert "ran" not in capsys.readouterr().out


def test_tokens_as_people_write_them():
    assert [format_tokens(n) for n in (950, 64_000_000, 494 * BILLION, 1_383_000_000_000)] == [
        "950",
        "64M",
        "494B",
        "1.38T",
    ]
