"""Law 3 for patched modules: the loss and gradients of PEFT's and transformers' own, with less saved for backward."""

from __future__ import annotations

import copy

import pytest
import torch
from support.tiny import FAMILIES
from support.trainings import all_trainable, random_model, with_lora
from torch import nn
from torch.autograd import gradcheck

from peftodyssey.models import autograd_functions, source
from peftodyssey.models import load as models
from peftodyssey.models.patching import patch_model
from peftodyssey.recipe.cell import QuantSpec

IDS_BT = torch.arange(24).reshape(2, 12) % 30


def moved(model: nn.Module) -> nn.Module:
    """Adapters away from their start, where half of the gradients are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype) * p.abs().mean().clamp(min=0.1)
    return model


def loss_and_gradients(model: nn.Module) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(5)
    loss = model(input_ids=IDS_BT, labels=IDS_BT).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def require_same(model: nn.Module, relative: float, compute: torch.dtype | None = None) -> None:
    plain = loss_and_gradients(model)
    with patch_model(model, compute) as autocast:
        assert not autocast
        patched = loss_and_gradients(model)
    assert not any("forward" in vars(module) for module in model.modules())
    assert patched[0].item() == pytest.approx(plain[0].item(), rel=relative)
    assert patched[1].keys() == plain[1].keys()
    for name, gradient in plain[1].items():
        assert (patched[1][name] - gradient).abs().max() <= relative * max(gradient.abs().max().item(), 1e-12), name


@pytest.mark.parametrize(("dtype", "relative"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("family", FAMILIES)
def test_lora_gives_the_loss_and_gradients_of_pefts_modules(family, dropout, dtype, relative):
    model, _ = with_lora(random_model(family, dtype=dtype), dropout=dropout)
    require_same(moved(model).train(), relative)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_training_keeps_its_gradients(family):
    model = random_model(family, dtype=torch.float32)
    all_trainable(model)
    require_same(model.train(), 1e-4)


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_on_a_quantised_base(kind):
    from peft import LoraConfig, get_peft_model

    base = models.load(source.resolve("random/tiny-llama"), precision="fp32", quant=QuantSpec(kind, kind == "nf4"))
    model = moved(get_peft_model(base, LoraConfig(r=4, target_modules="all-linear"))).train()
    require_same(model, 1e-4 if kind != "int8" else 1e-3)


def test_unknown_variants_keep_pefts_forward():
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(random_model("llama"), LoraConfig(r=4, target_modules="all-linear", use_dora=True))
    with patch_model(model, torch.bfloat16) as autocast:
        assert autocast
        assert not any("forward" in vars(module) for module in model.modules() if hasattr(module, "lora_A"))


def test_a_disabled_adapter_is_disabled():
    model, _ = with_lora(random_model("llama"))
    moved(model)
    with patch_model(model, None), torch.no_grad():
        on = model(input_ids=IDS_BT).logits
        with model.disable_adapter():
            off = model(input_ids=IDS_BT).logits
    assert not torch.equal(on, off)
    assert torch.allclose(off, random_model("llama")(input_ids=IDS_BT).logits, atol=1e-5)


class _Other(nn.Module):
    """Named like a norm, but another one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.rand(8)), 1e-6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * x / x.abs().mean(-1, keepdim=True)


class OtherRMSNorm(_Other):
    """A norm by the mean of absolute values under a name that promises squares."""


def test_a_module_that_computes_something_else_is_not_patched():
    model = nn.Sequential(OtherRMSNorm())
    with patch_model(model, None):
        assert "forward" not in vars(model[0])


def test_gradients_by_finite_differences():
    torch.manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, requires_grad=True)

    x, lora_A, lora_B, bias, weight = draw(2, 3, 5), draw(2, 5), draw(4, 2), draw(4), draw(4, 5)
    frozen = weight.detach()
    with_bias = autograd_functions.FrozenLinear(lambda: frozen, bias.detach())
    without = autograd_functions.FrozenLinear(lambda: frozen, None)
    gradcheck(lambda x, a, b: autograd_functions.lora_linear(x, None, a, b, with_bias, 0.7), (x, lora_A, lora_B))
    gradcheck(
        lambda x, y, a, b: autograd_functions.lora_linear(x, y, a, b, without, 0.7), (x, draw(2, 3, 5), lora_A, lora_B)
    )
    gradcheck(lambda x, w, b: autograd_functions.linear(x, w, b, torch.float64), (x, weight, bias))
    for plus_one in (False, True):
        gradcheck(lambda x, w, p=plus_one: autograd_functions.rms_norm(x, w, 1e-5, p, torch.float64), (x, draw(5)))
    for name in autograd_functions.ACTIVATIONS:
        gradcheck(lambda g, u, n=name: autograd_functions.gated_activation(g, u, n), (draw(2, 3, 5), draw(2, 3, 5)))


def test_the_number_of_chunks_does_not_matter(monkeypatch):
    x, weight, up = torch.randn(4, 7, 16), torch.rand(16), torch.randn(4, 7, 16)
    whole = (
        autograd_functions.rms_norm(x, weight, 1e-5, False, torch.float32),
        autograd_functions.gated_activation(x, up, "silu"),
    )
    monkeypatch.setattr(autograd_functions, "CHUNK_BYTES", 3 * 4 * 16)
    pieces = (
        autograd_functions.rms_norm(x, weight, 1e-5, False, torch.float32),
        autograd_functions.gated_activation(x, up, "silu"),
    )
    for one, many in zip(whole, pieces, strict=True):  # vectorised and left-over elements round differently
        torch.testing.assert_close(one, many, rtol=1e-6, atol=1e-7)


def saved_by_dtype(model: nn.Module) -> dict[torch.dtype, int]:
    """Numbers that autograd saves beyond the weights, by dtype."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, tuple[torch.dtype, int]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            saved[place] = tensor.dtype, tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model.base_model.model.model(input_ids=torch.arange(256).reshape(2, 128) % 30)
    totals: dict[torch.dtype, int] = {}
    for dtype, numbers in saved.values():
        totals[dtype] = totals.get(dtype, 0) + numbers
    return totals


def test_bf16_adapters_save_no_float32_activations():
    model, trainable = with_lora(random_model("llama", dtype=torch.bfloat16))
    for parameter in trainable.values():
        parameter.data = parameter.data.float()
    plain = saved_by_dtype(copy.deepcopy(model))
    with patch_model(model, torch.bfloat16) as autocast:
        assert not autocast
        patched = saved_by_dtype(model)
    hidden = model.config.hidden_size * 256
    assert plain[torch.float32] > 10 * hidden
    assert patched.get(torch.float32, 0) < hidden  # the attention kernel's one number a token and head
    size_bytes = [sum(numbers * dtype.itemsize for dtype, numbers in saved.items()) for saved in (patched, plain)]
    assert size_bytes[0] < 0.5 * size_bytes[1]


@pytest.mark.parametrize("rows", [1, 2])
def test_rotation_is_transformers_and_its_gradient_is_right(rows):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 5, heads, 8, generator=generator, dtype=torch.float64) for heads in (4, 2))
    angles = torch.randn(
        rows, 5, 8, generator=generator, dtype=torch.float64
    )  # both halves their own: more than a rotation
    cos, sin = angles.cos(), angles.sin()
    expected = apply_rotary_pos_emb(query, key, cos, sin, unsqueeze_dim=2)
    for x, wanted in zip((query, key), expected, strict=True):
        torch.testing.assert_close(autograd_functions.apply_rotary(x, cos, sin), wanted, rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda x: autograd_functions.apply_rotary(x, cos, sin), key.requires_grad_())


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "olmo2"])
def test_the_attention_of_llama_like_families_is_patched(family):
    """Without this test a replacement that is never used would pass all others."""
    model = random_model(family, dtype=torch.float64)
    attention = [module for module in model.modules() if type(module).__name__.endswith("Attention")]
    with patch_model(model, None):
        assert attention
        assert all("forward" in vars(module) for module in attention)
    assert not any("forward" in vars(module) for module in attention)


def test_an_attention_that_computes_something_else_is_not_patched(monkeypatch):
    model = random_model("llama", dtype=torch.float64)
    layer = model.model.layers[0].self_attn
    monkeypatch.setattr(type(layer), "forward", lambda self, hidden, *_, **__: (2 * hidden, None))
    with patch_model(model, None):
        assert "forward" not in vars(layer)
