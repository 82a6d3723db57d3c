"""The kernels that torch compiles for a GPU, compiled for this processor: the values and gradients of the chunks."""

from __future__ import annotations

import shutil

import pytest
import torch

from peftodyssey.models import autograd_functions, compiled_ops

pytestmark = pytest.mark.slow  # the first compilation takes half a minute
SHAPE = (3, 5, 64)


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def norm(plus_one: bool):
    x, weight = drawn(*SHAPE, seed=0).requires_grad_(), drawn(64, seed=1)
    return [x], autograd_functions.rms_norm(x, weight, 1e-6, plus_one, torch.float32)


def product(activation: str):
    gate, up = drawn(*SHAPE, seed=2).requires_grad_(), drawn(*SHAPE, seed=3).requires_grad_()
    return [gate, up], autograd_functions.gated_activation(gate, up, activation)


def rotation(cos_rows: int):
    x = drawn(2, 3, 4, 16, seed=5).requires_grad_()
    angles = drawn(cos_rows, 3, 16, seed=6)
    return [x], autograd_functions.apply_rotary(x, angles.cos(), angles.sin()).flatten(2)


CASES = [
    (rotation, 1),
    (rotation, 2),
    (norm, False),
    (norm, True),
    *((product, name) for name in autograd_functions.ACTIVATIONS),
]


def value_and_gradients(form, kind):
    inputs, out = form(kind)
    out.backward(drawn(*out.shape, seed=4))
    return [out.detach(), *(x.grad for x in inputs)]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with a C++ compiler, and there is none")
@pytest.mark.parametrize(("form", "kind"), CASES)
def test_compiled_is_what_the_chunks_give(form, kind, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = value_and_gradients(form, kind)
    calls: list[int] = []
    monkeypatch.setattr(compiled_ops, "should_compile", lambda rows: calls.append(1) or True)
    compiled = value_and_gradients(form, kind)
    assert len(calls) == 2
    assert compiled_ops._broken == set()
    for one, other in zip(compiled, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_where_nothing_can_be_compiled_the_chunks_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = value_and_gradients(norm, False)
    monkeypatch.setattr(compiled_ops, "should_compile", lambda rows: True)
    monkeypatch.setattr(compiled_ops, "_broken", set())

    def refuses(*_: object) -> None:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", lambda function: refuses)
    for function in (compiled_ops.rms_norm, compiled_ops.rms_norm_backward):
        assert function.__wrapped__ is not None
    fused_norm = compiled_ops._compiled(compiled_ops.rms_norm.__wrapped__)
    monkeypatch.setattr(compiled_ops, "rms_norm", fused_norm)
    monkeypatch.setattr(
        compiled_ops, "rms_norm_backward", compiled_ops._compiled(compiled_ops.rms_norm_backward.__wrapped__)
    )
    with pytest.warns(UserWarning, match="no compiler"):
        fallback = value_and_gradients(norm, False)
    for one, other in zip(fallback, expected, strict=True):
        assert torch.equal(one, other)


def test_out_of_memory_in_a_kernel_does_not_end_its_use(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(compiled_ops, "should_compile", lambda rows: True)
    monkeypatch.setattr(compiled_ops, "_broken", set())
    monkeypatch.setattr(torch, "compile", lambda function: no_memory)
    kernel = compiled_ops._compiled(compiled_ops.rms_norm.__wrapped__)
    with pytest.raises(torch.OutOfMemoryError):
        kernel(torch.ones(2, 8), torch.ones(8), 1e-6, False, torch.float32)
    assert compiled_ops._broken == set()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles with a C++ compiler, and there is none")
def test_many_models_in_a_process_keep_their_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """More widths and dtypes than torch's own limit of variants, after which functions run as they are written."""
    from torch._dynamo.utils import counters

    monkeypatch.setattr(compiled_ops, "should_compile", lambda rows: True)
    counters.clear()
    kernel = compiled_ops._compiled(compiled_ops.rms_norm.__wrapped__)
    for width in (16, 24, 32, 40, 48, 56, 64):
        for dtype in (torch.float32, torch.bfloat16):
            weight = torch.ones(width, dtype=dtype)
            assert kernel(torch.ones(3, width, dtype=dtype), weight, 1e-6, width > 40, dtype) is not None
    assert "recompile_limit" not in str(counters["graph_break"]) + str(counters["unimplemented"])
    assert counters["stats"]["unique_graphs"] >= 4
