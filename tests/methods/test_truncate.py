"""The full update cut to a rank: the whole update at full rank, the base at rank 0, and in between NumPy's SVD."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.adapted_models import frozen_digest, logits, max_difference, method_spec, tiny_model, train

from peftodyssey.errors import MethodError
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.weight_updates import iter_updates

FULL, TRUNCATE = METHODS["full"], METHODS["truncate"]


def cut(rank, vectors):
    return method_spec("truncate", rank=rank, options={"vectors": vectors})


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def trained(request, tmp_path_factory):
    """The family, the folder of a full fine-tuning, its logits, and its updates by name."""
    folder = tmp_path_factory.mktemp(request.param) / "weights"
    attached = FULL.attach(tiny_model(request.param), method_spec("full"), 0)
    train(attached)
    FULL.export(attached, folder)
    return request.param, folder, logits(attached.model), {u.name: u.dense.clone() for u in iter_updates(attached)}


def test_the_ends_are_the_full_update_and_the_base_bit_for_bit(trained):
    family, folder, tuned, _ = trained
    base = tiny_model(family)
    before, digest = logits(base), frozen_digest(base)
    assert max_difference(before, tuned) > 0.01
    whole = TRUNCATE.load(base, folder, cut(100_000, "in"))
    assert torch.equal(logits(whole.model), tuned)
    assert frozen_digest(TRUNCATE.detach(whole)) == digest
    nothing = TRUNCATE.load(base, folder, cut(0, "out"))
    assert torch.equal(logits(nothing.model), before)
    assert frozen_digest(TRUNCATE.detach(nothing)) == digest


@pytest.mark.parametrize("vectors", ["in", "out"])
def test_each_matrix_is_the_nearest_of_its_rank_and_vectors_stay_as_asked(trained, vectors):
    family, folder, _, updates = trained
    attached = TRUNCATE.load(tiny_model(family), folder, cut(3, vectors))
    left = {update.name: update.dense for update in iter_updates(attached)}
    assert left.keys() == updates.keys()
    matrices = [name for name, update in updates.items() if update.ndim == 2]
    assert any("embed" in name or "wte" in name for name in matrices)
    for name, update in updates.items():
        if name in matrices:
            u, s, v = np.linalg.svd(update.double().numpy(), full_matrices=False)
            nearest = (u[:, :3] * s[:3]) @ v[:3]
            assert np.abs(left[name].numpy() - nearest).max() < 1e-5 * max(1.0, float(s[0]))
        else:
            assert torch.equal(left[name], update if vectors == "in" else torch.zeros_like(update))


def test_there_is_nothing_to_attach_before_the_training():
    with pytest.raises(MethodError):
        TRUNCATE.attach(tiny_model("llama"), cut(3, "in"), 0)
