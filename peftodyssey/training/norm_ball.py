"""A ball around the start that no matrix leaves: projection after each step. Called by `train.loop`.

Gouk, Hospedales and Pontil (arXiv 2002.08253) project each layer's weights back to a radius around the pretrained ones;
here the radius is a share of the matrix's own Frobenius norm, so that one number means the same for matrices of all
sizes. Shortening the difference is the Euclidean projection; for LoRA it is that of the product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from peftodyssey.training.travelled import DenseUpdate, LoraUpdate


@torch.no_grad()
def project_to_norm_ball(changes: Sequence[DenseUpdate | LoraUpdate], radius: float) -> None:
    """Shortens each change to at most `radius` times the Frobenius norm of its matrix; shorter ones keep their bits."""
    for change in changes:
        length, most = change.norm(), radius * change.start_norm
        change.scale_(torch.where(length > most, most / length, torch.ones_like(length)))
