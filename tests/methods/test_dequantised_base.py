"""QLoRA is LoRA on the dequantised base: the same losses, gradients and updates, step by step.

So what QLoRA costs beyond LoRA is what storing the base in four bits does to the weights, and no other arithmetic.
"""

from __future__ import annotations

import copy

import pytest
import torch
from support.adapted_models import (
    IDS,
    max_difference,
    method_spec,
    quantised_model,
    saved_model,
    tiny_model,
)

from peftodyssey.methods.registry import METHODS
from peftodyssey.recipe.cell import QuantSpec

bitsandbytes = pytest.importorskip("bitsandbytes")


def dequantised(quantised, unquantised):
    """`unquantised` with every four-bit weight of `quantised` written out."""
    for name, module in quantised.named_modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            unquantised.get_submodule(name).weight.data = weight.to(torch.float32)
    return unquantised


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_every_step_of_qlora_is_that_of_lora_on_the_dequantised_base(family, tmp_path):
    folder = saved_model(tiny_model(family), tmp_path / "base")
    quantised = quantised_model(folder)
    plain = dequantised(quantised, copy.deepcopy(tiny_model(family)))
    parameters = tiny_model(family).named_parameters()
    changed = max(float((plain.get_parameter(name) - before).abs().max()) for name, before in parameters)
    assert changed > 1e-3, "the base that is written out is not the base before"
    ours = METHODS["qlora"].attach(quantised, method_spec("qlora", quant=QuantSpec("nf4")), 0)
    theirs = METHODS["lora"].attach(plain, method_spec("lora"), 0)
    assert ours.trainable.keys() == theirs.trainable.keys()
    steps = [(one, torch.optim.AdamW(one.trainable.values(), lr=1e-2)) for one in (ours, theirs)]
    for _ in range(4):
        losses = []
        for attached, optimizer in steps:
            optimizer.zero_grad()
            loss = attached.model(input_ids=IDS, labels=IDS).loss
            loss.backward()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], abs=1e-5)
        for name, parameter in ours.trainable.items():
            assert max_difference(parameter.grad, theirs.trainable[name].grad) < 1e-5, name
        for _, optimizer in steps:
            optimizer.step()
    for name, parameter in ours.trainable.items():
        assert max_difference(parameter, theirs.trainable[name]) < 1e-4, name
