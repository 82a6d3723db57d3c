"""Scored tokens a second: ours without ranks, with ranks and with the token ledger, a plain transformers loop, and
lm-eval.

    python benchmarks/score.py                     the bundled model and general text
    python benchmarks/score.py --tokens 40000 --context 256 --json out.json
    python benchmarks/score.py --model random/llama-7b --quant nf4 --context 2048 --tokens 131072 --batch-tokens 8192
      on a GPU

All score every token once in windows without overlap; the sums beside the speeds must agree. The ways take turns, and
the best of their repeats counts; the clock is the process's own on a CPU, so that other work on the machine does not
enter, and the wall's on a GPU. The last column is the time over that of ours without ranks: ranks and the ledger are
held to 1.3 of it. A model of random weights reads random tokens, in documents of one context each; beside it stands
transformers with whole logits, in the same batches.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import logging
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from peftodyssey import assets
from peftodyssey.constants import SCORE_BATCH_TOKENS
from peftodyssey.corpora import source as corpora
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import Index, build_index, read_index
from peftodyssey.measures.tokens import compute as token_breakdown
from peftodyssey.measures.tokens import groups as token_groups
from peftodyssey.models import load as models
from peftodyssey.models import source
from peftodyssey.models.scoring_mode import set_scoring_mode
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.recipe.cell import CorpusSpec, QuantSpec, ScoreSpec
from peftodyssey.scoring import nll
from peftodyssey.scoring.settings import ScoreSettings

MODEL, TEXT = "bundled/odyssey-3m", "wiki_general"
BASE = "ours, without ranks"


def plain(model: torch.nn.Module, rows: list[np.ndarray], context: int, prefix: int, device: str) -> float:
    """Summed NLL by a loop over windows one by one, all logits at once; the last window of a document reads back a
    whole context.
    """
    total = 0.0
    with torch.no_grad():
        for row in rows:
            for begin in range(0, len(row), context):
                end = min(begin + context, len(row))
                first = max(end - context, 0)
                before = prefix if first == 0 else int(row[first - 1])
                ids = torch.tensor([[before, *row[first:end].tolist()]], device=device)
                logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()[0, begin - first :]
                total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1 + begin - first :], reduction="sum"))
    return total


@contextlib.contextmanager
def without_ranks() -> Iterator[None]:
    """Our scoring as it would be without ranks: the place of the ranks is filled with ones."""
    full = nll.nll_and_rank

    def alone(logits_nv: torch.Tensor, target_n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        true = logits_nv.gather(1, target_n[:, None])
        return (logits_nv.logsumexp(1) - true[:, 0]).clamp_min(0), torch.ones(
            len(target_n), dtype=torch.int32, device=target_n.device
        )

    nll.nll_and_rank = alone
    try:
        yield
    finally:
        nll.nll_and_rank = full


def parted(index: Index, before_nats: np.ndarray, after_nats: np.ndarray) -> None:
    """The token ledger of a change: every factor, and the token types."""
    factors = (
        token_groups.by_class(index.token_class),
        token_groups.by_position(index.position),
        token_groups.by_surprisal(before_nats),
    )
    for factor in factors:
        token_breakdown.by_group(before_nats, after_nats, factor.label, factor.names)
    token_breakdown.by_token(before_nats, after_nats, index.token)


def stock(model: torch.nn.Module, rows: list[np.ndarray], prefix: int, batch_tokens: int, device: str) -> float:
    """Summed NLL by transformers alone: batches of rows of one length, all their logits at once."""
    total, each = 0.0, max(1, batch_tokens // len(rows[0]))
    with torch.no_grad():
        for begin in range(0, len(rows), each):
            ids = torch.from_numpy(np.stack(rows[begin : begin + each]).astype(np.int64)).to(device)
            before = torch.cat([torch.full_like(ids[:, :1], prefix), ids[:, :-1]], dim=1)
            logits = model(input_ids=before, use_cache=False).logits.float().flatten(0, 1)
            total += float(torch.nn.functional.cross_entropy(logits, ids.flatten(), reduction="sum"))
    return total


def random_index(vocabulary: int, tokens: int, context: int) -> Index:
    """Random tokens, each document of one context."""
    rows = max(1, tokens // context) * context
    zeros, starts = np.zeros(rows, np.int32), np.arange(0, rows + 1, context)
    return Index(
        folder=None,
        document=np.repeat(np.arange(len(starts) - 1, dtype=np.int32), context),
        position=zeros,
        token=np.random.default_rng(0).integers(0, vocabulary, rows).astype(np.int32),
        start=zeros,
        end=zeros,
        bytes=zeros,
        token_class=zeros.astype(np.int8),
        trained=np.ones(rows, bool),
        starts=starts,
    )


def harness(model: torch.nn.Module, texts: list[str], context: int) -> float:
    """Summed NLL by lm-eval."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(assets.unpack_model("odyssey-3m"))
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    scorer = HFLM(pretrained=model, tokenizer=tokenizer, max_length=context, batch_size=16)
    requests = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar is drawn whatever one asks for
        return -sum(scorer.loglikelihood_rolling(requests, disable_tqdm=True))


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL, help="the bundled model, or random/<shape>")
    parser.add_argument("--quant", choices=("nf4", "fp4"))
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument(
        "--batch-tokens", type=int, help="of one pass of ours and of stock; without it ours chooses by the device"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--without-lm-eval", action="store_true", help="where it is not installed")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model_source, bundled = source.resolve(options.model), options.model == MODEL
    precision = "bf16" if options.device == "cuda" and not bundled else "fp32"
    quant = QuantSpec(options.quant, True) if options.quant else None
    model = models.load(model_source, precision=precision, quant=quant, device=options.device)
    tokenizer = load_tokenizer(model_source) if bundled else None
    if tokenizer is None:
        index = random_index(model.config.vocab_size, options.tokens, options.context)
    else:
        corpus = corpora.resolve(CorpusSpec(name=TEXT, source=f"bundled/{TEXT}"))
        with tempfile.TemporaryDirectory() as folder:
            build_index(
                documents(corpus, "test", None),
                tokenizer,
                Path(folder),
                max_tokens=options.tokens,
                newline="keep",
                name=TEXT,
            )
            index = read_index(Path(folder))
    rows = [index.token[a:b] for a, b in itertools.pairwise(index.starts)]
    point = ScoreSpec(options.context, options.context, None, "bos", "documents")
    prefix = 0 if tokenizer is None else tokenizer.prefix_id
    assert prefix is not None
    set_scoring_mode(model)

    def ours() -> float:
        nll_nats = nll.score_index(
            model,
            index,
            point,
            ScoreSettings(options.device, options.batch_tokens, precision=precision),
            prefix=prefix,
        ).nll_nats.astype(np.float64)
        columns.append(nll_nats)
        return float(np.nansum(nll_nats))

    def bare() -> float:
        with without_ranks():
            return ours()

    def with_ledger() -> float:
        nats = ours()
        parted(index, columns[0], columns[-1] + 0.01)  # the base's column is there; what was adapted has another
        return nats

    columns: list[np.ndarray] = []
    ours()
    ways = {BASE: bare, "ours, with ranks": ours, "ours, with ranks and token ledger": with_ledger}
    if tokenizer is None:
        ways["stock transformers"] = lambda: stock(
            model, rows, prefix, options.batch_tokens or SCORE_BATCH_TOKENS[options.device], options.device
        )
    else:
        texts = [tokenizer.decode(row.tolist()) for row in rows]
        ways["plain loop"] = lambda: plain(model, rows, options.context, prefix, options.device)
        if not options.without_lm_eval:
            ways["lm-eval, rolling"] = lambda: harness(model, texts, options.context)
    results = measured(ways, len(index.token), options.repeats, options.device, 1e-4 if precision == "fp32" else 1e-3)
    what = (
        f"{options.model} {options.quant or precision}, {len(index.token):,} "
        f"{'random tokens' if tokenizer is None else f'tokens of {TEXT}'}"
    )
    table = Table(title=f"{what}, context {options.context}", title_justify="left")
    for column in ("", "tokens/s", "NLL, nats", "time", "reserved"):
        table.add_column(column, justify="right" if column else "left")
    for name, result in results.items():
        peak = f"{result['peak_bytes'] / (1 << 30):.2f} GiB" if result["peak_bytes"] else "-"
        table.add_row(
            name, f"{result['tokens_per_second']:,.0f}", f"{result['nll_nats']:,.2f}", f"{result['ratio']:.2f}", peak
        )
    Console(width=110).print(table)
    if options.json:
        from peftodyssey.store.versions import versions

        hardware = (
            torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
        )
        options.json.write_text(
            json.dumps({"hardware": hardware, "versions": versions(), "results": results}, indent=1) + "\n"
        )


def measured(
    ways: dict[str, Callable[[], float]], tokens: int, repeats: int, device: str, agree: float
) -> dict[str, dict[str, float]]:
    """Speed, summed NLL, relative time and, on a GPU, reserved bytes of each way: the best of `repeats` rounds of
    turns.
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    nats: dict[str, float] = {}
    peaks = dict.fromkeys(ways, 0)
    for _ in range(repeats):
        for name, run in ways.items():
            if device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            begun = clock()
            nats[name] = run()
            seconds[name].append(clock() - begun)
            peaks[name] = torch.cuda.max_memory_reserved() if device == "cuda" else 0
    sums = list(nats.values())
    assert np.allclose(sums, sums[0], rtol=agree), f"not the same sum: {nats}"
    best = {name: min(measured_seconds) for name, measured_seconds in seconds.items()}
    return {
        name: {
            "tokens_per_second": tokens / best[name],
            "nll_nats": nats[name],
            "ratio": best[name] / best[BASE],
            "peak_bytes": peaks[name],
        }
        for name in ways
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
