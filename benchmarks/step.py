"""Seconds of one LoRA step: the stock stack, TRL, unsloth where it is installed, ours alone and by multi-LoRA, and the
bound.

    python benchmarks/step.py                                          the bundled model, on a CPU in some minutes
    python benchmarks/step.py --model random/llama-7b --quant nf4 --shapes 1x512 8x512 1x2048 4x2048
      --gradient-checkpointing full
    python benchmarks/step.py --model random/gpt2 --shapes 4x512       on a GPU: bf16 and random weights
    python benchmarks/step.py --model random/llama-7b --quant nf4 --shapes 1x512 4x2048 --gradient-checkpointing full
      --offload-activations
    python benchmarks/step.py --json out.json                          also as JSON, with versions and hardware

Rows of one shape are measured in one run, one after the other, and are to be read as ratios. Loss and gradient norm
after the last step stand beside the stock stack's: a fast step that trains something else is none. The bound is the
arithmetic of a frozen base (forward, backward to activations, recomputation) at the speed of a large matrix product,
measured here.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import trainings
from rich.console import Console
from rich.table import Table
from trainings import Setting, Timed

from peftodyssey.models import source
from peftodyssey.models.shape_from_config import shape_from_config

GIB = 1 << 30


def matrix_flops(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product."""
    size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * size**3 / best


def bound_seconds(setting: Setting, flops: float) -> float:
    """The least time of a step: 2 operations a weight and token forward, 2 backward, 2 again where recomputed;
    attention beside.
    """
    sizes = shape_from_config(source.resolve(setting.model).config)
    weights = sum(m.in_features * m.out_features for m in sizes.linears) + sizes.vocabulary * sizes.hidden
    passes = 3 if setting.gradient_checkpointing == "full" else 2
    attention = 2 * sizes.layers * sizes.heads * sizes.head_dim * setting.seq_len  # causal: half of the square
    return passes * (2 * weights + attention) * setting.tokens / flops


def measured(setting: Setting, members: int, micro_batch_size: int, console: Console) -> dict[str, Any]:
    """Every way of one shape."""
    base = trainings.base_of(setting)
    results: dict[str, Any] = {}
    ways = {
        "stock": lambda: trainings.stock(base, setting),
        "TRL": lambda: trainings.trl(base, setting),
        "unsloth": lambda: trainings.unsloth(base, setting),
        "ours": lambda: trainings.by_loop(base, setting),
        f"ours, {members} together": lambda: trainings.multi_lora(base, setting, members, micro_batch_size),
    }
    alone: list[float] = []  # before and after multi-LoRA, because processors change their pace
    for name, run in ways.items():
        alone += trainings.base_only(base, setting, members) if "together" in name else []
        try:
            results[name] = run()
        except (RuntimeError, torch.OutOfMemoryError) as error:
            results[name] = str(error).splitlines()[0]
        console.print(f"{setting.blocks} x {setting.seq_len}, {name}: done", style="dim")
    results["base alone"] = statistics.median(alone + trainings.base_only(base, setting, members))
    return results


def table_of(setting: Setting, results: dict[str, Any], members: int, flops: float) -> Table:
    """One line a way."""
    what = f"{setting.model.removeprefix('random/')} {setting.quant or setting.precision} r={setting.rank}"
    memory_settings = f"gradient checkpointing {setting.gradient_checkpointing}" + (
        ", ours with activations on the host" if setting.offload_activations else ""
    )
    table = Table(title=f"{what}, {setting.blocks} x {setting.seq_len} tokens, {memory_settings}", title_justify="left")
    for column in ("", "s/step", "tokens/s", "times stock", "reserved", f"loss after {setting.steps}", "gradient norm"):
        table.add_column(column, justify="right" if column else "left")
    stock = results["stock"].seconds if isinstance(results["stock"], Timed) else None
    for name, timed in results.items():
        if isinstance(timed, str):
            table.add_row(name, timed)
        elif isinstance(timed, Timed):
            steps = members if "together" in name else 1
            each = timed.seconds / steps
            peak = "-" if timed.peak_bytes is None else f"{timed.peak_bytes / GIB:.2f} GiB"
            ratio = f"{stock / each:.2f}" if stock else "-"
            table.add_row(
                name,
                f"{timed.seconds:.4f}",
                f"{setting.tokens / each:,.0f}",
                ratio,
                peak,
                f"{timed.loss_nats:.4f}",
                f"{timed.grad_norm:.3f}",
            )
    alone, bound = results["base alone"], bound_seconds(setting, flops)
    table.add_row(f"base alone, tokens of {members}", f"{alone:.4f}", f"{members * setting.tokens / alone:,.0f}")
    table.add_row("bound", f"{bound:.4f}", f"{setting.tokens / bound:,.0f}")
    return table


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled/odyssey-3m")
    parser.add_argument("--quant", choices=("nf4", "fp4"))
    parser.add_argument("--shapes", nargs="+", default=["4x256"], metavar="BLOCKSxTOKENS")
    parser.add_argument("--gradient-checkpointing", choices=("none", "selective", "full"), default="none")
    parser.add_argument(
        "--offload-activations", action="store_true", help="ours: what stands between layers waits in host memory"
    )
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--micro-batch-size", type=int, default=1, help="sequences of each member in one joint pass")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console = Console(width=130)
    precision = "bf16" if options.device == "cuda" else "fp32"
    flops = matrix_flops(options.device, torch.bfloat16 if precision == "bf16" else torch.float32)
    console.print(f"matrix product: {flops / 1e12:.2f} TFLOP/s")
    rows = []
    for shape in options.shapes:
        blocks, seq_len = map(int, shape.split("x"))
        setting = Setting(
            options.model,
            options.quant,
            precision,
            options.rank,
            blocks,
            seq_len,
            options.gradient_checkpointing,
            options.steps,
            options.device,
            options.offload_activations,
        )
        results = measured(setting, options.members, min(options.micro_batch_size, blocks), console)
        console.print(table_of(setting, results, options.members, flops))
        rows.append({**vars(setting), **{name: vars(v) if isinstance(v, Timed) else v for name, v in results.items()}})
    if options.json:
        from peftodyssey.store.versions import versions

        hardware = (
            torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
        )
        content = {
            "hardware": hardware,
            "versions": versions(),
            "matrix_flops": flops,
            "members": options.members,
            "rows": rows,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
