"""Singular values and left singular vectors of weights, on the weights' own device.

In float64, from the eigenvectors of the smaller Gram matrix: several times faster than a singular value decomposition,
with an error of 1e-8 of the largest value, below the rounding of float32 weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MIN_RELATIVE_VALUE = 1e-7  # of the largest singular value: the left vectors of smaller values are rounding


def left_singular_vectors(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(values [k] descending, left vectors [out, k]), float64, of a matrix [out, in], without rounding."""
    import torch

    wide = matrix.double()
    tall = wide.shape[0] > wide.shape[1]
    squares, vectors = torch.linalg.eigh(wide.T @ wide if tall else wide @ wide.T)
    values, vectors = squares.clamp(min=0).sqrt().flip(0), vectors.flip(1)
    large = values > MIN_RELATIVE_VALUE * values[0]
    values, vectors = values[large], vectors[:, large]
    return values, (wide @ vectors) / values if tall else vectors


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """All singular values, descending, float64, of a matrix [out, in]."""
    import torch

    wide = matrix.double()
    gram = wide.T @ wide if wide.shape[0] > wide.shape[1] else wide @ wide.T
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)


def of_rank(matrix: torch.Tensor, rank: int) -> torch.Tensor:
    """The nearest matrix of at most `rank` to a matrix [out, in] in the Frobenius norm (Eckart and Young 1936).

    The matrix itself, the same object, where its rank cannot be larger; zeros for rank 0.
    """
    import torch

    if rank >= min(matrix.shape):
        return matrix
    if rank == 0:
        return torch.zeros_like(matrix)
    wide = matrix.double()
    tall = wide.shape[0] > wide.shape[1]
    vectors = torch.linalg.eigh(wide.T @ wide if tall else wide @ wide.T).eigenvectors[:, -rank:]
    nearest = (wide @ vectors) @ vectors.T if tall else vectors @ (vectors.T @ wide)
    return nearest.to(matrix.dtype)


def low_rank_singular_values(lora_B: torch.Tensor, lora_A: torch.Tensor) -> torch.Tensor:
    """The singular values, descending, float64, of `lora_B` [out, r] @ `lora_A` [r, in]; the product is not made."""
    import torch

    inner = torch.linalg.qr(lora_B.double(), mode="r").R @ torch.linalg.qr(lora_A.double().T, mode="r").R.T
    return torch.linalg.svdvals(inner)
