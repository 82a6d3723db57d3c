"""What `auto` means on a device: precision, 4-bit compute type, optimiser. These enter a cell's identity."""

from __future__ import annotations

from peftodyssey.errors import InputError
from peftodyssey.memory.device import Device
from peftodyssey.recipe.cell import Cell
from peftodyssey.recipe.method_grid import source_of


def resolve_auto(cell: Cell, device: Device) -> dict[str, str | None]:
    """The resolved settings of one cell; InputError where the device cannot do what the recipe says."""
    precision = _precision(cell.train.precision, device)
    method = source_of(cell.method)
    master = method.options.get("master_weights", "fp32") if method.method == "full" else "fp32"
    _check_master_weights(master, precision, device)
    optimizer = "adamw" if cell.train.optimizer == "auto" else cell.train.optimizer
    state = "fp32" if master == "fp32" else precision
    return {
        "precision": precision,
        "compute_dtype": precision if cell.method.quant else None,
        "optimizer": optimizer,
        "optimizer_state": "8bit" if optimizer == "adamw8bit" else state,
        "master_weights": "fp32" if master == "fp32" else precision,
    }


def _precision(precision: str, device: Device) -> str:
    if precision == "auto":
        return "bf16" if device.bf16 else "fp32" if device.kind == "cpu" else "fp16"
    if precision == "fp16" and device.kind == "cpu":
        raise InputError("train.precision fp16 needs a GPU, and this run is on the CPU", "use fp32, bf16 or auto")
    if precision == "bf16" and device.kind == "cuda" and not device.bf16:
        raise InputError(f"{device.name} has no bf16", "set train.precision to fp16, fp32 or auto")
    return precision


def _check_master_weights(master: str, precision: str, device: Device) -> None:
    """bf16 master weights need bf16 compute: fp32 would save nothing, and loss scaling in fp16 needs fp32 weights."""
    if master == "fp32" or precision == "bf16":
        return
    if precision == "fp32":
        raise InputError(
            "master_weights: bf16 keeps trained weights in bf16, and this run computes in fp32",
            "set train.precision to bf16, or master_weights to fp32",
        )
    raise InputError(
        f"{device.name} has no bf16, and full with master_weights: bf16 cannot train in fp16: gradients overflow and "
        "small updates are lost",
        "set master_weights to fp32, or train an adapter (lora, qlora), whose weights are kept in fp32",
    )
