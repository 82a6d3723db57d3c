"""Four LoRA cells that train together: two on a short text, whose trainings end first, and two on a long one."""

from __future__ import annotations

import json
from pathlib import Path

RECIPE = """\
version: 1
name: lengths
seeds: [0]
model: {name: bundled/odyssey-3m, revisions: [annealed-64M]}
domains: [{name: short, path: short.jsonl}, {name: long, path: long.jsonl}]
general: [bundled/wiki_general]
methods: [{method: lora, rank: [2, 8], lr: 1e-2, dropout: 0.1}]
train: {budget: 1 epochs, seq_len: 64, batch_tokens: 256, eval_at: [50%, 100%]}
score: {context: 64, stride: 48, tokens: 300}
measure: [degradation, forgetting]
"""
CELLS = 4


def write(folder: Path) -> Path:
    """The recipe beside its texts, in `folder`."""
    for name, documents in (("short", 30), ("long", 60)):
        texts = [" ".join(f"{name} {word * number % 97}" for word in range(20)) for number in range(1, documents + 1)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = folder / "lengths.yaml"
    path.write_text(RECIPE)
    return path
