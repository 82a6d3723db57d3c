"""A model with its modules' forwards exchanged for lean ones (`models.kernels`). `train` and `score` call `leaned`.

Exchanged are PEFT's LoRA modules, trained linear maps kept wider than they are multiplied, RMS norms, gated
feed-forwards, attention with rotated queries and keys, and GELUs written out in Python. A form is taken only where it
gives the module's own numbers on a small random input; what is not known stays as transformers and PEFT wrote it, under
autocast.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftodyssey.models import autograd_functions, fused_rope_attention
from peftodyssey.models.scoring_mode import is_4bit, scoring_mode

PROBED_ROWS = 4
LoraDropout = Callable[[Tensor, str, float], Tensor]
PEFT_PREFIX = "base_model.model."  # of a module's name in PEFT's wrapper, before its name in the base
LIKE = "like"  # where `known` holds a weight of the type and on the device of the model
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}  # relative rounding


@contextlib.contextmanager
def patch_model(
    model: nn.Module, compute: torch.dtype | None, lora_dropout: LoraDropout | None = None
) -> Iterator[bool]:
    """Lean forwards in the body; its value: whether products still need autocast to `compute` (None: no lower
    precision).

    `dropped(x, target, share)` is the dropout of LoRA modules; without it they draw their own.
    """
    exchanged: list[nn.Module] = []
    probe_cache: dict[Any, Any] = {LIKE: next(p for p in model.parameters() if p.is_floating_point())}
    with scoring_mode(model):
        forms = [
            (module, _lean_forward(name, module, compute, probe_cache, lora_dropout))
            for name, module in model.named_modules()
            if "forward" not in vars(module)
        ]
    for module, forward in forms:
        if forward is not None:
            module.forward = forward  # type: ignore[method-assign,assignment]
            exchanged.append(module)
    try:
        yield compute is not None and not _needs_no_autocast(model, exchanged, compute)
    finally:
        for module in exchanged:
            del module.forward  # the class's own shows again


def patch_model_on_cuda(
    model: nn.Module, compute: torch.dtype | None, device: torch.device
) -> contextlib.AbstractContextManager[bool]:
    """`leaned` for scoring, where it pays: on a card. On a CPU a model is scored by transformers' own arithmetic."""
    return patch_model(model, compute) if device.type == "cuda" else contextlib.nullcontext(compute is not None)


def _needs_no_autocast(model: nn.Module, exchanged: list[nn.Module], compute: torch.dtype) -> bool:
    """Whether all weights are in `compute` but those of exchanged LoRA modules, which cast for themselves."""
    lora = {id(p) for m in exchanged if hasattr(m, "lora_A") for p in m.parameters() if p.requires_grad}
    return all(p.dtype == compute for p in model.parameters() if p.is_floating_point() and id(p) not in lora)


def _lean_forward(
    name: str, module: nn.Module, compute: torch.dtype | None, probe_cache: dict[Any, Any], dropped: LoraDropout | None
) -> Callable[..., Tensor] | None:
    """The lean forward of one module, or None; `known` holds what a class was found to compute."""
    if hasattr(module, "lora_A"):
        return _lora(name.removeprefix(PEFT_PREFIX), module, dropped)
    if type(module) is nn.Linear or hasattr(module, "nf"):
        return _trained_linear(module, compute)
    kind = type(module).__name__
    if kind.endswith("Attention"):
        return _attention(module, probe_cache)
    if kind.endswith("RMSNorm"):
        return _rms_norm(module, compute, probe_cache)
    if kind.endswith("LayerNorm") and not isinstance(module, nn.LayerNorm):
        return _layer_norm(module, probe_cache)
    if all(hasattr(module, part) for part in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return _gated_mlp(module, probe_cache)
    if kind in ("NewGELUActivation", "FastGELUActivation"):
        return _gelu(module, probe_cache)
    return None


def _lora(target: str, module: Any, dropped: LoraDropout | None) -> Callable[..., Tensor] | None:
    """PEFT's LoRA on one linear map: one adapter, no variant, nothing trained in the map itself."""
    adapters = list(module.lora_A)
    if adapters != ["default"] or getattr(module, "lora_variant", None) or module.lora_bias["default"]:
        return None
    base = module.get_base_layer()
    if not isinstance(module.lora_A["default"], nn.Linear) or any(p.requires_grad for p in base.parameters()):
        return None
    weight = dequantized_weight_fn(base)

    def forward(x: Tensor, *more: Any, **named: Any) -> Tensor:
        if module.disable_adapters or module.merged or more or named:
            original: Tensor = type(module).forward(module, x, *more, **named)
            return original
        down, up = module.lora_A["default"].weight, module.lora_B["default"].weight
        scaling = module.scaling["default"]
        dropout, x_low = module.lora_dropout["default"], x
        if dropout.training and not isinstance(dropout, nn.Identity):
            x_low = dropped(x, target, dropout.p) if dropped else dropout(x)
        if weight is not None:
            return autograd_functions.lora_linear(x, x_low, down, up, weight, base.bias, scaling)
        out: Tensor = base(x)
        return out + F.linear(F.linear(x_low, down.to(x.dtype)), up.to(x.dtype)).to(out.dtype) * scaling

    return forward


def dequantized_weight_fn(base: Any) -> Callable[[], Tensor] | None:
    """What gives the (outputs, inputs) weight of a linear map, unpacked each time; None where only the map itself
    knows.
    """
    if is_4bit(base):
        from bitsandbytes.functional import dequantize_4bit

        def unpacked() -> Tensor:
            stored = base.weight
            whole: Tensor = dequantize_4bit(stored.data, stored.quant_state)
            return whole if whole.dtype == base.compute_dtype else whole.to(base.compute_dtype)

        return unpacked
    if type(base) is nn.Linear:
        return lambda: base.weight
    if hasattr(base, "nf"):  # GPT-2's Conv1D is stored (inputs, outputs)
        return lambda: base.weight.T
    return None


def _trained_linear(module: Any, compute: torch.dtype | None) -> Callable[[Tensor], Tensor] | None:
    """A linear map with trained weights in a wider type than products are formed in."""
    if compute is None or not module.weight.requires_grad or module.weight.dtype == compute:
        return None
    if hasattr(module, "nf"):
        return lambda x: autograd_functions.linear(x, module.weight.T, module.bias, compute)
    return lambda x: autograd_functions.linear(x, module.weight, module.bias, compute)


def _rms_norm(module: Any, compute: torch.dtype | None, known: dict[Any, Any]) -> Callable[[Tensor], Tensor] | None:
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = getattr(module, "weight", None)
    if not isinstance(eps, float) or weight is None:
        return None

    def form(x: Tensor, plus_one: bool) -> Tensor:
        dtype = x.dtype if compute is None else compute
        return autograd_functions.rms_norm(x, module.weight, eps, plus_one, dtype)

    if type(module) not in known:
        x = _random(known[LIKE], weight.numel())
        forms = [plus_one for plus_one in (False, True) if _same(type(module).forward(module, x), form(x, plus_one))]
        known[type(module)] = forms[0] if forms else None
    plus_one = known[type(module)]
    return None if plus_one is None else functools.partial(form, plus_one=plus_one)


def _layer_norm(module: Any, known: dict[Any, Any]) -> Callable[[Tensor], Tensor] | None:
    """OLMo's layer norm without weights makes a wide copy of its input and keeps that: torch's own keeps the input."""
    shape = getattr(module, "normalized_shape", None)
    if not isinstance(shape, tuple) or len(shape) != 1 or any(True for _ in module.parameters()):
        return None

    def form(x: Tensor) -> Tensor:
        return F.layer_norm(x, shape, None, None, 1e-5)

    if type(module) not in known:
        x = _random(known[LIKE], shape[0])
        known[type(module)] = _same(type(module).forward(module, x), form(x))
    return form if known[type(module)] else None


def _gated_mlp(module: Any, known: dict[Any, Any]) -> Callable[[Tensor], Tensor] | None:
    def form(x: Tensor, activation: str) -> Tensor:
        out: Tensor = module.down_proj(
            autograd_functions.gated_activation(module.gate_proj(x), module.up_proj(x), activation)
        )
        return out

    if type(module) not in known:
        known[type(module)] = None
        activation = _activation(module.act_fn, known[LIKE])
        if activation:
            x = _random(known[LIKE], module.gate_proj.in_features)
            known[type(module)] = activation if _same(type(module).forward(module, x), form(x, activation)) else None
    activation = known[type(module)]
    return functools.partial(form, activation=activation) if activation else None


def _attention(module: Any, known: dict[Any, Any]) -> Callable[..., Any] | None:
    """Rotated once, laid out once; tried on a row of a few tokens."""
    form = fused_rope_attention.fused_forward(module)
    if form is not None and type(module) not in known:
        hidden = _random(known[LIKE], module.q_proj.in_features)[None]
        angles = tuple(turn(_random(known[LIKE], module.head_dim))[None] for turn in (torch.cos, torch.sin))
        expected, given = (
            forward(hidden, angles, None)[0] for forward in (functools.partial(type(module).forward, module), form)
        )
        known[type(module)] = _same(expected, given)
    return form if form is not None and known[type(module)] else None


def _gelu(module: nn.Module, known: dict[Any, Any]) -> Callable[[Tensor], Tensor] | None:
    """A GELU of several operations, each of which keeps its input: torch's own keeps one."""
    if type(module) not in known:
        known[type(module)] = _activation(module, known[LIKE])
    return autograd_functions.ACTIVATIONS[known[type(module)]][0] if known[type(module)] else None


def _activation(act: nn.Module, like: Tensor) -> str | None:
    """Which of `kernels.ACTIVATIONS` `act` is, None where it is none of them."""
    x = _random(like, 64)
    expected = act(x)
    return next(
        (name for name, (value, _) in autograd_functions.ACTIVATIONS.items() if _same(expected, value(x))), None
    )


def _random(like: Tensor, width: int) -> Tensor:
    """Some rows that look drawn, in the type and on the device of `like`; no generator is moved."""
    numbers = torch.arange(PROBED_ROWS * width, dtype=torch.float64, device=like.device)
    return (2 * torch.sin(numbers * numbers)).to(like.dtype).view(PROBED_ROWS, width)


def _same(expected: Tensor, given: Tensor) -> bool:
    """Equal but for rounding in the narrower of the two types."""
    relative = max(CLOSE[expected.dtype], CLOSE[given.dtype])
    difference = (expected.double() - given.double()).abs().max()
    return expected.shape == given.shape and bool(difference <= relative * expected.double().abs().max())
