"""What a method did to each weight of its base: the base's weight and the update, one at a time. Called by
`jobs.geometry` and `jobs.adapt`.

Nothing is changed: weights that PEFT merges into on the way are put back bit for bit. Matrices are (out, in), whatever
the storage order; a quantised weight is what its storage stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from peftodyssey.methods.adapter import BASE_MODIFYING_INITS
from peftodyssey.methods.protocol import AttachedMethod
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    import torch
    from torch import nn

ADAPTER = "default"


@dataclass(frozen=True)
class WeightUpdate:
    """One weight of the base and its change: `delta`, or `left` @ `right` where that is its form; float32."""

    name: str  # of the parameter in the base, e.g. model.layers.0.mlp.up_proj.weight
    base: torch.Tensor
    delta: torch.Tensor | None = None
    lora_B: torch.Tensor | None = None  # [out, r]
    lora_A: torch.Tensor | None = None  # [r, in]
    unsupported: str = ""  # why there is no update, in words; then all three are None
    transposed: bool = False  # the base stores this matrix as (in, out)

    @property
    def dense(self) -> torch.Tensor:
        """The update as one tensor."""
        if self.lora_B is not None and self.lora_A is not None:
            return self.lora_B @ self.lora_A
        assert self.delta is not None, self.unsupported
        return self.delta

    def to(self, device: str) -> WeightUpdate:
        """The same on another device."""
        moved = {
            key: tensor.to(device)
            for key in ("base", "delta", "left", "right")
            if (tensor := getattr(self, key)) is not None
        }
        return replace(self, **moved)


def iter_updates(attached: AttachedMethod) -> Iterator[WeightUpdate]:
    """The update of every weight that `attached` may have changed, trained here or loaded; a shared weight once."""
    yield from _of_adapter(attached) if attached.is_adapter else _of_weights(attached)


def is_additive(point: MethodSpec) -> bool:
    """Whether the method's result is its base's matrices plus something: full fine-tuning, LoRA on an unquantised base.

    Not so for DoRA, for starts that take a part of the base into the adapter, and for quantised bases.
    """
    plain = not point.options.get("dora") and not str(point.options.get("init", "")).startswith(BASE_MODIFYING_INITS)
    return point.quant is None and (point.method == "full" or (point.method == "lora" and plain))


def additive_deltas(attached: AttachedMethod, names: Collection[str]) -> dict[str, torch.Tensor]:
    """What was added to the base's parameters `names` as they are stored, float32 on the CPU; those left alone are left
    out.
    """
    assert is_additive(attached.spec), attached.spec
    found = (update for update in iter_updates(attached) if update.name in names)
    return {update.name: (update.dense.T if update.transposed else update.dense).cpu() for update in found}


def base_norm(attached: AttachedMethod) -> float:
    """Frobenius norm of all weights of the base as they were before the method, quantised ones as what they stand for."""
    of_adapter, total, seen = _adapter_parameters(attached.base), 0.0, set()
    for name, module in attached.base.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in of_adapter or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            stored = attached.base_weights.get(_plain(f"{name}.{key}"))
            tensor = stored if stored is not None else _weight(module) if key == "weight" else parameter.detach()
            total += float(tensor.float().square().sum(dtype=_float64()))
    return total**0.5


def _float64() -> torch.dtype:
    import torch

    return torch.float64


def _plain(name: str) -> str:
    """The name that a parameter has in the base without PEFT's wrappers."""
    return name.replace(".base_layer.", ".").replace(".original_module.", ".")


def _adapter_parameters(model: nn.Module) -> set[int]:
    """The ids of the parameters that PEFT's wrappers brought along."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    brought: set[int] = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            own = module.get_base_layer()
        elif isinstance(module, ModulesToSaveWrapper):
            own = module.original_module
        else:
            continue
        brought |= {id(p) for p in module.parameters()} - {id(p) for p in own.parameters()}
    return brought


def _of_weights(attached: AttachedMethod) -> Iterator[WeightUpdate]:
    """Trained or loaded weights against those that are remembered."""
    parameters = dict(attached.base.named_parameters())
    for name, stored in attached.base_weights.items():
        now = parameters[name].detach().float()
        before = stored.to(now.device).float()
        module = attached.base.get_submodule(name.rpartition(".")[0])
        yield _dense(name, module, before, now)


def _dense(name: str, module: nn.Module, before: torch.Tensor, now: torch.Tensor) -> WeightUpdate:
    before, now = _to_out_in(module, before), _to_out_in(module, now)
    return WeightUpdate(name, before, delta=now - before, transposed=_is_transposed(module) and now.ndim == 2)


def _to_out_in(module: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """A matrix of `module` as (out, in)."""
    return tensor.T if _is_transposed(module) and tensor.ndim == 2 else tensor


def _is_transposed(module: nn.Module) -> bool:
    """Whether the module stores its matrix as (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _of_adapter(attached: AttachedMethod) -> Iterator[WeightUpdate]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    for name, module in list(attached.base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            yield from _of_copy(name, module)
        elif isinstance(module, BaseTunerLayer):
            yield from _of_layer(attached, name, module)


def _of_copy(name: str, module: Any) -> Iterator[WeightUpdate]:
    """A module that was trained whole beside an adapter."""
    now = dict(module.modules_to_save[ADAPTER].named_parameters())
    for key, parameter in module.original_module.named_parameters():
        yield _dense(f"{name}.{key}", module.original_module, parameter.detach().float(), now[key].detach().float())


def _of_layer(attached: AttachedMethod, name: str, layer: Any) -> Iterator[WeightUpdate]:
    """One layer of PEFT's: low-rank where it is so, else what merging it makes of the weight."""
    from peft.tuners.lora import LoraLayer

    form = _form(layer) if isinstance(layer, LoraLayer) else ""
    if form == "low rank":
        yield _low_rank(attached, name, layer)
    elif form == "dora":
        yield _dora(name, layer)
    elif _is_quantised(layer.get_base_layer()):
        kind = type(layer).__module__.split(".")[-2]
        yield WeightUpdate(
            f"{name}.weight",
            _weight(layer.get_base_layer()),
            unsupported=f"the update of {kind} on a quantised weight is not known",
        )
    else:
        yield from _merged(attached, name, layer)


def _form(layer: Any) -> str:
    """`low rank` for a product of two factors alone, `dora` for one with magnitudes, else empty."""
    from torch import nn

    if (
        ADAPTER not in layer.lora_A
        or not isinstance(layer.lora_A[ADAPTER], nn.Linear)
        or layer.lora_B[ADAPTER].bias is not None
    ):
        return ""
    variant = layer.lora_variant.get(ADAPTER)
    if variant is None:
        return "low rank"
    return "dora" if type(variant).__name__ == "DoraLinearVariant" else ""


def _factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """([out, r], [r, in]) whose product is the update, scale included."""
    left, right = (part[ADAPTER].weight.detach().float() for part in (layer.lora_B, layer.lora_A))
    return left * layer.scaling[ADAPTER], right


def _low_rank(attached: AttachedMethod, name: str, layer: Any) -> WeightUpdate:
    """B A, less what the start took out of the base where it did: then the base is the one that is remembered."""
    import torch

    weight, (left, right) = _weight(layer.get_base_layer()), _factors(layer)
    turned = _is_transposed(layer.get_base_layer())
    original = attached.base_weights.get(f"{name}.weight")
    if original is None:
        return WeightUpdate(
            f"{name}.weight", _to_out_in(layer.get_base_layer(), weight), lora_B=left, lora_A=right, transposed=turned
        )
    base = _to_out_in(layer.get_base_layer(), original.to(weight.device).float())
    parts = [
        attached.initial_weights.get(f"base_model.model.{name}.{part}.{ADAPTER}.weight")
        for part in ("lora_B", "lora_A")
    ]
    if parts[0] is None or parts[1] is None:  # loaded: how it started is not in the folder
        return WeightUpdate(
            f"{name}.weight",
            base,
            delta=_to_out_in(layer.get_base_layer(), weight) + left @ right - base,
            transposed=turned,
        )
    first_left, first_right = (part.to(weight.device).float() for part in parts)
    both = torch.cat([left, -layer.scaling[ADAPTER] * first_left], 1), torch.cat([right, first_right], 0)
    return WeightUpdate(f"{name}.weight", base, lora_B=both[0], lora_A=both[1], transposed=turned)


def _dora(name: str, layer: Any) -> WeightUpdate:
    """m (W + s B A) / ||W + s B A|| - W, norms over the inputs of each output (arXiv 2402.09353, equation 5)."""
    weight = _to_out_in(layer.get_base_layer(), _weight(layer.get_base_layer()))
    left, right = _factors(layer)
    moved = weight + left @ right
    magnitude = layer.lora_magnitude_vector[ADAPTER].weight.detach().float()
    return WeightUpdate(
        f"{name}.weight", weight, delta=magnitude[:, None] * moved / moved.norm(dim=1, keepdim=True) - weight
    )


def _merged(attached: AttachedMethod, name: str, layer: Any) -> Iterator[WeightUpdate]:
    """What PEFT's merge makes of the layer's own weights, in float32, which are put back afterwards."""
    inner = layer.get_base_layer()
    held = {key: parameter.data for key, parameter in inner.named_parameters()}
    before = {
        key: attached.base_weights.get(f"{name}.{key}", tensor).to(tensor.device).float()
        for key, tensor in held.items()
    }
    try:
        for key, parameter in inner.named_parameters():
            parameter.data = held[key].float().clone()
        layer.merge(adapter_names=[ADAPTER])
        now = {key: p.detach().float() for key, p in layer.get_base_layer().named_parameters()}
    except (ValueError, NotImplementedError, RuntimeError, AttributeError, TypeError) as error:
        why = f"PEFT does not merge it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        yield WeightUpdate(f"{name}.weight", before["weight"], unsupported=why)
        return
    finally:
        if layer.get_base_layer() is not inner:  # some types put another module in the base's place
            layer.unmerge()
        layer.merged_adapters.clear()
        for key, parameter in inner.named_parameters():
            parameter.data = held[key]
    for key, tensor in before.items():
        yield _dense(f"{name}.{key}", inner, tensor, now[key])


def _is_quantised(module: Any) -> bool:
    return getattr(module, "weight", None) is not None and type(module.weight).__name__ in ("Params4bit", "Int8Params")


def _weight(module: Any) -> torch.Tensor:
    """The weight of a module as it stands, float32, quantised storage unpacked."""
    if not _is_quantised(module):
        return module.weight.detach().float()
    from bitsandbytes import functional

    stored = module.weight
    if type(stored).__name__ == "Params4bit":
        return functional.dequantize_4bit(stored.data, stored.quant_state).float()
    scales = stored.SCB if module.state.SCB is None else module.state.SCB  # the first forward pass takes them along
    return stored.data.float() * (scales.to(stored.device) / 127)[:, None]
