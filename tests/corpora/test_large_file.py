"""A large file under a small cap: memory and choice follow the cap."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.source import resolve
from peftodyssey.recipe.cell import CorpusSpec

CODE = """
import sys
from pathlib import Path
from peftodyssey import assets
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import build_index, read_index
from peftodyssey.corpora.source import resolve
from peftodyssey.models.tokenizer import tokenizer_from_folder
from peftodyssey.recipe.cell import CorpusSpec
path, out, cap = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
tokenizer = tokenizer_from_folder(assets.model_files("odyssey-3m"), "odyssey-3m", {})
counts = build_index(documents(resolve(CorpusSpec("big", path)), "train"), tokenizer, out, max_tokens=cap)
status = Path("/proc/self/status").read_text()  # ru_maxrss would be that of the process that started this one
peak = int(status.partition("VmHWM:")[2].split()[0]) >> 10
print(peak, counts["tokens"], " ".join(read_index(out).documents["id"].to_pylist()))
"""
CAP = 50_000


def large(path: Path, documents: int) -> Path:
    words = [f"w{i * 7919 % 5003}" for i in range(700)]
    with path.open("w") as file:
        for i in range(documents):
            file.write(json.dumps({"text": f"Document {i}. {' '.join(words[i % 7 :])}"}) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say how much was resident")
def test_memory_and_choice_follow_the_cap(tmp_path):
    path = large(tmp_path / "big.jsonl", 60_000)
    assert path.stat().st_size > 200_000_000
    ran = subprocess.run(
        [sys.executable, "-c", CODE, path, tmp_path / "index", str(CAP)], capture_output=True, text=True, check=True
    )
    peak_mib, tokens, *chosen = ran.stdout.split()
    assert int(peak_mib) < 200
    assert CAP <= int(tokens) < CAP + 10_000
    every = sorted(documents(resolve(CorpusSpec("big", str(path))), "train"), key=lambda document: document.key)
    assert set(chosen) == {document.id for document in every[: len(chosen)]}
