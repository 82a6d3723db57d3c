"""Planned against measured memory of training steps, as one table.

    python benchmarks/memory.py                    on a GPU where there is one; else every allocation traced without one
    python benchmarks/memory.py --cases quick      a few cases in a minute
    python benchmarks/memory.py --random 100       so many cases drawn from all combinations, by --seed
    python benchmarks/memory.py --longest          the longest block on 8, 12, 16 and 24 GiB (planned)
    python benchmarks/memory.py --json out.json    also as JSON, with versions and hardware

Measured on a GPU: `torch.cuda.max_memory_allocated` and `max_memory_reserved` over three steps in a fresh process, with
random weights; speed plays no part. Traced: the same steps under fake tensors, what is alive counted as the caching
allocator counts it; buffers inside attention kernels and cuBLAS are not seen and left out of the plan's side as well.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from peftodyssey.memory.memory_plan import estimate, simulate_step
from peftodyssey.memory.search import candidate_steps
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.methods.registry import METHODS
from peftodyssey.model_shape import ModelShape
from peftodyssey.models import source
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.recipe.cell import MethodSpec, QuantSpec

GIB, MIB = 1 << 30, 1 << 20
PUBLISHED_LONGEST = {
    8: 2_972,
    12: 21_848,
    16: 40_724,
    24: 78_475,
}  # unsloth's documentation, Llama 3.1 8B, QLoRA rank 32


@dataclass(frozen=True)
class Case:
    """One training step to plan and to measure."""

    model: str
    method: str
    rank: int
    blocks: int
    seq_len: int
    gradient_checkpointing: str
    engine: str
    optimizer: str = "adamw"
    accumulates: bool = False
    offload_activations: bool = False
    master: str = "fp32"

    @property
    def name(self) -> str:
        """The case in words."""
        rank = "" if self.method == "full" else f" r={self.rank}"
        more = [self.optimizer] * (self.optimizer != "adamw") + ["accumulates"] * self.accumulates
        more += ["offload"] * self.offload_activations + ["bf16 weights"] * (self.master == "bf16")
        words = (
            f"{self.model.removeprefix('random/')} {self.method}{rank} {self.blocks}x{self.seq_len} "
            f"{self.gradient_checkpointing} {self.engine}"
        )
        return " ".join([words, *more])


QUICK = (
    Case("random/smollm2-135m", "qlora", 16, 2, 512, "full", "native"),
    Case("random/smollm2-135m", "lora", 16, 2, 512, "none", "native"),
    Case("random/smollm2-135m", "full", 0, 2, 512, "none", "native"),
    Case("random/smollm2-135m", "qlora", 16, 2, 512, "full", "stock"),
    Case("random/gpt2", "lora", 8, 4, 512, "none", "stock"),
)
SEVEN_B = tuple(
    Case("random/llama-7b", "qlora", 16, blocks, seq_len, gradient_checkpointing, engine)
    for engine in ("native", "stock")
    for blocks, seq_len, gradient_checkpointing in (
        (1, 512, "full"),
        (1, 2048, "full"),
        (1, 4096, "full"),
        (4, 2048, "full"),
        (1, 512, "none"),
    )
)


def every_case() -> Iterator[Case]:
    """All combinations of models, methods, shapes, policies and engines that exist."""
    models = (
        "random/llama-3.2-1b",
        "random/smollm2-135m",
        "random/qwen2.5-0.5b",
        "random/gpt2",
        "random/pythia-160m",
        "random/olmo-1b",
    )
    ranks, lengths, blocks = (4, 16, 64), (256, 512, 1024), (1, 2, 4)
    for model, method, rank, seq_len, count in itertools.product(
        models, ("qlora", "lora", "full"), ranks, lengths, blocks
    ):
        for engine, gradient_checkpointing, accumulates in itertools.product(
            ("native", "stock"), ("none", "selective", "full"), (False, True)
        ):
            if engine == "stock" and gradient_checkpointing == "selective":
                continue
            if method == "full" and rank != ranks[0]:
                continue
            yield Case(
                model,
                method,
                rank if method != "full" else 0,
                count,
                seq_len,
                gradient_checkpointing,
                engine,
                accumulates=accumulates,
            )


def step_of(case: Case, shape: ModelShape, large_cublas_workspace: bool = False) -> StepSpec:
    """The case as the plan's step, on a GPU."""
    quant = QuantSpec("nf4", True) if case.method == "qlora" else None
    full = case.method == "full"
    point = MethodSpec(
        case.method, case.method, lr=1e-4, rank=None if full else case.rank, alpha=2.0 * case.rank, quant=quant
    )
    return StepSpec(
        precision="bf16",
        quant=quant,
        trainable=METHODS[case.method].count(point, shape),
        full=full,
        adapter_rank=case.rank,
        seq_len=case.seq_len,
        micro_batch_size=case.blocks,
        gradient_checkpointing=case.gradient_checkpointing,
        engine=case.engine,
        device="cuda",
        optimizer=case.optimizer,
        master=case.master,
        accumulates=case.accumulates,
        offload_activations=case.offload_activations,
        large_cublas_workspace=large_cublas_workspace,
    )


def traced(case: Case) -> dict[str, float]:
    """Planned and traced bytes of the case, without a GPU."""
    from tracing import traced_step

    from peftodyssey.models.load import base_config

    model_source = source.resolve(case.model)
    shape = shape_from_config(model_source.config)
    step = step_of(case, shape)
    tape, seen = simulate_step(shape, step, kernel_workspace=False), traced_step(base_config(model_source)[0], step)
    assert tape.allocator is not None
    return {
        "planned_allocated_bytes": tape.peak_bytes,
        "measured_allocated_bytes": seen.peak_allocated_bytes,
        "planned_reserved_bytes": tape.allocator.peak_reserved_bytes,
        "measured_reserved_bytes": seen.peak_reserved_bytes,
    }


def measured(case: Case) -> dict[str, float]:
    """Planned and measured bytes of the case, in a fresh process on the GPU."""
    environment = {
        **os.environ,
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True" if case.engine == "native" else "",
    }
    command = [sys.executable, __file__, "--one", json.dumps(asdict(case))]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if ended.returncode:
        raise RuntimeError(
            ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else f"exit {ended.returncode}"
        )
    return json.loads(ended.stdout.strip().splitlines()[-1])


def one_on_the_gpu(case: Case) -> dict[str, float]:
    """What `measured` runs: the real step, three times."""
    import torch
    from steps import own_step, stock_step

    from peftodyssey.models.load import load

    model_source = source.resolve(case.model)
    shape = shape_from_config(model_source.config)
    step = step_of(case, shape, large_cublas_workspace=torch.cuda.get_device_capability()[0] >= 9)
    plan = estimate(shape, step)
    model = load(model_source, precision="bf16", quant=step.quant, device="cuda")
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    (own_step if case.engine == "native" else stock_step)(model, step)
    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return {
        "planned_allocated_bytes": plan.peak_allocated_bytes,
        "measured_allocated_bytes": torch.cuda.max_memory_allocated(),
        "planned_reserved_bytes": plan.peak_reserved_bytes,
        "measured_reserved_bytes": torch.cuda.max_memory_reserved(),
        "planned_context_bytes": plan.context_bytes,
        "measured_context_bytes": total - free - torch.cuda.memory_reserved(),
    }


def longest(model: str, rank: int) -> Table:
    """The longest block that fits 8, 12, 16 and 24 GiB, with what the plan does for it."""
    table = Table(title=f"longest block, {model}, QLoRA r={rank}, one block at a time (planned)", title_justify="left")
    for column in ("memory", "tokens", "how", "unsloth, as published for Llama 3.1 8B r=32"):
        table.add_column(column)
    shape = shape_from_config(source.resolve(model).config)
    base = step_of(Case(model, "qlora", rank, 1, 512, "none", "native"), shape)
    for gib, published in PUBLISHED_LONGEST.items():
        tokens, way = _longest(shape, base, gib * GIB)
        how = (
            f"gradient checkpointing {way.gradient_checkpointing}"
            + (", activations on the host" if way.offload_activations else "")
            if way
            else ""
        )
        table.add_row(f"{gib} GiB", f"{tokens:,}" if tokens else "not one of 256", how, f"{published:,}")
    return table


def _longest(shape: ModelShape, base: StepSpec, budget_bytes: int) -> tuple[int, StepSpec | None]:
    low, high, best = 0, 4096, None
    while high - low > 1:  # in units of 256 tokens
        middle = (low + high) // 2
        fitting = [
            w for w in candidate_steps(replace(base, seq_len=middle * 256)) if estimate(shape, w).fits(budget_bytes)
        ]
        low, high, best = (middle, high, fitting[0]) if fitting else (low, middle, best)
    return low * 256, best


def table_of(rows: list[dict[str, object]], how: str) -> Table:
    """One line a case: planned, measured, error; allocated and reserved."""
    table = Table(title=f"planned against {how}", title_justify="left")
    for column in ("case", "allocated: planned", how, "error", "reserved: planned", how, "error"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        if "failed" in row:
            table.add_row(str(row["case"]), str(row["failed"])[:60])
            continue
        cells = [str(row["case"])]
        for kind in ("allocated", "reserved"):
            planned, seen = float(row[f"planned_{kind}_bytes"]), float(row[f"measured_{kind}_bytes"])  # type: ignore[arg-type]
            cells += [f"{planned / MIB:,.0f} MiB", f"{seen / MIB:,.0f} MiB", f"{planned / seen - 1:+.2%}"]
        table.add_row(*cells)
    return table


def summary(rows: list[dict[str, object]]) -> dict[str, float]:
    """Largest errors, and how many cases were planned below what they took by more than the allocator can give back."""
    good = [row for row in rows if "failed" not in row]
    errors = {
        kind: [float(r[f"planned_{kind}_bytes"]) / float(r[f"measured_{kind}_bytes"]) - 1 for r in good]  # type: ignore[arg-type]
        for kind in ("allocated", "reserved")
    }
    false_fits = sum(float(r["planned_reserved_bytes"]) < float(r["measured_allocated_bytes"]) for r in good)  # type: ignore[arg-type]
    return {
        "cases": len(good),
        "failed": len(rows) - len(good),
        "false_fits": false_fits,
        **{f"worst_{kind}": max(map(abs, values), default=0.0) for kind, values in errors.items()},
        **{f"within_3_percent_{kind}": sum(abs(e) <= 0.03 for e in values) for kind, values in errors.items()},
    }


def main() -> None:
    """Plan, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cuda", "trace"), default="auto")
    parser.add_argument("--cases", choices=("quick", "7b", "all"), default="quick")
    parser.add_argument("--random", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--longest", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    console = Console(width=150)
    if options.one:
        print(json.dumps(one_on_the_gpu(Case(**json.loads(options.one)))))
        return
    if options.longest:
        for model in ("random/llama-7b", "random/llama-3-8b"):
            console.print(longest(model, 16))
        return
    import torch

    on_gpu = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    cases = {"quick": QUICK, "7b": SEVEN_B, "all": tuple(every_case())}[options.cases]
    if options.random:
        cases = tuple(random.Random(options.seed).sample(list(every_case()), options.random))
    rows: list[dict[str, object]] = []
    for case in cases:
        begun = time.perf_counter()
        try:
            rows.append({"case": case.name, **(measured if on_gpu else traced)(case)})
        except RuntimeError as error:
            rows.append({"case": case.name, "failed": str(error)})
        console.print(f"{case.name}: {time.perf_counter() - begun:.1f} s", style="dim")
    console.print(table_of(rows, "measured" if on_gpu else "traced"))
    console.print(summary(rows))
    if options.json:
        from peftodyssey.store.versions import versions

        hardware = torch.cuda.get_device_name() if on_gpu else "traced, no GPU"
        content = {"hardware": hardware, "versions": versions(), "summary": summary(rows), "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
