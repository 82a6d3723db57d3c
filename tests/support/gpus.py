"""GPUs and hosts that a plan is made for without having them."""

from __future__ import annotations

from peftodyssey.memory.device import Device

GIB = 1 << 30


def gpu(memory_gib: float, *, bf16: bool = True, host_gib: float | None = None) -> Device:
    """A CUDA GPU of `memory_gib` GiB, all free, in a host with `host_gib` GiB free."""
    size, host = int(memory_gib * GIB), None if host_gib is None else int(host_gib * GIB)
    name, capability = ("Ampere", (8, 6)) if bf16 else ("Tesla T4", (7, 5))
    return Device("cuda", f"a pretended {name}", size, size, bf16, capability, host)
