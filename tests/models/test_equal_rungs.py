"""Rungs that are the same bytes, rungs without weights, and folders of steps that are a ladder."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support import micro
from support.damaged import variant
from support.hub_server import commit_of, hub_server
from support.peft_adapters import lora_folder
from support.plans import build, load_recipe
from support.tiny import tiny
from transformers import AutoModelForCausalLM

from peftodyssey.errors import ModelError, RecipeError
from peftodyssey.memory.device import Device
from peftodyssey.models.equal_rungs import equal_groups, examined, shared_shards
from peftodyssey.models.known_rungs import KNOWN, known_problems
from peftodyssey.models.ladder import find_ladder
from peftodyssey.models.rung_hashes import hashes_of_listing
from peftodyssey.models.source import resolve

CPU = Device("cpu", "CPU", 16 << 30, 8 << 30, False)
SCALES = {"step1000": 1.0, "step2000": 1.0, "step3000": 1.01}


def scaled(folder: Path, target: Path, scale: float) -> Path:
    return variant(folder, target, lambda tensors: {key: value * scale for key, value in tensors.items()})


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """A folder of steps, of which two are the same bytes."""
    folder = tmp_path_factory.mktemp("twins")
    model = tiny("gpt_neox", folder)
    for name, scale in SCALES.items():
        scaled(model, folder / "ladder" / name, scale)
    return folder / "ladder"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFTODYSSEY_CACHE", str(tmp_path / "cache"))


def test_a_folder_of_steps_is_a_ladder(twins, tmp_path):
    ladder = find_ladder(str(twins))
    assert [(rung.name, rung.step) for rung in ladder.rungs] == [
        ("step1000", 1000),
        ("step2000", 2000),
        ("step3000", 3000),
    ]
    assert resolve(str(twins), "step2000").fingerprint != resolve(str(twins), "step3000").fingerprint
    trainer = tmp_path / "trainer"
    for step in (500, 1000, 50):
        shutil.copytree(twins / "step1000", trainer / f"checkpoint-{step}")
        state = {"global_step": step, "num_input_tokens_seen": step * 2048}
        (trainer / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    lora_folder(twins / "step1000", trainer / "checkpoint-2000", target_modules=["query_key_value"])
    ladder = find_ladder(str(trainer))
    assert [rung.tokens for rung in ladder.rungs] == [50 * 2048, 500 * 2048, 1000 * 2048]
    assert any("checkpoint-2000" in note and "adapter" in note for note in ladder.notes)
    assert resolve(str(trainer), "checkpoint-500").pretrain_tokens == 500 * 2048
    with pytest.raises(ModelError, match="checkpoint-500"):
        find_ladder(str(tmp_path))


def test_equal_rungs_are_named(twins):
    notes = [note for note in examined(find_ladder(str(twins))).notes if "byte for byte" in note]
    assert len(notes) == 1
    assert "step1000 and step2000" in notes[0]
    assert "step3000" not in notes[0]
    printed = micro.invoke("ladder", "list", twins).stdout
    assert "step1000 and step2000 hold the same weights" in printed
    assert not [note for note in examined(find_ladder("bundled/odyssey-3m")).notes if "same" in note]


def test_equal_large_files_are_read_once(twins, monkeypatch):
    from peftodyssey.models import rung_hashes

    monkeypatch.setattr(rung_hashes, "sampled_sha256", lambda path: "all alike")  # as samples of large files may be
    assert "step1000 and step2000" in "".join(examined(find_ladder(str(twins))).notes)
    monkeypatch.setattr(rung_hashes.hashlib, "file_digest", None)  # a second reading would fail
    assert "step1000 and step2000" in "".join(examined(find_ladder(str(twins))).notes)


def test_shared_shards_are_named(tmp_path, twins):
    for number, name in enumerate(("step10", "step20", "step30")):
        model = AutoModelForCausalLM.from_pretrained(twins / "step1000")
        model.save_pretrained(tmp_path / "shards" / name, max_shard_size="1MB")
        last = sorted((tmp_path / "shards" / name).glob("*.safetensors"))[-1]
        tensors = {key: value + number for key, value in load_file(last).items()}
        save_file(tensors, last, metadata={"format": "pt"})
    notes = [note for note in examined(find_ladder(str(tmp_path / "shards"))).notes if "same bytes in" in note]
    assert notes
    assert all("step10, step20 and step30" in note for note in notes)
    assert not any(last.name in note for note in notes)


def test_groups_of_hashes():
    hashes = {"a": {"x": "1", "y": "2"}, "b": {"x": "1", "y": "2"}, "c": {"x": "1", "y": "3"}, "d": {}, "e": None}
    assert equal_groups(hashes) == [("a", "b")]
    assert shared_shards(hashes) == [("x", ("a", "b", "c"))]
    listing = [("model.safetensors", "1"), ("pytorch_model.bin", "2"), ("optimizer.bin", "3"), ("config.json", None)]
    assert hashes_of_listing(listing) == {"model.safetensors": "1"}


def recipe_of(root: Path, more: str = "") -> str:
    names = ", ".join(SCALES)
    line = f"{{name: {root}, revisions: [{names}]{more}}}"
    return micro.RECIPE.replace("{name: bundled/odyssey-3m, revisions: [annealed-64M]}", line)


@pytest.fixture
def with_tokens(twins, tmp_path):
    """The ladder with its tokens in ladder.json."""
    root = Path(shutil.copytree(twins, tmp_path / "tokens"))
    rungs = [{"name": name, "tokens": int(name[4:]) * 1000, "arm": "trunk"} for name in SCALES]
    (root / "ladder.json").write_text(json.dumps({"rungs": rungs}))
    return root


def test_check_names_equal_rungs_and_keeps_them_out_of_slopes(with_tokens):
    plan = build(load_recipe(recipe_of(with_tokens)), CPU)
    assert any("step1000 and step2000 hold the same weights" in warning for warning in plan.warnings)
    tokens = {t.cell.model.revision: t.base.source.pretrain_tokens for t in plan.cells}
    assert tokens == {"step1000": None, "step2000": None, "step3000": 3_000_000}
    asked = build(load_recipe(recipe_of(with_tokens, ", equal_rungs: keep")), CPU)
    assert {t.base.source.pretrain_tokens for t in asked.cells} == {1_000_000, 2_000_000, 3_000_000}
    assert any("step1000 and step2000 hold the same weights" in warning for warning in asked.warnings)
    assert {t.hash for t in asked.cells} == {t.hash for t in plan.cells}


def test_a_rung_without_weights_is_named_and_the_others_go_on(with_tokens):
    (with_tokens / "step2000" / "model.safetensors").unlink()
    assert "step2000 has no weights" in examined(find_ladder(str(with_tokens))).notes
    plan = build(load_recipe(recipe_of(with_tokens)), CPU)
    assert {t.cell.model.revision for t in plan.cells} == {"step1000", "step3000"}
    assert any("step2000 is left out" in warning for warning in plan.warnings)
    for name in ("step1000", "step3000"):
        (with_tokens / name / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="holds no model"):
        build(load_recipe(recipe_of(with_tokens)), CPU)


def test_reported_rungs_are_named_with_their_threads():
    olmo = [f"stage1-step{step}" for step in ("101000-tokens424B", "102000-tokens428B", "175000-tokens735B")]
    assert [note.split("/")[-1] for note in known_problems("allenai/OLMo-2-1124-7B", olmo)] == ["915"]
    assert not list(known_problems("allenai/OLMo-2-1124-7B", olmo[1:2]))
    steps = [f"step{n}" for n in (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 143_001, 1000))]
    reported = next(problem for problem in KNOWN if problem.repository == "EleutherAI/pythia-2.8b")
    assert len(steps) == 154
    assert len(reported.names(steps)) == 86  # of 154, as the thread counts them
    assert len(list(known_problems("eleutherai/pythia-12b", steps))) == 1
    assert "202" in next(known_problems("EleutherAI/pythia-410m-seed9", steps))


def child(arguments: list[str], endpoint: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {**micro.environment(), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(home / "hf")}
    environment |= {
        "PEFTODYSSEY_CACHE": str(home / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "peftodyssey", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )


def test_the_hub_states_hashes_and_nothing_is_downloaded(with_tokens, tmp_path):
    (with_tokens / "step3000" / "model.safetensors").unlink()
    repository = "models/some/ladder"
    revisions = {"main": with_tokens / "step1000"} | {name: with_tokens / name for name in SCALES}
    with hub_server({repository: revisions}) as (endpoint, log):
        listed = child(["ladder", "list", "some/ladder"], endpoint, tmp_path)
        assert "step1000 and step2000 hold the same weights" in listed.stdout, listed.stderr
        assert "step3000 has no weights" in listed.stdout
        assert not [line for line in log if line.endswith(".safetensors")]
        log.clear()
        assert child(["ladder", "list", "some/ladder"], endpoint, tmp_path).stdout == listed.stdout
        assert not [line for line in log if "/revision/" in line]  # commits do not change
        path = tmp_path / "hub.yaml"
        path.write_text(recipe_of(Path("some/ladder")))
        checked = child(["check", str(path)], endpoint, tmp_path)
        assert checked.returncode == 0, checked.stderr + checked.stdout
        assert "step1000 and step2000 hold the same weights" in checked.stdout
        assert "step3000 is left out" in checked.stdout
        assert not [line for line in log if line.endswith(".safetensors")]
    assert commit_of(repository, "step1000") != commit_of(repository, "step2000")
