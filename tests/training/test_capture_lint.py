"""No pass that may be captured as a CUDA graph asks the host or draws at random, by the operations that it dispatches.

A CPU cannot capture, but it dispatches the same operations: each family, method, precision and form of recomputing.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support.trainings import random_model, sequences
from torch.utils._python_dispatch import TorchDispatchMode

from peftodyssey.methods.registry import METHODS
from peftodyssey.models import patching
from peftodyssey.models.lm_head import split_lm_head
from peftodyssey.recipe.cell import MethodSpec
from peftodyssey.training import capturable, grad_accumulation, gradient_checkpointing
from peftodyssey.training.dropout import SeededDropout
from peftodyssey.training.settings import TrainSettings

SETTINGS = TrainSettings(lr=1e-2, steps=2, batch_size=2)
WAITS = {  # the host needs a number of the device, or a shape depends on one
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "_linalg_check_errors",
    "repeat_interleave",
}
DRAWS = {"bernoulli", "bernoulli_", "rand", "rand_like", "randn", "randn_like", "native_dropout", "uniform_", "normal_"}
METHOD_SPECS = {
    "full": MethodSpec("full", "full", lr=1e-3),
    "lora": MethodSpec("lora", "lora", lr=1e-3, rank=4, alpha=8.0, targets="all-linear"),
    "dora": MethodSpec("lora", "dora", lr=1e-3, rank=4, alpha=8.0, targets="all-linear", options={"dora": True}),
    "bitfit": MethodSpec("bitfit", "bitfit", lr=1e-3),
    "ia3": MethodSpec("ia3", "ia3", lr=1e-3),
    "last_layers": MethodSpec("last_layers", "last", lr=1e-3, options={"layers": 1}),
    "boft": MethodSpec(
        "peft",
        "boft",
        lr=1e-3,
        options={"peft_type": "BOFT", "config": {"boft_block_size": 4, "target_modules": ["q_proj"]}},
    ),
}
WEIGHTS_TRAINED = ("full", "bitfit", "last_layers")  # whose base is in fp32 whatever the precision
FAMILIES = ("llama", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mistral", "qwen2", "qwen3", "olmo2")))


class Recorded(TorchDispatchMode):
    """Collects what a captured pass may not do."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.operations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        self.operations += 1
        if name in WAITS | DRAWS:
            self.found.add(name)
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices):
            self.found.add(f"{name} by a mask")
        return func(*args, **(kwargs or {}))


class Straight:
    """Runs every pass in its capturable form under the recorder; the first one warms up."""

    def __init__(self) -> None:
        self.recorded = Recorded()

    def run(self, inputs, first, run_pass):
        if first:
            return run_pass(*inputs)
        with self.recorded:
            return run_pass(*inputs)


def forbidden(model, precision: str, checkpointing: str) -> Recorded:
    """What the second micro-batch of a step does, as the training loop patches the model."""
    straight, dropout, backbone_and_head = Straight(), SeededDropout(), split_lm_head(model)
    settings = dataclasses.replace(SETTINGS, precision=precision)
    batch = grad_accumulation.batch(sequences(num_sequences=2), settings, 0)
    compute = grad_accumulation.AUTOCAST_DTYPES.get(precision)
    with (
        patching.patch_model(model, compute, dropout.drop) as autocast,
        gradient_checkpointing.checkpointed_model(model, checkpointing),
    ):
        accumulator = grad_accumulation.GradAccumulator(
            model,
            backbone_and_head,
            settings,
            torch.device("cpu"),
            autocast,
            dropout,
            torch.amp.GradScaler("cpu", enabled=False),
            straight,
        )
        accumulator.accumulate([batch], 1, lambda: None)
    return straight.recorded


@pytest.fixture(autouse=True)
def capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' masks as they are made while a stream is captured: without a look at the positions."""
    monkeypatch.setattr("transformers.masking_utils.is_tracing", lambda *_: True)


@pytest.mark.parametrize("method", METHOD_SPECS)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_may_be_captured_does_nothing_that_a_graph_cannot_hold(family: str, method: str) -> None:
    if method == "bitfit" and family != "qwen2":
        pytest.skip("has no biases")
    tried = 0
    for precision in ("fp32", "bf16"):
        for checkpointing in ("none", "full"):
            model = random_model(family)
            attached = METHODS[METHOD_SPECS[method].method].attach(model, METHOD_SPECS[method], 0)
            settings = dataclasses.replace(SETTINGS, precision=precision)
            reason = capturable.why_eager(attached.model, settings)
            recorded = forbidden(attached.model, precision, checkpointing)
            assert reason or not recorded.found, (precision, checkpointing, recorded.found)
            tried += recorded.operations > 0
    assert method == "boft" or tried


def test_dropout_is_noticed_and_refused() -> None:
    spec = dataclasses.replace(METHOD_SPECS["lora"], dropout=0.1)
    model = METHODS["lora"].attach(random_model("llama"), spec, 0).model
    assert "dropout" in capturable.why_eager(model, SETTINGS)
    assert forbidden(model, "fp32", "none").found & DRAWS


@pytest.mark.parametrize("changes", [{"rope_type": "dynamic", "factor": 2.0}])
def test_angles_that_depend_on_the_text_are_refused(changes: dict) -> None:
    model = random_model("llama", rope_parameters={"rope_theta": 1e4, **changes})
    assert "positions" in capturable.why_eager(model, SETTINGS)


def test_an_int8_base_is_refused() -> None:
    import bitsandbytes

    model = random_model("llama")
    model.lm_head = bitsandbytes.nn.Linear8bitLt(8, 8)
    assert "8-bit" in capturable.why_eager(model, SETTINGS)
