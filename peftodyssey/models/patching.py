"""Replaces the forwards of known modules by ones that save less memory (`autograd_functions`).

Patched are PEFT's LoRA modules, trained linear maps whose weights are wider than their products, RMS norms, gated
MLPs, attention with rotary embeddings, and GELUs written in Python. A replacement is used only where it gives the
module's own output on a small input; all other modules keep the forwards of transformers and PEFT, under autocast.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peftodyssey.constants import ATTENTION_DROPOUT, DROP_PROBABILITIES, SEEDED_DROPOUT
from peftodyssey.models import autograd_functions
from peftodyssey.models.autograd_functions import ACTIVATIONS, FrozenLinear
from peftodyssey.models.fused_rope_attention import fused_forward
from peftodyssey.models.quantised import dequantized_weight_fn
from peftodyssey.models.scoring_mode import scoring_mode

LoraDropout = Callable[[Tensor, str, float], Tensor]
PEFT_PREFIX = "base_model.model."  # of a module's name in PEFT's wrapper, before its name in the base
PROBE_ROWS = 4
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}  # relative
T = TypeVar("T")


@contextlib.contextmanager
def patch_model(
    model: nn.Module, compute: torch.dtype | None, lora_dropout: LoraDropout | None = None, *, probe: bool = True
) -> Iterator[bool]:
    """Patches `model` in the body; yields whether products still need autocast to `compute` (None: the weights' dtype).

    `lora_dropout(x, module_name, p)` is the dropout of LoRA modules; by default they use their own.
    With `probe` False only modules are patched that need no comparison of outputs.
    """
    patcher = _Patcher(model, compute, lora_dropout, probe)
    with scoring_mode(model):
        forwards = [
            (module, patcher.forward_of(name, module))
            for name, module in model.named_modules()
            if "forward" not in vars(module)
        ]
    patched = []
    for module, forward in forwards:
        if forward is not None:
            vars(module)["forward"] = forward
            patched.append(module)
    try:
        yield compute is not None and not _is_all_in_dtype(model, patched, compute)
    finally:
        for module in patched:
            del vars(module)["forward"]


def patch_model_on_cuda(
    model: nn.Module, compute: torch.dtype | None, device: torch.device
) -> contextlib.AbstractContextManager[bool]:
    """`patch_model` for scoring on a GPU. On a CPU models are scored with transformers' own forwards."""
    return patch_model(model, compute) if device.type == "cuda" else contextlib.nullcontext(compute is not None)


def _is_all_in_dtype(model: nn.Module, patched: list[nn.Module], compute: torch.dtype) -> bool:
    """Whether all weights have the dtype `compute` except those of patched LoRA modules, which cast them themselves."""
    lora = {id(p) for m in patched if hasattr(m, "lora_A") for p in m.parameters() if p.requires_grad}
    return all(p.dtype == compute for p in model.parameters() if p.is_floating_point() and id(p) not in lora)


class _Patcher:
    """The forwards for the modules of one model. Each class of modules is probed once."""

    def __init__(
        self, model: nn.Module, compute: torch.dtype | None, lora_dropout: LoraDropout | None, probe: bool
    ) -> None:
        self.compute, self.lora_dropout, self.probe = compute, lora_dropout, probe
        self.like = next(p for p in model.parameters() if p.is_floating_point())  # has the dtype and device of probes
        self.probe_cache: dict[type, Any] = {}

    def forward_of(self, name: str, module: Any) -> Callable[..., Any] | None:
        """The new forward of a module; None where it keeps its own."""
        if hasattr(module, "lora_A"):
            return self.lora(name.removeprefix(PEFT_PREFIX), module)
        if vars(module).get(SEEDED_DROPOUT) and self.lora_dropout is not None:
            return self.seeded_dropout(name, module)
        if vars(module).get(ATTENTION_DROPOUT) and self.lora_dropout is not None:
            return self.attention_dropout(name, module)
        if type(module) is nn.Linear or hasattr(module, "nf"):
            return _trained_linear(module, self.compute)
        if not self.probe:
            return None
        kind = type(module).__name__
        if kind.endswith("Attention"):
            return self.attention(module)
        if kind.endswith("RMSNorm"):
            return self.rms_norm(module)
        if kind.endswith("LayerNorm") and not isinstance(module, nn.LayerNorm):
            return self.layer_norm(module)
        if all(hasattr(module, part) for part in ("gate_proj", "up_proj", "down_proj", "act_fn")):
            return self.gated_mlp(module)
        if kind in ("NewGELUActivation", "FastGELUActivation"):
            activation = self.probe_once(module, lambda: self.activation_name(module))
            return ACTIVATIONS[activation][0] if activation else None
        return None

    def probe_once(self, module: nn.Module, probe: Callable[[], T]) -> T:
        """The result of `probe` for the class of `module`."""
        if type(module) not in self.probe_cache:
            self.probe_cache[type(module)] = probe()
        result: T = self.probe_cache[type(module)]
        return result

    def probe_input(self, width: int) -> Tensor:
        """A few rows of pseudo-random numbers; no random generator is moved."""
        numbers = torch.arange(PROBE_ROWS * width, dtype=torch.float64, device=self.like.device)
        return (2 * torch.sin(numbers * numbers)).to(self.like.dtype).view(PROBE_ROWS, width)

    def lora(self, name: str, module: Any) -> Callable[..., Tensor] | None:
        """PEFT's LoRA on one linear map: one adapter, no variant, a frozen base layer."""
        if list(module.lora_A) != ["default"] or getattr(module, "lora_variant", None) or module.lora_bias["default"]:
            return None
        base_layer = module.get_base_layer()
        if not isinstance(module.lora_A["default"], nn.Linear) or any(p.requires_grad for p in base_layer.parameters()):
            return None
        weight = dequantized_weight_fn(base_layer)
        lora_dropout = self.lora_dropout

        def forward(x: Tensor, *more: Any, **named: Any) -> Tensor:
            if module.disable_adapters or module.merged or more or named:
                original: Tensor = type(module).forward(module, x, *more, **named)
                return original
            lora_A, lora_B = module.lora_A["default"].weight, module.lora_B["default"].weight
            scaling, dropout, x_dropped = module.scaling["default"], module.lora_dropout["default"], None
            if dropout.training and not isinstance(dropout, nn.Identity):
                x_dropped = lora_dropout(x, name, dropout.p) if lora_dropout else dropout(x)
            if weight is not None:
                base = FrozenLinear(weight, base_layer.bias)
                return autograd_functions.lora_linear(x, x_dropped, lora_A, lora_B, base, scaling)
            out: Tensor = base_layer(x)
            x_low_rank = F.linear(x if x_dropped is None else x_dropped, lora_A.to(x.dtype))
            return out + F.linear(x_low_rank, lora_B.to(x.dtype)).to(out.dtype) * scaling

        return forward

    def seeded_dropout(self, name: str, module: Any) -> Callable[[Tensor], Tensor]:
        """Dropout of the base's own module with the masks of `lora_dropout`."""
        drop = self.lora_dropout
        assert drop is not None, "forward_of asks for it"

        def forward(x: Tensor) -> Tensor:
            return drop(x, name, module.p) if module.training else x

        return forward

    def attention_dropout(self, name: str, module: Any) -> Callable[..., Any]:
        """An attention module's own forward, in which its probabilities are dropped by the masks of `lora_dropout`."""
        drop = self.lora_dropout
        assert drop is not None, "forward_of asks for it"

        def forward(*args: Any, **kwargs: Any) -> Any:
            vars(module)[DROP_PROBABILITIES] = lambda probabilities, share: drop(probabilities, name, share)
            try:
                return type(module).forward(module, *args, **kwargs)
            finally:
                del vars(module)[DROP_PROBABILITIES]

        return forward

    def rms_norm(self, module: Any) -> Callable[[Tensor], Tensor] | None:
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        weight = getattr(module, "weight", None)
        if not isinstance(eps, float) or weight is None:
            return None

        def forward(x: Tensor, plus_one: bool) -> Tensor:
            dtype = x.dtype if self.compute is None else self.compute
            return autograd_functions.rms_norm(x, module.weight, eps, plus_one, dtype)

        def probe() -> bool | None:
            x = self.probe_input(weight.numel())
            expected = type(module).forward(module, x)
            return next((p for p in (False, True) if _is_close(expected, forward(x, p))), None)

        plus_one = self.probe_once(module, probe)
        return None if plus_one is None else functools.partial(forward, plus_one=plus_one)

    def layer_norm(self, module: Any) -> Callable[[Tensor], Tensor] | None:
        """OLMo's layer norm without weights saves a wide copy of its input; torch's own saves the input."""
        shape = getattr(module, "normalized_shape", None)
        if not isinstance(shape, tuple) or len(shape) != 1 or any(True for _ in module.parameters()):
            return None

        def forward(x: Tensor) -> Tensor:
            return F.layer_norm(x, shape, None, None, 1e-5)

        def probe() -> bool:
            x = self.probe_input(shape[0])
            return _is_close(type(module).forward(module, x), forward(x))

        return forward if self.probe_once(module, probe) else None

    def gated_mlp(self, module: Any) -> Callable[[Tensor], Tensor] | None:
        def forward(x: Tensor, activation: str) -> Tensor:
            hidden = autograd_functions.gated_activation(module.gate_proj(x), module.up_proj(x), activation)
            out: Tensor = module.down_proj(hidden)
            return out

        def probe() -> str | None:
            activation = self.activation_name(module.act_fn)
            x = self.probe_input(module.gate_proj.in_features)
            return (
                activation
                if activation and _is_close(type(module).forward(module, x), forward(x, activation))
                else None
            )

        activation = self.probe_once(module, probe)
        return functools.partial(forward, activation=activation) if activation else None

    def attention(self, module: Any) -> Callable[..., Any] | None:
        forward = fused_forward(module)
        if forward is None:
            return None

        def probe() -> bool:
            hidden_states = self.probe_input(module.q_proj.in_features)[None]
            rotary = tuple(function(self.probe_input(module.head_dim))[None] for function in (torch.cos, torch.sin))
            expected = type(module).forward(module, hidden_states, rotary, None)[0]
            return _is_close(expected, forward(hidden_states, rotary, None)[0])

        return forward if self.probe_once(module, probe) else None

    def activation_name(self, act: nn.Module) -> str | None:
        """The key of ACTIVATIONS that computes `act`; None if none does."""
        x = self.probe_input(64)
        expected = act(x)
        return next((name for name, (value, _) in ACTIVATIONS.items() if _is_close(expected, value(x))), None)


def _trained_linear(module: Any, compute: torch.dtype | None) -> Callable[[Tensor], Tensor] | None:
    """A linear map with trained weights in a wider dtype than products are computed in."""
    if compute is None or not module.weight.requires_grad or module.weight.dtype == compute:
        return None
    if hasattr(module, "nf"):
        return lambda x: autograd_functions.linear(x, module.weight.T, module.bias, compute)
    return lambda x: autograd_functions.linear(x, module.weight, module.bias, compute)


def _is_close(expected: Tensor, actual: Tensor) -> bool:
    """Equal but for rounding in the narrower of the two dtypes."""
    tolerance = max(TOLERANCE[expected.dtype], TOLERANCE[actual.dtype])
    difference = (expected.double() - actual.double()).abs().max()
    return expected.shape == actual.shape and bool(difference <= tolerance * expected.double().abs().max())
