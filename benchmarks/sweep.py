"""A sweep of adapters: one after the other by the stock stack and by ours, and together by multi-LoRA.

    python benchmarks/sweep.py                                   8 and 16 members on the bundled model
    python benchmarks/sweep.py --model random/llama-7b --quant nf4 --shape 1x512 --gradient-checkpointing full
    python benchmarks/sweep.py --json out.json                   also as JSON, with versions and hardware

Three rows for each number of members, because multi-LoRA gains from fuller matrices, fewer launches and one
dequantisation: where a single training already fills the processor, it gains nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from pathlib import Path

import torch
import trainings
from rich.console import Console
from rich.table import Table
from trainings import Setting


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="bundled/odyssey-3m")
    parser.add_argument("--quant", choices=("nf4", "fp4"))
    parser.add_argument("--shape", default="4x256", metavar="BLOCKSxTOKENS")
    parser.add_argument("--gradient-checkpointing", choices=("none", "selective", "full"), default="none")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--members", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--micro-batch-size", type=int, default=1, help="sequences of each member in one joint pass")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    blocks, seq_len = map(int, options.shape.split("x"))
    precision = "bf16" if options.device == "cuda" else "fp32"
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
    )
    base = trainings.base_of(setting)
    stock, ours = trainings.stock(base, setting), trainings.by_loop(base, setting)
    table = Table(
        title=f"one step of every member, {options.model}, {blocks} x {seq_len} tokens each", title_justify="left"
    )
    for column in (
        "members",
        "stock, one by one",
        "ours, one by one",
        "ours, together",
        "times stock",
        "reserved together",
    ):
        table.add_column(column, justify="right")
    rows = []
    for members in options.members:
        together = trainings.multi_lora(base, setting, members, min(options.micro_batch_size, blocks))
        seconds = stock.seconds * members, ours.seconds * members, together.seconds
        peak = "-" if together.peak_bytes is None else f"{together.peak_bytes / 2**30:.2f} GiB"
        table.add_row(str(members), *(f"{each:.4f} s" for each in seconds), f"{seconds[0] / seconds[2]:.2f}", peak)
        rows.append(
            {"members": members, **vars(setting), "stock": vars(stock), "ours": vars(ours), "together": vars(together)}
        )
    console = Console(width=130)
    console.print(table)
    console.print(
        f"after {options.steps} steps, loss and gradient norm: stock {stock.loss_nats:.4f}, {stock.grad_norm:.3f}; "
        f"ours {ours.loss_nats:.4f}, {ours.grad_norm:.3f}; together {together.loss_nats:.4f}, "
        f"{together.grad_norm:.3f}"
    )
    if options.json:
        from peftodyssey.store.versions import versions

        hardware = (
            torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
        )
        options.json.write_text(
            json.dumps({"hardware": hardware, "versions": versions(), "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
