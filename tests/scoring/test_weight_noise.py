"""Shifts of the weights have the sizes that they promise, and leave no trace."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.scorings import PREFIX, index, point, tiny_model

from peftodyssey.corpora.index import Index, first_windows
from peftodyssey.errors import ModelError
from peftodyssey.measures.noise import perturbation as weight_noise
from peftodyssey.measures.noise.critical_step import MAX_RATIO, critical_step
from peftodyssey.measures.noise.descent_direction import negative_gradient
from peftodyssey.methods.weights import snapshot
from peftodyssey.models.weight_matrices import weight_matrices
from peftodyssey.scoring.nll import mean_nats, score_index
from peftodyssey.scoring.settings import ScoreSettings

FAMILIES = ("llama", "gpt2")  # linear maps stored out x in, and in x out with a tied head


def setting(family="llama", parts=("blocks",), scale="initializer"):
    model = tiny_model(family).requires_grad_(False)
    tensors = weight_matrices(model, parts)
    return model, tensors, snapshot(tensors), weight_noise.sigmas(model, tensors, scale)


def change_of(kind, sigma, update=None):
    return {
        "gaussian": weight_noise.gaussian(sigma, 0.3, 1),
        "low_rank": weight_noise.low_rank(sigma, 0.3, 1, 2),
        "update": weight_noise.rescaled_update(update or {}, 2.0),
        "nf4": weight_noise.rounding("nf4"),
        "fp4": weight_noise.rounding("fp4"),
        "int8": weight_noise.rounding("int8"),
    }[kind]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["gaussian", "low_rank", "nf4", "int8"])
def test_the_weights_come_back_bit_for_bit_even_after_a_mistake(kind, dtype):
    model, _, _, sigma = setting(parts=("blocks", "embeddings", "head"))
    tensors = weight_matrices(model.to(dtype), ("blocks", "embeddings", "head"))
    originals, before = snapshot(tensors), {name: p.clone() for name, p in model.named_parameters()}

    def midway():
        with weight_noise.perturbed_weights(tensors, originals, change_of(kind, sigma)) as moved:
            assert moved.norm > 0
            assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
            raise RuntimeError("midway")

    with pytest.raises(RuntimeError, match="midway"):
        midway()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.view(torch.uint8), before[name].view(torch.uint8)), name


@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_the_matrices_of_the_layers_and_the_ends_are_named(family):
    model, tensors, _, _ = setting(family)
    expected = {
        name for name, p in model.named_parameters() if p.ndim == 2 and any(part.isdigit() for part in name.split("."))
    }
    assert set(tensors) == expected
    ends = set(weight_matrices(model, ("embeddings", "head")))
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert len(ends) == (1 if tied else 2)
    assert not ends & expected


def test_gaussian_noise_has_its_standard_deviation_and_its_seed():
    _, tensors, originals, sigma = setting()
    name = next(iter(tensors))
    eps = weight_noise.gaussian(sigma, 0.5, 3)(name, tensors[name])
    assert float(eps.std()) == pytest.approx(0.5 * sigma[name], rel=0.05)
    assert torch.equal(eps, weight_noise.gaussian(sigma, 0.5, 3)(name, tensors[name]))
    assert torch.allclose(2 * eps, weight_noise.gaussian(sigma, 1.0, 3)(name, tensors[name]))
    assert not torch.equal(eps, weight_noise.gaussian(sigma, 0.5, 4)(name, tensors[name]))
    with weight_noise.perturbed_weights(tensors, originals, weight_noise.gaussian(sigma, 0.5, 3)) as moved:
        assert moved.norm == pytest.approx(0.5 * weight_noise.expected_norm(tensors, sigma), rel=0.02)


@pytest.mark.parametrize("rank", [1, 2, 7])
def test_low_rank_noise_has_its_rank_and_the_norm_of_the_gaussian_one(rank):
    _, tensors, _, sigma = setting()
    for name, weight in tensors.items():
        full, low = (
            weight_noise.gaussian(sigma, 0.3, 1)(name, weight),
            weight_noise.low_rank(sigma, 0.3, 1, rank)(name, weight),
        )
        assert float(low.norm()) == pytest.approx(float(full.norm()), rel=1e-5)
        values = torch.linalg.svdvals(low.double())
        assert int((values > 1e-6 * values[0]).sum()) == rank


def test_a_rank_that_is_full_is_the_gaussian_noise():
    _, tensors, _, sigma = setting()
    name = next(iter(tensors))
    assert torch.equal(
        weight_noise.low_rank(sigma, 0.3, 1, 10_000)(name, tensors[name]),
        weight_noise.gaussian(sigma, 0.3, 1)(name, tensors[name]),
    )


def test_an_update_is_rescaled_as_a_whole():
    _, tensors, originals, _ = setting()
    update = {name: torch.randn(weight.shape) for name, weight in list(tensors.items())[:3]}
    with weight_noise.perturbed_weights(tensors, originals, weight_noise.rescaled_update(update, 2.0)) as moved:
        assert moved.norm == pytest.approx(2.0, rel=1e-4)
        parts = [float((tensors[name] - originals[name]).norm() / part.norm()) for name, part in update.items()]
        assert parts == pytest.approx([parts[0]] * 3, rel=1e-3)
        assert all(torch.equal(tensors[name], originals[name]) for name in tensors if name not in update)


def test_the_scales_are_what_they_are_called():
    model, tensors, originals, sigma = setting()
    assert set(sigma.values()) == {model.config.initializer_range}
    fan_in = weight_noise.sigmas(model, tensors, "fan_in")
    gpt2 = tiny_model("gpt2")
    names = weight_matrices(gpt2, ("blocks",))
    down = next(name for name in names if name.endswith("mlp.c_proj.weight"))  # Conv1D: stored in x out
    assert weight_noise.sigmas(gpt2, names, "fan_in")[down] == pytest.approx(names[down].shape[0] ** -0.5)
    assert all(fan_in[name] == pytest.approx(weight.shape[1] ** -0.5) for name, weight in tensors.items())
    relative = weight_noise.sigmas(model, tensors, "relative")
    assert all(
        relative[name] == pytest.approx(float(weight.pow(2).mean().sqrt()), rel=1e-5)
        for name, weight in originals.items()
    )
    assert weight_noise.sigmas(model, tensors, "earliest_rung", dict.fromkeys(tensors, 0.5)) == dict.fromkeys(
        tensors, 0.5
    )
    by_every_name = {name: float(place) for place, name in enumerate(weight_matrices(gpt2))}  # as it is measured
    [head] = weight_matrices(gpt2, ("head",)).items()  # of a tied model: the embeddings
    assert weight_noise.sigmas(gpt2, dict([head]), "earliest_rung", by_every_name) == {
        head[0]: by_every_name["transformer.wte.weight"]
    }
    model.config.initializer_range = 0.0
    with pytest.raises(ModelError, match="initializer_range"):
        weight_noise.sigmas(model, tensors, "initializer")


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.01), ("nf4", 0.15), ("fp4", 0.2)])
def test_rounding_moves_the_weights_by_what_its_bits_allow(kind, most):
    _, tensors, originals, _ = setting()
    with weight_noise.perturbed_weights(tensors, originals, weight_noise.rounding(kind)) as moved:
        assert 0 < moved.relative < most


def test_nf4_rounding_is_what_bitsandbytes_stores():
    import bitsandbytes as bnb

    weight = torch.randn(64, 128)
    layer = bnb.nn.Linear4bit(128, 64, bias=False, quant_type="nf4", compress_statistics=True)
    layer.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4", compress_statistics=True)
    layer.to("cpu")
    stored = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
    assert torch.allclose(weight + weight_noise.rounding("nf4")("w", weight), stored, atol=1e-6)


def test_a_pair_cancels_what_is_linear():
    """On a quadratic toy the mean of +eps and -eps is half the curvature along eps, without the slope."""
    weight, slope, curvature = torch.randn(6, 4).double(), torch.randn(6, 4).double(), torch.rand(6, 4).double()

    def loss():
        return float((slope * weight).sum() + 0.5 * (curvature * weight**2).sum())

    originals, rises = {"w": weight.clone()}, []
    at = loss()
    change = weight_noise.gaussian({"w": 1.0}, 0.1, 0)
    for sign in (1, -1):
        with weight_noise.perturbed_weights({"w": weight}, originals, change, sign):
            rises.append(loss() - at)
    eps = change("w", weight).double()
    assert sum(rises) / 2 == pytest.approx(float(0.5 * (curvature * eps**2).sum()), rel=1e-9)
    assert abs(rises[0] - rises[1]) == pytest.approx(
        abs(float(2 * ((slope + curvature * originals["w"]) * eps).sum())), rel=1e-9
    )


def test_the_critical_step_of_a_parabola_and_what_it_costs():
    for start in (1e-4, 0.1, 3.0, 50.0):
        critical = critical_step(lambda step: (step - 1.5) ** 2, start)
        assert critical.lo <= 3.0 <= critical.hi
        assert critical.hi / critical.lo <= MAX_RATIO
        assert critical.passes <= 24
    assert critical_step(lambda step: step, 1.0).step is None  # rises at once
    assert critical_step(lambda step: -step, 1.0).step is None  # never rises


def test_the_descent_is_minus_the_gradient_of_the_reported_loss():
    """Central differences of the scored mean along the direction itself: minus its squared norm."""
    model, tensors, originals, _ = setting()
    text, spec = index(9, 30, 17), point(16, 8)
    direction = negative_gradient(model, tensors, text, spec, ScoreSettings(), prefix=PREFIX)
    norm = float(torch.cat([part.flatten() for part in direction.values()]).norm())

    def loss(step):
        with weight_noise.perturbed_weights(
            tensors, originals, weight_noise.rescaled_update(direction, abs(step)), 1 if step >= 0 else -1
        ):
            return mean_nats(score_index(model, text, spec, ScoreSettings(), prefix=PREFIX).nll_nats)

    step = 1e-2
    assert (loss(step) - loss(-step)) / (2 * step) == pytest.approx(-norm, rel=0.02)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_first_windows_of_documents():
    lengths = [3, 50, 7, 20, 64]
    token = np.arange(sum(lengths), dtype=np.int32)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    number = np.repeat(np.arange(5, dtype=np.int32), lengths)
    whole = Index(Path(), number, token, token, token, token, token, token.astype(np.int8), token >= 0, starts)
    part = first_windows(whole, 3, 16)
    assert len(part.starts) == 4
    for document in range(3):
        own = slice(part.starts[document], part.starts[document + 1])
        original = int(part.document[own][0])
        assert (part.token[own] == starts[original] + np.arange(min(16, lengths[original]))).all()
    assert first_windows(whole, 3, 16).token.tolist() == part.token.tolist()
    assert len(first_windows(whole, 99, 999).token) == sum(lengths)
