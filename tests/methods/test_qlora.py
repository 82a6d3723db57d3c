"""QLoRA on real bitsandbytes NF4 on the CPU: frozen bytes, modes, start, reload, merge into the unquantised base."""

from __future__ import annotations

import pytest
import torch
from support.adapted_models import (
    IDS,
    frozen_digest,
    max_difference,
    method_spec,
    quantised_model,
    saved_model,
    shape_of,
    tiny_model,
    train,
)

from peftodyssey.errors import MethodError
from peftodyssey.methods.registry import METHODS
from peftodyssey.methods.weights import max_change
from peftodyssey.recipe.cell import QuantSpec

bitsandbytes = pytest.importorskip("bitsandbytes")
QLORA = METHODS["qlora"]


def _logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits.float()


def _four_bit_modes(model):
    return {m.training for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)}


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_qlora_keeps_the_laws(family, tmp_path):
    folder = saved_model(tiny_model(family), tmp_path / "base")
    model, given = quantised_model(folder), method_spec("qlora", quant=QuantSpec("nf4"))
    before, digest = _logits(model), frozen_digest(model)
    assert any("quant_map" in key for key in model.state_dict())  # the digest sees quantised storage

    attached = QLORA.attach(model, given, 0)
    assert {p.dtype for p in attached.trainable.values()} == {torch.float32}
    assert sum(p.numel() for p in attached.trainable.values()) == QLORA.count(given, shape_of(tiny_model(family)))
    assert max_difference(_logits(attached.model), before) == 0
    frozen = frozen_digest(attached.model, attached.trainable)
    train(attached)
    assert frozen_digest(attached.model, attached.trainable) == frozen
    assert max_change(attached) > 1e-4
    after = _logits(attached.model)
    assert max_difference(after, before) > 1e-2

    QLORA.export(attached, tmp_path / "adapter")
    assert _four_bit_modes(attached.model) == {True}
    loaded = METHODS["saved"].load(quantised_model(folder), tmp_path / "adapter")
    assert _four_bit_modes(loaded.model) == {True}  # PEFT's eval() did not reach them
    assert max_difference(_logits(loaded.model), after) == 0
    with pytest.raises(MethodError, match="not merged into quantised weights"):
        QLORA.merge(attached)
    merged, drift = QLORA.merge(attached, tiny_model(family))
    assert drift["stored_as"] == "float32"
    assert max_difference(_logits(merged), after) > 0  # the base's quantisation is gone from it
    assert frozen_digest(QLORA.detach(attached)) == digest
    for refused in ("full", "last_layers"):
        with pytest.raises(MethodError, match="quantised"):
            METHODS[refused].attach(model, method_spec(refused), 0)
