"""Noise of the weights from recipe to report: agreement with a script of its own, copies without a slope, and going on
after a stop.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from support.plans import build, load_recipe
from support.tiny import tiny

from peftodyssey import api, assets
from peftodyssey.errors import Interrupted
from peftodyssey.jobs.context import JobContext, JobOptions
from peftodyssey.jobs.handle import BaseHandle
from peftodyssey.jobs.loaded_models import LoadedModels
from peftodyssey.measures.noise import job as weight_noise
from peftodyssey.measures.noise.table import SHIFTS_FILE
from peftodyssey.memory.device import detect
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.plan.tasks import MeasureTask
from peftodyssey.store import layout, manifest, parquet

RECIPE = """\
version: 1
name: noisy
model: {name: %s, revisions: [%s], equal_rungs: keep}
domains: [%s]
general: [%s]
methods: [{method: full, lr: 1e-3}, {method: lora, rank: 2, lr: 1e-2}]
train: {budget: 1 steps, seq_len: 16, batch_tokens: 16}
score: {context: 16, stride: 16, tokens: 1k}
measure: [{noise: {%s}}]
"""
OPTIONS = JobOptions("cpu", 600.0, "adapters", None)


class Quiet:
    """Callbacks that nobody hears; asks for an end after `scores` scored texts."""

    def __init__(self, scores: float = float("inf")) -> None:
        self.scores = scores

    def step(self, record, steps) -> None: ...
    def evaluated(self, share, corpus, nll_nats) -> None: ...
    def note(self, text) -> None: ...

    def scored(self, name, done, total) -> None:
        self.scores -= done == total

    def should_stop(self) -> bool:
        return self.scores < 0


def ladder(folder: Path, rungs: tuple[str, ...]) -> Path:
    """A local ladder whose rungs are copies of one random model, 10 times as many tokens each."""
    one = tiny("llama", folder / "one")
    for name in rungs:
        shutil.copytree(one, folder / "ladder" / name)
    ladder = [{"name": name, "tokens": 10 ** (6 + index), "arm": "trunk"} for index, name in enumerate(rungs)]
    (folder / "ladder" / "ladder.json").write_text(json.dumps({"rungs": ladder}))
    return folder / "ladder"


def short(path: Path, seed: int) -> Path:
    """70 documents of a dozen words."""
    words = ("the", "sea", "of", "old", "stone", "was", "seen", "from", "hill", "and", "town", "never", "again")
    draw = np.random.default_rng(seed)
    path.write_text("".join(json.dumps({"text": " ".join(draw.choice(words, 12))}) + "\n" for _ in range(70)))
    return path


def perturb(task: MeasureTask, root: Path, callbacks: Quiet | None = None) -> None:
    """The job of one base's noise."""
    handle = BaseHandle(task.base, LoadedModels("cpu", 1 << 32))
    weight_noise.run(task, handle, JobContext(root, OPTIONS, callbacks or Quiet(), {}))


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on three equal rungs."""
    folder = tmp_path_factory.mktemp("copies")
    one, other = (short(folder / f"{name}.jsonl", seed) for seed, name in enumerate(("one", "other")))
    text = RECIPE % (
        ladder(folder, ("a", "b", "c")),
        "a, b, c",
        f"{{name: one, path: {one}, split: {{valid: 10%, test: 60%}}}}",
        f"{{name: other, path: {other}}}",
        "gammas: [0.5, 2], pairs: 3, ranks: [2, full], quantisers: [int8], updates: true, sharpness: true, "
        "documents: 40",
    )
    api.run(text, folder / "out", device="cpu", console=Console(quiet=True))
    return folder / "out"


@pytest.mark.slow
def test_equal_copies_have_equal_rises_and_no_slope(copies: Path) -> None:
    noise = parquet.read(copies / "noise.parquet").to_pylist()
    slopes = parquet.read(copies / "sensitivity.parquet").to_pylist()
    same = ("corpus", "kind", "gamma", "rank", "quantiser", "label")
    by_shift: dict[tuple, set] = {}
    for row in noise:
        by_shift.setdefault(tuple(row[name] for name in same), set()).add(row["rise_nats"])
    assert all(len(values) == 1 for values in by_shift.values())
    assert {row["kind"] for row in noise} == {"gaussian", "low_rank", "update", "quantiser"}
    assert {row["quantity"] for row in slopes} == {"noise", "forgetting", "learning"}
    compared = [row for row in slopes if row["rungs"]]  # the others say why they are not
    assert len(compared) > len(slopes) / 2
    for row in compared:
        assert row["slope"] == pytest.approx(0, abs=1e-9)
        if row["slope_lo"] is not None:
            assert row["slope_lo"] - 1e-9 <= 0 <= row["slope_hi"] + 1e-9
    assert any(row["slope_lo"] is not None and row["repetitions"] == 3 for row in slopes)


@pytest.mark.slow
def test_rows_say_what_was_shifted_and_by_how_much(copies: Path) -> None:
    noise = parquet.read(copies / "noise.parquet").to_pylist()
    gaussian = {(row["corpus"], row["revision"], row["gamma"]): row for row in noise if row["kind"] == "gaussian"}
    for row in noise:
        assert row["nll_perturbed"] == pytest.approx(row["nll_base"] + row["rise_nats"])
        if row["kind"] in ("low_rank", "update"):
            assert row["norm"] == pytest.approx(
                gaussian[row["corpus"], row["revision"], row["gamma"]]["norm"], rel=0.02
            )
        if row["lo"] is not None:
            assert row["lo"] <= row["rise_nats"] <= row["hi"]
    critical = parquet.read(copies / "sharpness.parquet").to_pylist()
    assert {row["direction"] for row in critical} == {"gradient", "update"}
    page = (copies / "report/index.html").read_text()
    assert '<section id="noise"' in page
    assert {f"noise_{name}.png" for name in ("by_rung", "loss", "rank")} <= {
        path.name for path in (copies / "report/figures").iterdir()
    }


@pytest.mark.slow
def test_a_second_run_does_nothing_and_a_stopped_task_goes_on(copies: Path, tmp_path: Path) -> None:
    text = (copies / "recipe.yaml").read_text()
    plan = build(load_recipe(text), detect("cpu"))
    task = next(one for one in plan.measures if one.measure == "noise")
    before = parquet.read(copies / task.folder / SHIFTS_FILE).to_pylist()
    (copies / task.folder / layout.MANIFEST).unlink()
    for path in (copies / task.folder).iterdir():
        path.unlink()
    with pytest.raises(Interrupted):
        perturb(task, copies, Quiet(5))
    saved = json.loads((copies / task.folder / weight_noise.PARTIAL_FILE).read_text())
    assert 0 < len(saved) < len({(r["kind"], r["gamma"], r["rank"], r["pair"], r["sign"]) for r in before})
    perturb(task, copies)
    assert parquet.read(copies / task.folder / SHIFTS_FILE).to_pylist() == before
    assert manifest.read(copies / task.folder) is not None
    _, outcome, _ = api.run_plan(plan, copies, console=Console(quiet=True))
    assert not outcome.worked


@pytest.mark.slow
def test_an_update_elsewhere_gives_no_rows_and_finishes_its_cell(tmp_path: Path) -> None:
    """LoRA leaves the embeddings as they are, so there is no direction; the second run has nothing to do."""
    text = RECIPE % (
        ladder(tmp_path, ("a",)),
        "a",
        f"{{name: one, path: {short(tmp_path / 'one.jsonl', 0)}, split: {{valid: 10%, test: 60%}}}}",
        f"{{name: other, path: {short(tmp_path / 'other.jsonl', 1)}}}",
        "gammas: [1], pairs: 1, tensors: [embeddings], updates: true, documents: 5",
    )
    api.run(text, tmp_path / "out", device="cpu", console=Console(quiet=True))
    rows = parquet.read(tmp_path / "out/noise.parquet").to_pylist()
    assert {(row["kind"], row["label"]) for row in rows} == {("gaussian", None), ("update", "full")}
    plan = build(load_recipe(text), detect("cpu"))
    _, outcome, _ = api.run_plan(plan, tmp_path / "out", console=Console(quiet=True))
    assert not outcome.worked


@pytest.mark.slow
@pytest.mark.parametrize("rung", ["annealed-64M", "trunk-64M"])
def test_the_bundled_ladder_agrees_with_a_script_of_its_own(rung: str, tmp_path: Path) -> None:
    text = RECIPE % (
        "bundled/odyssey-3m",
        rung,
        "bundled/arxiv_cs.CL",
        "bundled/wiki_general",
        "gammas: [0.4], pairs: 2, documents: 99",
    )
    plan = build(load_recipe(text), detect("cpu"))
    bases = LoadedModels("cpu", 1 << 32)
    for task in plan.measures:
        index = next(index for index in plan.indexes if index.folder == task.needs[0])
        from peftodyssey.jobs.index import index as make

        make(index, tmp_path, bases.tokenizer(task.base))
        perturb(task, tmp_path)
        rows = parquet.read(tmp_path / task.folder / SHIFTS_FILE).to_pylist()
        texts = parquet.read(tmp_path / index.folder / layout.DOCUMENTS)["text"].to_pylist()
        mean = {
            key: sum(r["nll_sum_nats"] for r in rows if (r["kind"], r["pair"], r["sign"]) == key)
            / sum(r["tokens"] for r in rows if r["kind"] == "base")
            for key in {(r["kind"], r["pair"], r["sign"]) for r in rows}
        }
        assert mean == pytest.approx(by_hand(rung, texts, gamma=0.4, pairs=2, context=16), abs=2e-5)


@torch.no_grad()
def by_hand(rung: str, texts: list[str], gamma: float, pairs: int, context: int) -> dict[tuple, float]:
    """The same by transformers alone: mean NLL of the first window of each text, by (kind, pair, sign)."""
    from transformers import AutoModelForCausalLM

    from peftodyssey.models.source import resolve

    model = AutoModelForCausalLM.from_pretrained(assets.unpack_model("odyssey-3m", rung), dtype=torch.float32).eval()
    tokenizer = load_tokenizer(resolve("bundled/odyssey-3m", rung))
    documents = [tokenizer.backend.encode(text, add_special_tokens=False).ids[:context] for text in texts]

    def loss() -> float:
        nll = []
        for ids in documents:
            logits = model(torch.tensor([[tokenizer.prefix_id, *ids[:-1]]])).logits[0].double()
            nll += (-logits.log_softmax(-1)[torch.arange(len(ids)), torch.tensor(ids)]).tolist()
        return float(np.mean(nll))

    losses = {("base", None, None): loss()}
    matrices = {name: p for name, p in model.named_parameters() if ".layers." in name and p.ndim == 2}
    for pair in range(pairs):
        for sign in (1, -1):
            before = {name: p.clone() for name, p in matrices.items()}
            for name, p in matrices.items():
                seed = int.from_bytes(hashlib.sha256(f"{pair}/{name}".encode()).digest()[:7], "little")
                p += sign * gamma * 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(seed))
            losses["gaussian", pair, sign] = loss()
            for name, p in matrices.items():
                p.copy_(before[name])
    return losses
