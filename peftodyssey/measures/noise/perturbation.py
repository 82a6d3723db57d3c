"""Weights changed in place and restored bit for bit: Gaussian noise, low-rank noise, rounding, a given update.

eps ~ N(0, gamma^2 sigma^2) tensor by tensor, sigma being that of the initialisation and not of the current weights
(arXiv 2503.19206, section 3.3). Numbers are drawn on the device of the tensor, from the pair's number and the tensor's
name alone: the same for every size of the noise, every text and every rung.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn

from peftodyssey.errors import ModelError
from peftodyssey.measures.noise.published_init import published_sigmas
from peftodyssey.models.shape_from_meta_model import linear_shape
from peftodyssey.models.weight_matrices import weight_matrices

Change = Callable[[str, torch.Tensor], torch.Tensor]  # (name, weight) -> its shift, float32, same shape
QUANT_BLOCK = 64  # numbers of a tensor that share a constant in nf4 and fp4


class PerturbationNorm(NamedTuple):
    """Frobenius norm of the change as it is stored, and the same relative to the norm of the weights."""

    norm: float
    relative: float


def sigmas(
    model: nn.Module, tensors: Mapping[str, torch.Tensor], scale: str, reference: Mapping[str, float] | None = None
) -> dict[str, float]:
    """The standard deviation that gamma multiplies, of each tensor.

    `scale`: initializer (the configuration's initializer_range), published (`published_init`), fan_in (1/sqrt of a
    map's inputs), earliest_rung (`reference`, by name), relative (the tensor's own root mean square). Raises ModelError
    where the configuration names no initializer_range, and where no initialisation was published.
    """
    if scale == "initializer":
        std = getattr(model.config.get_text_config(), "initializer_range", None)  # type: ignore[union-attr, operator]
        if not isinstance(std, float | int) or std <= 0:
            raise ModelError(
                "the model's configuration has no initializer_range", "set scale of noise to fan_in or earliest_rung"
            )
        return dict.fromkeys(tensors, float(std))
    if scale == "published":
        inputs = {name: _fan_in(model, name) for name in tensors}
        return published_sigmas(model.config.get_text_config(), inputs, tensors)  # type: ignore[union-attr, operator]
    if scale == "fan_in":
        return {name: 1 / math.sqrt(_fan_in(model, name)) for name in tensors}
    if scale == "earliest_rung":
        assert reference is not None, "the earliest rung is measured before"
        names = {id(weight): name for name, weight in weight_matrices(model).items()}  # a tied head is the embeddings
        return {name: reference[names.get(id(weight), name)] for name, weight in tensors.items()}
    return root_mean_squares(tensors)


def root_mean_squares(tensors: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Root mean square of each tensor."""
    return {name: float(tensor.detach().double().square().mean().sqrt()) for name, tensor in tensors.items()}


def expected_norm(tensors: Mapping[str, torch.Tensor], sigma: Mapping[str, float]) -> float:
    """Root of the expected squared Frobenius norm of Gaussian noise with gamma 1, over all tensors."""
    return math.sqrt(math.fsum(sigma[name] ** 2 * tensor.numel() for name, tensor in tensors.items()))


def _fan_in(model: nn.Module, name: str) -> int:
    """Inputs of a linear map; of an embedding its width, because it may be tied to the head."""
    module = model.get_submodule(name.removesuffix(".weight"))
    return module.weight.shape[1] if isinstance(module, nn.Embedding) else linear_shape(name, module).in_features


def standard_normal(name: str, shape: Sequence[int], device: torch.device, seed: int, what: str = "") -> torch.Tensor:
    """Standard normal numbers, float32, that depend on seed, name and `what` alone (and on the kind of device)."""
    digest = hashlib.sha256(f"{seed}/{name}{what}".encode()).digest()
    generator = torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "little"))
    return torch.randn(tuple(shape), generator=generator, device=device, dtype=torch.float32)


def gaussian(sigma: Mapping[str, float], gamma: float, seed: int) -> Change:
    """Noise of standard deviation gamma times the tensor's sigma."""
    return lambda name, weight: gamma * sigma[name] * standard_normal(name, weight.shape, weight.device, seed)


def low_rank(sigma: Mapping[str, float], gamma: float, seed: int, rank: int) -> Change:
    """Noise of at most `rank`: a product of two Gaussian factors, with the norm of `gaussian` at the same seed."""
    full_rank = gaussian(sigma, gamma, seed)

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        full = full_rank(name, weight)
        if rank >= min(weight.shape):
            return full
        left = standard_normal(name, (weight.shape[0], rank), weight.device, seed, "/left")
        product = left @ standard_normal(name, (rank, weight.shape[1]), weight.device, seed, "/right")
        return product * (full.norm() / product.norm())

    return change


def rounding(kind: str) -> Change:
    """The rounding error of a matrix stored as nf4, fp4 (double quantised, as in QLoRA) or int8."""

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        return _rounded(kind, weight.detach().float()) - weight.detach().float()

    return change


def _rounded(kind: str, weight: torch.Tensor) -> torch.Tensor:
    try:
        import bitsandbytes.functional as bnb
    except ImportError as error:
        raise ModelError(
            f"rounding to {kind} needs bitsandbytes, which is not installed", "pip install bitsandbytes"
        ) from error
    if kind == "int8":  # one constant a row, as bitsandbytes' Linear8bitLt stores it
        largest = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        return (weight * (127 / largest)).round() * (largest / 127)
    stored, state = bnb.quantize_4bit(
        weight.contiguous(), blocksize=QUANT_BLOCK, compress_statistics=True, quant_type=kind
    )
    return bnb.dequantize_4bit(stored, state).float()


def rescaled_update(update: Mapping[str, torch.Tensor], to_length: float) -> Change:
    """A given update, rescaled to one Frobenius norm over all its tensors; other tensors do not change."""
    norm = math.sqrt(math.fsum(float(part.double().square().sum()) for part in update.values()))
    factor = to_length / norm if norm else 0.0

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        if name not in update:
            return torch.zeros_like(weight, dtype=torch.float32)
        return factor * update[name].to(weight.device, torch.float32)

    return change


@contextmanager
def perturbed_weights(
    tensors: Mapping[str, torch.Tensor], originals: Mapping[str, torch.Tensor], change: Change, sign: int = 1
) -> Iterator[PerturbationNorm]:
    """The weights plus `sign` times `change` while the body runs; afterwards the bits of `originals` in any case."""
    change_squared = weights_squared = 0.0
    try:
        with torch.no_grad():
            for name, weight in tensors.items():
                before = originals[name].to(weight.device)
                weight.copy_(before.to(torch.promote_types(before.dtype, torch.float32)) + sign * change(name, weight))
                change_squared += float((weight.double() - before.double()).square().sum())
                weights_squared += float(before.double().square().sum())
        yield PerturbationNorm(
            math.sqrt(change_squared), math.sqrt(change_squared / weights_squared) if weights_squared else 0.0
        )
    finally:
        with torch.no_grad():
            for name, weight in tensors.items():
                weight.copy_(originals[name])
