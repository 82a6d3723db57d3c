"""Models and datasets of the Hub, from a local endpoint that speaks its protocol: revisions, cache, offline."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import micro
from support.hub_server import commit_of, hub_server
from support.tiny import tiny

pytestmark = pytest.mark.slow  # processes of their own, whose Hub is another
MODEL = """
import json, sys
from peftodyssey.errors import ModelError
from peftodyssey.models.load import load
from peftodyssey.models.source import resolve
from peftodyssey.models.tokenizer import load_tokenizer
for name, revision in json.loads(sys.argv[1]):
    try:
        source = resolve(name, revision)
        loaded = sum(p.double().sum().item() for p in load(source, precision="fp32").parameters())
        print(json.dumps([source.fingerprint, source.weight_bytes_on_disk, loaded, load_tokenizer(source).vocab_size]))
    except ModelError as error:
        print(json.dumps(error.message))
"""
DATASET = """
import json, sys
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.source import resolve
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec
for fields, split in json.loads(sys.argv[1]):
    try:
        corpus = resolve(CorpusSpec("x", **fields))
        print(json.dumps([document.text for document in documents(corpus, split)]))
    except CorpusError as error:
        print(json.dumps(error.message))
"""


def child(code: str, asked: object, endpoint: str, home: Path, offline: bool = False) -> list[object]:
    """What `code` printed in a process of its own, whose Hub is `endpoint`."""
    environment = {**micro.environment(), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    environment |= {"HF_HOME": str(home / "hf"), "HF_DATASETS_OFFLINE": str(int(offline))}
    environment |= {
        "PEFTODYSSEY_CACHE": str(home / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(asked)], capture_output=True, text=True, env=environment, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    return {"main": tiny("llama", folder, 0), "step1000": tiny("llama", folder, 1)}


def test_a_model_at_its_revisions_from_the_cache_and_offline(models, tmp_path):
    asked = [["some/model", None], ["some/model", "step1000"], ["some/model", "step7"], ["some/other", None]]
    with hub_server({"models/some/model": models}) as (endpoint, log):
        first, second, no_revision, no_model = child(MODEL, asked, endpoint, tmp_path)
        assert first[0] == commit_of("models/some/model", "main")
        assert second[0] == commit_of("models/some/model", "step1000")
        assert first[2] != second[2]
        assert first[1] == (models["main"] / "model.safetensors").stat().st_size
        assert "no revision 'step7'" in str(no_revision)
        assert "some/other" in str(no_model)
        downloads = [line for line in log if line.startswith("GET") and line.endswith("model.safetensors")]
        assert len(downloads) == 2
        log.clear()
        assert child(MODEL, asked[:2], endpoint, tmp_path) == [first, second]
        assert not [line for line in log if line.startswith("GET") and line.endswith("model.safetensors")]
    offline = child(MODEL, asked[:3], "http://127.0.0.1:9", tmp_path, offline=True)
    assert [entry[2] for entry in offline[:2]] == [first[2], second[2]]
    assert "cache" in str(offline[2])


def rows(path: Path, word: str, count: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": f"{word} {n}", "id": n}) + "\n" for n in range(count)))


def test_a_dataset_by_config_split_and_revision(tmp_path):
    for revision in ("main", "v2"):
        folder = tmp_path / revision
        rows(folder / "plain" / "train.jsonl", f"{revision} plain", 4)
        rows(folder / "other" / "train.jsonl", f"{revision} other", 4)
        rows(folder / "other" / "test.jsonl", f"{revision} held", 2)
        configs = [
            {"config_name": name, "data_files": [{"split": s, "path": f"{name}/{s}.jsonl"} for s in splits]}
            for name, splits in (("plain", ["train"]), ("other", ["train", "test"]))
        ]
        (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n")
    source = {"source": "hub:some/set"}
    asked = [
        [source | {"config": "other"}, "test"],
        [source | {"config": "other", "revision": "v2"}, "test"],
        [source | {"config": "other", "revision": "v3"}, "test"],
        [source | {"config": "none"}, "test"],
        [{"source": "hub:some/missing"}, "train"],
        [source | {"config": "other", "split": {"test": "train"}}, "test"],
    ]
    with hub_server({"datasets/some/set": {name: tmp_path / name for name in ("main", "v2")}}) as (endpoint, _):
        main, second, no_revision, no_config, no_set, train = child(DATASET, asked, endpoint, tmp_path)
    assert main == ["main held 0", "main held 1"]
    assert second == ["v2 held 0", "v2 held 1"]
    assert "no revision 'v3'" in str(no_revision)
    assert "none" in str(no_config)
    assert "some/missing" in str(no_set)
    assert train == [f"main other {n}" for n in range(4)]
