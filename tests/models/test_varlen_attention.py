"""Documents told by their ends: the same numbers as masks give, for every family, with windows and grouped heads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import tiny

from peftodyssey.models import varlen_attention
from peftodyssey.models.load import load
from peftodyssey.models.packed_inputs import packed_inputs
from peftodyssey.models.source import resolve

CPU = torch.device("cpu")
WINDOWED = {
    "mistral": {"sliding_window": 7},
    "qwen2": {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 0},
    "gemma3_text": {"sliding_window": 7},
}


def segments_of(rows: list[list[int]]) -> np.ndarray:
    return np.array([[number for number, length in enumerate(row) for _ in range(length)] for row in rows])


@st.composite
def batches(draw: st.DrawFn) -> list[list[int]]:
    width = draw(st.integers(1, 40))
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        cuts = sorted(draw(st.sets(st.integers(1, max(width - 1, 1)), max_size=12)) - {width})
        rows.append(np.diff([0, *cuts, width]).tolist())
    return rows


@given(batches())
def test_ends_give_every_document_its_length(rows: list[list[int]]) -> None:
    ends = varlen_attention.cu_seqlens(segments_of(rows))
    assert ends.dtype == np.int32
    assert ends.shape[:3] == (1, 1, 1)
    size = ends.shape[3]
    assert size & (size - 1) == 0
    lengths = np.diff(ends.ravel())
    assert lengths[lengths > 0].tolist() == [length for row in rows for length in row]
    assert ends.ravel()[-1] == sum(map(sum, rows))


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("rows", [[[3, 8, 1], [12]], [[12], [12]]])
@pytest.mark.parametrize("filled_to", [1, 4, 64])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 3])
def test_bucketed_sdpa_is_what_a_mask_gives(
    kv_heads: int, window: int | None, filled_to: int, rows: list[list[int]], monkeypatch
) -> None:
    """Oracle: softmax of all scores under a mask written out, values and gradients in float64."""
    monkeypatch.setattr(varlen_attention, "LENGTH_BUCKET", filled_to)
    segments = segments_of(rows)
    shapes = [(2, heads, 12, 5) for heads in (4, kv_heads, kv_heads)]
    inputs = [drawn(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]
    actual, _ = varlen_attention.varlen_attention_forward(
        torch.nn.Module(),
        *inputs,
        torch.from_numpy(varlen_attention.cu_seqlens(segments)),
        scaling=0.3,
        sliding_window=window,
    )

    query, key, value = inputs
    back = torch.arange(12)[:, None] - torch.arange(12)
    allowed = (
        torch.from_numpy(segments[:, None, :, None] == segments[:, None, None, :])
        & (back >= 0)
        & (back < (window or 99))
    )
    key, value = (x.repeat_interleave(4 // kv_heads, 1) for x in (key, value))
    scores = (0.3 * query @ key.transpose(2, 3)).masked_fill(~allowed, -torch.inf)
    expected = (scores.softmax(-1) @ value).transpose(1, 2)

    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    grad = drawn(*expected.shape, seed=9)
    for one, other in zip(
        *(torch.autograd.grad(out, inputs, grad, retain_graph=True) for out in (actual, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("family", WINDOWED)
def test_a_window_reaches_as_far_as_under_a_mask(family: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer documents than the window of these layers: logits by ends, and by transformers' masks."""
    monkeypatch.setattr(varlen_attention, "MIN_VARLEN_TOKENS_CPU", 1)
    model = load(resolve(str(tiny(family, tmp_path, **WINDOWED[family]))), precision="fp32").double()
    segments = segments_of([[30, 2, 8], [5, 35]])
    positions = np.array([[place for length in row for place in range(length)] for row in ([30, 2, 8], [5, 35])])
    ids = np.random.default_rng(0).integers(0, 30, (2, 40))
    logits = []
    with torch.no_grad():
        for attention, dtype in ((varlen_attention.NAME, torch.int32), ("sdpa", None)):
            model.config._attn_implementation = attention
            inputs = packed_inputs(model, ids, positions, segments)
            assert getattr(inputs.get("attention_mask"), "dtype", None) == dtype
            logits.append(model(**inputs).logits)
        wide = {name: value for name, value in vars(model.config).items() if "sliding_window" in name}
        assert 7 in wide.values()
    torch.testing.assert_close(*logits, rtol=1e-9, atol=1e-9)


def test_without_ends_it_is_transformers_own(tmp_path) -> None:
    """A padded batch with a mask of two dimensions, and one without a mask."""
    model = load(resolve(str(tiny("llama", tmp_path))), precision="fp32")
    ids = torch.arange(20).view(2, 10)
    padded = torch.ones(2, 10, dtype=torch.long)
    padded[0, :4] = 0
    for mask in (None, padded):
        logits = []
        for attention in (varlen_attention.NAME, "sdpa"):
            model.config._attn_implementation = attention
            with torch.no_grad():
                logits.append(model(input_ids=ids, attention_mask=mask).logits[:, 4:])
        assert torch.equal(*logits)


def test_the_name_stays_out_of_a_saved_configuration(tmp_path) -> None:
    model = load(resolve(str(tiny("llama", tmp_path / "model"))), precision="fp32")
    assert model.config._attn_implementation == varlen_attention.NAME
    model.save_pretrained(tmp_path / "saved")
    assert varlen_attention.NAME not in (tmp_path / "saved" / "config.json").read_text()


@pytest.mark.parametrize(("kv_heads", "window"), [(4, None), (2, None), (4, 16)])
def test_the_kernel_of_a_gpu_takes_what_it_is_given(kv_heads: int, window: int | None) -> None:
    """torch's own shapes and types of `varlen_attn`, forwards and backwards, on tensors without numbers."""
    inputs = [
        torch.empty(128, heads, 32, dtype=torch.float32, device="meta", requires_grad=True)
        for heads in (4, kv_heads, kv_heads)
    ]
    out = varlen_attention._flash_varlen(*inputs, torch.empty(16, dtype=torch.int32, device="meta"), 64, 0.1, window)
    assert (out.shape, out.dtype) == ((128, 4, 32), torch.bfloat16)
    grads = torch.autograd.grad(out, inputs, torch.empty_like(out))
    assert [grad.shape for grad in grads] == [x.shape for x in inputs]


def test_a_kernel_that_gives_something_else_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial before first use, with a stand-in for the GPU's kernel that is right, and with one that leaks."""
    ends = torch.tensor([0, 5, 6, 40, 40, 40], dtype=torch.int32)
    monkeypatch.setattr(varlen_attention, "_flash_varlen", varlen_attention._bucketed_sdpa)
    assert varlen_attention._matches_sdpa(ends, 2, None)
    assert varlen_attention._matches_sdpa(ends, 4, 3)
    one = torch.tensor([0, 40], dtype=torch.int32)
    monkeypatch.setattr(
        varlen_attention,
        "_flash_varlen",
        lambda q, k, v, _, *more: varlen_attention._bucketed_sdpa(q, k, v, one, *more),
    )
    assert not varlen_attention._matches_sdpa(ends, 4, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_kernel_is_not_asked(tmp_path) -> None:
    model = load(resolve(str(tiny("llama", tmp_path))), precision="bf16")
    assert varlen_attention.supports_varlen(model, CPU, 512)
    assert not varlen_attention.supports_varlen(model, CPU, 256)
    assert not varlen_attention.supports_varlen(model, torch.device("cuda"), 512)


def test_a_head_dim_that_the_kernel_does_not_take_is_separated_by_masks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(varlen_attention, "flash_works", lambda device: True)
    model = load(resolve(str(tiny("llama", tmp_path))), precision="bf16")
    cuda = torch.device("cuda")
    for head_dim, fits in ((64, True), (100, False), (256, True), (264, False)):  # OpenLLaMA-3B has 100
        model.config.head_dim = head_dim
        assert varlen_attention.supports_varlen(model, cuda, 512) is fits
