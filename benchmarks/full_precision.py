"""What bf16 weights and 8-bit moments change: loss curves of full fine-tuning beside AdamW in float32, on the bundled
model.

    python benchmarks/full_precision.py                 60 steps of 16 x 128 tokens, on the CPU some minutes
    python benchmarks/full_precision.py --device cuda   the same on a GPU
    python benchmarks/full_precision.py --json out.json also as JSON, with versions and hardware

Every way sees the same batches at the same learning rate. The column `noise` is what another order of the same text
does to float32 AdamW: differences below it say nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from peftodyssey.corpora import source as corpora
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import build_index, read_index
from peftodyssey.corpora.packing import PackedSequences, SpecialTokens, pack
from peftodyssey.models import load as models
from peftodyssey.models import source
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.recipe.cell import CorpusSpec
from peftodyssey.training import low_memory_adamw
from peftodyssey.training.loop import train
from peftodyssey.training.settings import TrainSettings

MODEL, TEXT = "bundled/odyssey-3m", "arxiv_cs.CL"
FLOAT32 = "float32"
WAYS = {
    FLOAT32: {},
    "noise": {"seed": 1},
    "8-bit moments": {"optimizer": "adamw8bit"},
    "bf16 weights, stochastic": {"precision": "bf16"},
    "bf16 weights, stochastic, 8-bit": {"precision": "bf16", "optimizer": "adamw8bit"},
    "bf16 weights, to nearest": {"precision": "bf16", "nearest": True},
}


def curve(way: dict[str, object], blocks: PackedSequences, settings: TrainSettings, device: str) -> list[float]:
    """Training loss by step, nats a token."""
    own = dict(way)
    nearest = own.pop("nearest", False)
    model = models.load(source.resolve(MODEL), precision=str(own.get("precision", "fp32")), device=device)
    model.requires_grad_(True)
    with (
        mock.patch.object(low_memory_adamw, "stochastic_round_bf16", lambda wide, _: wide.to(torch.bfloat16))
        if nearest
        else mock.patch.dict({})
    ):
        result = train(model, dict(model.named_parameters()), blocks, replace(settings, **own), device=device)  # type: ignore[arg-type]
    return [record.loss_nats for record in result.log]


def text(seq_len: int) -> PackedSequences:
    """The bundled text in blocks of the bundled model's tokens."""
    tokenizer = load_tokenizer(source.resolve(MODEL))
    corpus = corpora.resolve(CorpusSpec(name=TEXT, source=f"bundled/{TEXT}"))
    with tempfile.TemporaryDirectory() as folder:
        build_index(
            documents(corpus, "train", None), tokenizer, Path(folder), max_tokens=200_000, newline="keep", name=TEXT
        )
        index = read_index(Path(folder))
    return pack(index, SpecialTokens(tokenizer.bos_id, tokenizer.eos_id), seq_len=seq_len, seed=0, objective="text")


def table_of(curves: dict[str, list[float]], window: int) -> Table:
    """Mean loss of so many steps at a time, and the largest distance of these means to those of float32."""
    steps = len(curves[FLOAT32])
    means = {name: np.array(losses).reshape(-1, window).mean(1) for name, losses in curves.items()}
    table = Table(title=f"loss of full fine-tuning, nats a token, means of {window} steps", title_justify="left")
    for column in ("", *(f"to step {end}" for end in range(window, steps + 1, window)), "largest distance"):
        table.add_column(column, justify="left" if not column else "right")
    for name, values in means.items():
        far = np.abs(values - means[FLOAT32]).max()
        table.add_row(name, *(f"{value:.4f}" for value in values), "" if name == FLOAT32 else f"{far:.4f}")
    return table


def main() -> None:
    """Train each way, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=150)
    blocks = text(128)
    settings = TrainSettings(
        lr=options.lr, steps=options.steps, batch_size=16, micro_batch_size=16, schedule="constant", warmup=0.1
    )
    curves = {}
    for name, way in WAYS.items():
        curves[name] = curve(way, blocks, settings, options.device)
        console.print(f"{name}: ends at {curves[name][-1]:.4f}", style="dim")
    console.print(table_of(curves, max(1, options.steps // 6)))
    if options.json:
        from peftodyssey.store.versions import versions

        hardware = (
            torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
        )
        content = {"hardware": hardware, "versions": versions(), "lr": options.lr, "curves": curves}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
