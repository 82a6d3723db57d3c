"""L2-SP (Li et al., arXiv 1802.01483): the update is pulled back to its start. Called by `train.loop` after each step.

The paper adds strength / 2 * |w - w0|^2 to the loss. Here the pull is decoupled from AdamW's moments, as its weight
decay is (arXiv 1711.05101): w0 + (1 - lr * strength) * (w - w0), the factor never below 0, so that no strength is too
large.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from peftodyssey.training.travelled import DenseUpdate, LoraUpdate


@torch.no_grad()
def apply_l2_sp(changes: Sequence[DenseUpdate | LoraUpdate], lr: float, strength: float) -> None:
    """Shortens every change by the share `lr * strength`, at most by all of it."""
    share = max(0.0, 1.0 - lr * strength)
    for change in changes if share < 1 else ():
        change.scale_(share)
