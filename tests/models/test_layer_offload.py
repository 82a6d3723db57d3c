"""A base that is larger than the GPU gives the same numbers: its last layers pass through."""

from __future__ import annotations

import pytest
import torch

from peftodyssey.models import load as models
from peftodyssey.models import source
from peftodyssey.models.layer_offload import layers_on_gpu, offload_layers
from peftodyssey.models.shape_from_config import shape_from_config

GIB = 1 << 30


@pytest.mark.parametrize("shape", ["tiny-llama", "tiny-gpt2", "tiny-gpt_neox"])
def test_the_logits_are_those_of_the_whole_model(shape: str) -> None:
    model_source = source.resolve(f"random/{shape}")
    ids_bt = torch.arange(24).reshape(2, 12)
    whole = models.load(model_source, precision="fp32")
    expected = whole(input_ids=ids_bt).logits
    for staying in (0, 1, shape_from_config(model_source.config).layers):
        parted = offload_layers(models.load(model_source, precision="fp32"), staying, torch.device("cpu"))
        waiting = {name for name, p in parted.named_parameters() if p.device.type == "meta"}
        layers = {int(next(part for part in name.split(".") if part.isdigit())) for name in waiting}
        assert layers == set(range(staying, shape_from_config(model_source.config).layers))
        with torch.no_grad():
            for _ in range(2):
                assert torch.equal(parted(input_ids=ids_bt).logits, expected)


def test_as_many_layers_stay_as_the_gpu_has_room_for() -> None:
    sizes = shape_from_config(source.resolve("random/llama-7b").config)
    counts = [layers_on_gpu(sizes, 2, gib * GIB) for gib in (1, 7, 11, 14, 22)]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[-1] == sizes.layers
    layer = (sizes.parameters - sizes.embedding_parameters - sizes.head_parameters) / sizes.layers * 2
    outside = 2 * (sizes.embedding_parameters + sizes.head_parameters)
    assert (counts[1] + 1) * layer + outside <= 6 * GIB
