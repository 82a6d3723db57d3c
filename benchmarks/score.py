"""Scored tokens a second: ours with ranks, a plain transformers loop, and lm-eval's rolling log-likelihood on the same text.

    python benchmarks/score.py                     the bundled model and general text
    python benchmarks/score.py --tokens 40000 --context 256 --json out.json

All three score every token once in windows without overlap; the sums beside the speeds must agree.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import platform
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from peftodyssey import assets
from peftodyssey.corpora import source as corpora
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import build_index, read_index
from peftodyssey.models import load as models
from peftodyssey.models import source
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.recipe.cell import CorpusPoint, ScorePoint
from peftodyssey.score.nll import score_index

MODEL, TEXT = "bundled/odyssey-3m", "wiki_general"


def plain(model: torch.nn.Module, rows: list[np.ndarray], context: int, prefix: int, device: str) -> float:
    """Summed NLL by a loop over windows, all logits at once."""
    total = 0.0
    with torch.no_grad():
        for row in rows:
            for begin in range(0, len(row), context):
                before = prefix if begin == 0 else int(row[begin - 1])
                ids = torch.tensor([[before, *row[begin : begin + context].tolist()]], device=device)
                logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
                total += float(torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum"))
    return total


def harness(model: torch.nn.Module, texts: list[str], context: int) -> float:
    """Summed NLL by lm-eval."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assets.unpack_model("odyssey-3m"))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    scorer = HFLM(pretrained=model, tokenizer=tokenizer, max_length=context, batch_size=16)
    requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    return -sum(scorer.loglikelihood_rolling(requests, disable_tqdm=True))


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = source.resolve(MODEL)
    tokenizer = load_tokenizer(found)
    model = models.load(found, precision="fp32", device=options.device)
    corpus = corpora.resolve(CorpusPoint(name=TEXT, source=f"bundled/{TEXT}"))
    with tempfile.TemporaryDirectory() as folder:
        build_index(documents(corpus, "test", None), tokenizer, Path(folder), max_tokens=options.tokens, newline="keep", name=TEXT)
        index = read_index(Path(folder))
    rows = [index.token[a:b] for a, b in itertools.pairwise(index.starts)]
    texts = [tokenizer.decode(row.tolist()) for row in rows]
    point = ScorePoint(options.context, options.context, None, "bos", "documents")
    assert tokenizer.prefix is not None
    prefix = tokenizer.prefix
    model.eval()
    ways = {
        "ours, with ranks": lambda: float(np.nansum(score_index(model, index, point, prefix=prefix, device=options.device).nll_nats.astype(np.float64))),
        "plain loop": lambda: plain(model, rows, options.context, prefix, options.device),
        "lm-eval, rolling": lambda: harness(model, texts, options.context),
    }
    table = Table(title=f"{MODEL}, {len(index.token):,} tokens of {TEXT}, context {options.context}", title_justify="left")
    for column in ("", "tokens/s", "NLL, nats"):
        table.add_column(column, justify="right" if column else "left")
    results = {}
    for name, run in ways.items():
        seconds = []
        for _ in range(3):
            begun = time.perf_counter()
            nats = run()
            seconds.append(time.perf_counter() - begun)
        results[name] = {"tokens_per_second": len(index.token) / min(seconds), "nll_nats": nats}
        table.add_row(name, f"{len(index.token) / min(seconds):,.0f}", f"{nats:,.2f}")
    Console(width=110).print(table)
    if options.json:
        from peftodyssey.store.versions import versions

        hardware = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
        options.json.write_text(json.dumps({"hardware": hardware, "versions": versions(), "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
