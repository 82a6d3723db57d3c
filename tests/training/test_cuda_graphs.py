"""The form of a pass that can be captured as a CUDA graph gives the losses and gradients of the pass itself."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from support.trainings import random_model, sequences, with_lora

from peftodyssey.models import varlen_attention
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.training import cuda_graphs, grad_accumulation, gradient_checkpointing
from peftodyssey.training.dropout import SeededDropout
from peftodyssey.training.settings import TrainSettings

SETTINGS = TrainSettings(lr=1e-2, steps=2, batch_size=4)


class Straight:
    """Runs every pass in its capturable form, as a graph would replay it."""

    passes = tensors = 0

    def run(self, inputs, first, run_pass):
        self.passes, self.tensors = self.passes + 1, len(inputs)
        return run_pass(*(tensor.clone() for tensor in inputs))


def gradient(model, data, graphs):
    model.zero_grad()
    batch = grad_accumulation.batch(data, SETTINGS, 0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    with gradient_checkpointing.checkpointed_model(model, "none"):
        accumulator = grad_accumulation.GradAccumulator(
            model,
            split_lm_head(model),
            SETTINGS,
            torch.device("cpu"),
            autocast=False,
            dropout=SeededDropout(),
            scaler=scaler,
            graphs=graphs,
        )
        loss = accumulator.accumulate([batch], 2, lambda: None)
    return loss, torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("attention", ["varlen", "sdpa"])
def test_a_pass_that_asks_nothing_of_the_host_gives_the_same(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen_attention, "MIN_VARLEN_TOKENS_CPU", 1)
    model, _ = with_lora(random_model("llama", dtype=torch.float64))
    model.config._attn_implementation = attention
    data, straight = sequences(num_sequences=4), Straight()
    expected_loss, expected = gradient(model, data, None)
    loss, grads = gradient(model, data, straight)
    assert straight.passes == 2
    assert straight.tensors == (5 if attention == "varlen" else 4)
    assert torch.equal(loss, expected_loss)
    assert (grads - expected).norm() <= 1e-12 * expected.norm()


def test_sequences_that_differ_in_form_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = with_lora(random_model("llama", dtype=torch.float64))
    straight = Straight()
    gradient(model, sequences(num_sequences=4, masked_share=0.3), straight)  # rows without a label
    whole = sequences(num_sequences=4)
    straight_on = np.tile(np.arange(whole.position_ids.shape[1]), (4, 1))
    model.config._attn_implementation = "sdpa"
    gradient(
        model, dataclasses.replace(whole, position_ids=straight_on), straight
    )  # documents that positions do not tell apart
    monkeypatch.setattr(grad_accumulation, "MAX_HIDDEN_ELEMENTS", 8)
    gradient(model, whole, straight)
    assert straight.passes == 0


def test_only_a_gpu_and_known_families_are_captured() -> None:
    notes: list[str] = []
    model = random_model("llama")
    cuda = torch.device("cuda")
    assert cuda_graphs.graph_cache(model, SETTINGS, torch.device("cpu"), list, notes.append) is None
    assert cuda_graphs.graph_cache(model, SETTINGS, cuda, list, notes.append) is not None
    assert cuda_graphs.graph_cache(random_model("gpt2"), SETTINGS, cuda, list, notes.append) is None
    assert (
        cuda_graphs.graph_cache(
            model, dataclasses.replace(SETTINGS, offload_activations=True), cuda, list, notes.append
        )
        is None
    )
    dropping, _ = with_lora(random_model("llama"), dropout=0.1)
    assert cuda_graphs.graph_cache(dropping, SETTINGS, cuda, list, notes.append) is None
    assert notes == []
    model.config.model_type = "never_seen"
    assert cuda_graphs.graph_cache(model, SETTINGS, cuda, list, notes.append) is None
    assert len(notes) == 1
    assert "never_seen" in notes[0]


class StubCuda:
    """torch.cuda as `cuda_graphs` sees it, on a CPU: a graph that runs its pass again, and a capture that may fail."""

    def __init__(self, fails: bool = False, drift: float = 0.0) -> None:
        self.fails, self.drift, self.stream, self.calls = fails, drift, "default", []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stub = self

        class Captured:
            def replay(self) -> None:
                losses = self.run_pass(*self.static)
                self.losses.copy_(losses)
                if stub.drift:
                    stub.grads()[-1].mul_(1 + stub.drift)

        class capturing:
            def __init__(self, graph: Captured, pool: object) -> None:
                stub.calls.append(("pool", pool))

            def __enter__(self) -> None:
                stub.stream = "side"

            def __exit__(self, *error: object) -> None:
                if stub.fails:
                    raise RuntimeError("operation failed due to a previous error during capture")
                stub.stream = "default"

        def undo(name: str):
            return lambda device, pool: stub.calls.append((name, pool))

        def captured(static, run_pass, pool):
            before = [grad.clone() for grad in stub.grads()]
            try:
                graph = cuda_graphs_captured(static, run_pass, pool)
            finally:
                for grad, kept in zip(stub.grads(), before, strict=True):  # a capture runs nothing
                    grad.copy_(kept)
            graph.graph.run_pass, graph.graph.static, graph.graph.losses = run_pass, static, graph.losses
            return graph

        cuda_graphs_captured = cuda_graphs._captured
        monkeypatch.setattr(cuda_graphs, "_captured", captured)
        for name, value in {
            "CUDAGraph": Captured,
            "graph": capturing,
            "graph_pool_handle": lambda: (0, 1),
            "current_stream": lambda: stub.stream,
            "set_stream": lambda stream: setattr(stub, "stream", stream),
            "current_device": lambda: 0,
            "get_sync_debug_mode": lambda: 0,
            "set_sync_debug_mode": lambda mode: None,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            monkeypatch.setattr(torch._C, name, undo(name), raising=False)


def stub_steps(stub: StubCuda, monkeypatch: pytest.MonkeyPatch, steps: int):
    """Steps of one pass under the stub: the sums of the gradients after each, and what was said."""
    weight = torch.nn.Parameter(torch.ones(3))
    tiny = torch.nn.Parameter(torch.ones(3))
    notes: list[str] = []

    def forward_backward(x: torch.Tensor) -> torch.Tensor:
        loss = (weight * x).sum() + 1e-4 * (tiny * x).sum()
        loss.backward()
        return loss.detach()[None]

    stub.grads = lambda: [p.grad for p in (weight, tiny)]
    stub.install(monkeypatch)
    cache = cuda_graphs.CudaGraphCache(stub.grads, notes.append)
    found = []
    for step in range(steps):
        if step:
            weight.grad.zero_()
            tiny.grad.zero_()
        cache.run([torch.full((3,), float(step + 1))], True, forward_backward)
        found.append([p.grad.clone() for p in (weight, tiny)])
    return cache, found, notes


def expected_grads(steps: int) -> list[torch.Tensor]:
    return [torch.full((3,), float(step + 1)) for step in range(steps)]


def test_a_capture_that_cannot_be_ended_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubCuda(fails=True)
    cache, found, notes = stub_steps(stub, monkeypatch, 5)
    assert stub.stream == "default"
    assert {name for name, _ in stub.calls} == {"pool", "_cuda_endAllocateToPool", "_cuda_releasePool"}
    assert not cache.holds_graphs
    assert len(notes) == 1
    assert "previous error during capture" in notes[0]
    for (large, small), expected in zip(found, expected_grads(5), strict=True):
        assert torch.equal(large, expected)
        assert torch.allclose(small, 1e-4 * expected)


def test_graphs_share_a_pool_and_are_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubCuda()
    checks = []
    keep = cuda_graphs.CudaGraphCache._keep_if_same
    monkeypatch.setattr(
        cuda_graphs.CudaGraphCache, "_keep_if_same", lambda *arguments: checks.append(1) or keep(*arguments)
    )
    cache, found, notes = stub_steps(stub, monkeypatch, 20)
    assert cache.holds_graphs
    assert notes == []
    assert len(checks) == 2
    for (large, _), expected in zip(found, expected_grads(20), strict=True):
        assert torch.equal(large, expected)


def test_a_small_gradient_that_differs_is_seen_and_the_eager_one_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = StubCuda(drift=0.5)  # of the gradient that is 1e-4 of the other: within 2 % of their joint norm
    cache, found, notes = stub_steps(stub, monkeypatch, 4)
    assert not cache.holds_graphs
    assert notes == ["this training's steps run without CUDA graphs (a replay differs from the pass)"]
    for (_, small), expected in zip(found, expected_grads(4), strict=True):
        assert torch.allclose(small, 1e-4 * expected)


def test_a_check_without_memory_is_no_step_that_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    clone = torch.Tensor.clone
    calls = []

    def failing(tensor: torch.Tensor, *more: object, **options: object) -> torch.Tensor:
        calls.append(tensor)
        if len(calls) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return clone(tensor, *more, **options)

    monkeypatch.setattr(cuda_graphs.CudaGraphCache, "_disable", recorded := Recorder())
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    cache = cuda_graphs.CudaGraphCache(lambda: [weight.grad], lambda note: None)
    monkeypatch.setattr(torch.Tensor, "clone", failing)
    calls += [weight] * 4
    cache._keep_if_same(cuda_graphs.Graph(None, (), weight), "shape", [], weight)
    assert recorded.reasons == ["there is no memory to check a replay with"]
    assert torch.equal(weight.grad, torch.ones(3))
    assert not cache.holds_graphs


class Recorder:
    """Stands for `_disable` and keeps the reasons."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def __call__(self, reason: str) -> None:
        self.reasons.append(reason)
