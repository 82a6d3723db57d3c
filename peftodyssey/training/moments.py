"""AdamW's running means in fewer bytes: 8 bits a number in blocks with a scale each. Called by `train.frugal`.

Dettmers et al., 8-bit Optimizers via Block-wise Quantization, arXiv 2110.02861, by bitsandbytes' own quantisation: a
dynamic map, signed for the first moment and unsigned for the second. Small tensors stay in float32, as they do there.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

BLOCK = 256  # numbers that share a scale
SMALL_NUMBERS = 4096  # of a tensor below which nothing is gained
KINDS = ("exp_avg", "exp_avg_sq")


def empty(numbers: int, eight_bit: bool, dtype: torch.dtype, place: Mapping[str, object]) -> dict[str, Tensor]:
    """Both moments of so many numbers at zero, as named tensors; `place`: where they lie, as torch.zeros takes it."""
    if not eight_bit or numbers < SMALL_NUMBERS:
        dtype = torch.float32 if numbers < SMALL_NUMBERS else dtype
        return {kind: torch.zeros(numbers, dtype=dtype, **place) for kind in KINDS}  # type: ignore[call-overload]
    found = {}
    for kind in KINDS:
        zero = int(torch.argmin(_map(kind, torch.device("cpu")).abs()))
        found[kind] = torch.zeros(numbers, dtype=torch.uint8, **place).fill_(zero)  # type: ignore[call-overload]
        found[f"{kind}.scale"] = torch.zeros(-(-numbers // BLOCK), dtype=torch.float32, **place)  # type: ignore[call-overload]
    return found


def read(state: Mapping[str, Tensor], kind: str, begin: int, end: int, device: torch.device) -> Tensor:
    """The numbers from `begin` (a multiple of BLOCK) to `end` in float32 on `device`."""
    stored = state[kind][begin:end].to(device, non_blocking=True)
    if stored.dtype != torch.uint8:
        return stored.to(torch.float32) if stored.dtype in (torch.bfloat16, torch.float16) else stored.clone()
    from bitsandbytes.functional import dequantize_blockwise

    scale = state[f"{kind}.scale"][begin // BLOCK : -(-end // BLOCK)].to(device, non_blocking=True)
    return dequantize_blockwise(stored, absmax=scale, code=_map(kind, device), blocksize=BLOCK)


def write(state: Mapping[str, Tensor], kind: str, begin: int, numbers: Tensor) -> None:
    """Puts what `read` gave and an update changed back in its place."""
    end = begin + numbers.numel()
    if state[kind].dtype != torch.uint8:
        state[kind][begin:end].copy_(numbers, non_blocking=True)
        return
    from bitsandbytes.functional import quantize_blockwise

    stored, found = quantize_blockwise(numbers, code=_map(kind, numbers.device), blocksize=BLOCK)
    state[kind][begin:end].copy_(stored, non_blocking=True)
    state[f"{kind}.scale"][begin // BLOCK : -(-end // BLOCK)].copy_(found.absmax, non_blocking=True)


_MAPS: dict[tuple[str, torch.device], Tensor] = {}


def _map(kind: str, device: torch.device) -> Tensor:
    from bitsandbytes.functional import create_dynamic_map

    if (kind, device) not in _MAPS:
        _MAPS[kind, device] = create_dynamic_map(signed=kind == KINDS[0]).to(device)
    return _MAPS[kind, device]
