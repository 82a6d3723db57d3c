"""What a method changed: for each weight of the base, its value before and its update.

The model is left as it was: weights that PEFT merges into in between are restored bit for bit. Matrices are (out, in)
whatever the storage order; quantised weights are dequantised.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from peftodyssey.methods.adapter import ADAPTER_NAME, BASE_MODIFYING_INITS
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.peft_errors import PEFT_ERRORS, is_out_of_memory
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class WeightUpdate:
    """One weight of the base and its update: `delta`, or `lora_B @ lora_A` for a low-rank one; float32."""

    name: str  # of the parameter in the base, e.g. model.layers.0.mlp.up_proj.weight
    base: torch.Tensor
    delta: torch.Tensor | None = None
    lora_B: torch.Tensor | None = None  # [out, r], scaling included
    lora_A: torch.Tensor | None = None  # [r, in]
    unsupported: str = ""  # why the update is not known; then the three above are None
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
        fields = ("base", "delta", "lora_B", "lora_A")
        tensors = {key: tensor for key in fields if (tensor := getattr(self, key)) is not None}
        return replace(self, **{key: tensor.to(device) for key, tensor in tensors.items()})


def iter_updates(attached: AttachedMethod) -> Iterator[WeightUpdate]:
    """The update of every weight that `attached` may have changed, trained here or loaded; a shared weight once."""
    yield from _adapter_updates(attached) if attached.is_adapter else _trained_weight_updates(attached)


def is_additive(spec: MethodSpec) -> bool:
    """Whether the method adds something to the base weights: full fine-tuning (cut to a rank or not), LoRA.

    DoRA is not additive, nor is an `init` that moves a part of the base into the adapter, nor a quantised base.
    """
    plain = not spec.options.get("dora") and not str(spec.options.get("init", "")).startswith(BASE_MODIFYING_INITS)
    return spec.quant is None and (spec.method in ("full", "truncate") or (spec.method == "lora" and plain))


def additive_deltas(attached: AttachedMethod, names: Collection[str]) -> dict[str, torch.Tensor]:
    """The updates of the base's parameters `names` in storage order, float32 on the CPU; unchanged ones are absent."""
    assert is_additive(attached.spec), attached.spec
    updates = (update for update in iter_updates(attached) if update.name in names)
    return {update.name: (update.dense.T if update.transposed else update.dense).cpu() for update in updates}


def base_norm(attached: AttachedMethod) -> float:
    """Frobenius norm of all weights of the base as they were before the method; quantised ones are dequantised."""
    import torch

    skipped, total = _adapter_parameter_ids(attached.base), 0.0
    for name, module in attached.base.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in skipped:
                continue
            skipped.add(id(parameter))
            base_name = f"{name}.{key}".replace(".base_layer.", ".").replace(".original_module.", ".")
            weight = attached.base_weights.get(base_name)
            if weight is None:
                weight = _dequantised(module) if key == "weight" else parameter.detach()
            total += float(weight.float().square().sum(dtype=torch.float64))
    return total**0.5


def _adapter_parameter_ids(model: nn.Module) -> set[int]:
    """The ids of the parameters that PEFT's wrappers added to the model."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    added: set[int] = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer | ModulesToSaveWrapper):
            is_layer = isinstance(module, BaseTunerLayer)
            original: Any = module.get_base_layer() if is_layer else module.original_module
            added |= {id(p) for p in module.parameters()} - {id(p) for p in original.parameters()}
    return added


def _trained_weight_updates(attached: AttachedMethod) -> Iterator[WeightUpdate]:
    """Of weights of the base that were trained or loaded."""
    parameters = dict(attached.base.named_parameters())
    for name, stored in attached.base_weights.items():
        after = parameters[name].detach().float()
        before = stored.to(after.device).float()
        module = attached.base.get_submodule(name.rpartition(".")[0])
        yield _dense_update(name, module, before, after)


def _dense_update(name: str, module: nn.Module, before: torch.Tensor, after: torch.Tensor) -> WeightUpdate:
    before, after = _to_out_in(module, before), _to_out_in(module, after)
    return WeightUpdate(name, before, delta=after - before, transposed=_is_transposed(module) and after.ndim == 2)


def _to_out_in(module: nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """A matrix of `module` as (out, in)."""
    return tensor.T if _is_transposed(module) and tensor.ndim == 2 else tensor


def _is_transposed(module: nn.Module) -> bool:
    """Whether the module stores its matrix as (in, out)."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, Conv1D)


def _adapter_updates(attached: AttachedMethod) -> Iterator[WeightUpdate]:
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    for name, module in list(attached.base.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):  # trained as a whole beside an adapter
            original: Any = module.original_module
            trained = dict(module.modules_to_save[ADAPTER_NAME].named_parameters())
            for key, parameter in original.named_parameters():
                before, after = parameter.detach().float(), trained[key].detach().float()
                yield _dense_update(f"{name}.{key}", original, before, after)
        elif isinstance(module, BaseTunerLayer):
            yield from _layer_updates(attached, name, module)


def _layer_updates(attached: AttachedMethod, name: str, layer: Any) -> Iterator[WeightUpdate]:
    """Of one PEFT layer: from its formula for LoRA and DoRA, else from PEFT's merge."""
    kind, base_layer = _lora_kind(layer), layer.get_base_layer()
    if kind == "lora":
        yield _lora_update(attached, name, layer)
    elif kind == "dora":
        yield _dora_update(name, layer)
    elif _is_quantised(base_layer):
        peft_type = type(layer).__module__.split(".")[-2]
        reason = f"the update of {peft_type} on a quantised weight is not known"
        yield WeightUpdate(f"{name}.weight", _dequantised(base_layer), unsupported=reason)
    else:
        yield from _merged_updates(attached, name, layer)


def _lora_kind(layer: Any) -> str:
    """`lora` for a product of two matrices, `dora` for one with magnitudes, else empty."""
    from peft.tuners.lora import LoraLayer
    from torch import nn

    if not isinstance(layer, LoraLayer) or ADAPTER_NAME not in layer.lora_A:
        return ""
    if not isinstance(layer.lora_A[ADAPTER_NAME], nn.Linear) or layer.lora_B[ADAPTER_NAME].bias is not None:
        return ""
    variant = layer.lora_variant.get(ADAPTER_NAME)
    if variant is None:
        return "lora"
    return "dora" if type(variant).__name__ == "DoraLinearVariant" else ""


def _lora_factors(layer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(lora_B [out, r] times the scaling, lora_A [r, in]), float32."""
    lora_B, lora_A = (part[ADAPTER_NAME].weight.detach().float() for part in (layer.lora_B, layer.lora_A))
    return lora_B * layer.scaling[ADAPTER_NAME], lora_A


def _lora_update(attached: AttachedMethod, name: str, layer: Any) -> WeightUpdate:
    """B A; where the `init` moved a part of the base into the adapter, B A less that part, on the original base."""
    import torch

    base_layer, (lora_B, lora_A) = layer.get_base_layer(), _lora_factors(layer)
    transposed, weight = _is_transposed(base_layer), _to_out_in(base_layer, _dequantised(base_layer))
    original = attached.base_weights.get(f"{name}.weight")
    if original is None:
        return WeightUpdate(f"{name}.weight", weight, lora_B=lora_B, lora_A=lora_A, transposed=transposed)
    base = _to_out_in(base_layer, original.to(weight.device).float())
    initial_B, initial_A = (
        attached.initial_weights.get(f"base_model.model.{name}.{part}.{ADAPTER_NAME}.weight")
        for part in ("lora_B", "lora_A")
    )
    if initial_B is None or initial_A is None:  # a loaded adapter: its initial weights are not in the folder
        delta = weight + lora_B @ lora_A - base
        return WeightUpdate(f"{name}.weight", base, delta=delta, transposed=transposed)
    initial_B, initial_A = (initial.to(weight.device).float() for initial in (initial_B, initial_A))
    lora_B = torch.cat([lora_B, -layer.scaling[ADAPTER_NAME] * initial_B], 1)
    lora_A = torch.cat([lora_A, initial_A], 0)
    return WeightUpdate(f"{name}.weight", base, lora_B=lora_B, lora_A=lora_A, transposed=transposed)


def _dora_update(name: str, layer: Any) -> WeightUpdate:
    """m (W + s B A) / ||W + s B A|| - W, norms over the inputs of each output (arXiv 2402.09353, equation 5)."""
    weight = _to_out_in(layer.get_base_layer(), _dequantised(layer.get_base_layer()))
    lora_B, lora_A = _lora_factors(layer)
    direction = weight + lora_B @ lora_A
    magnitude = layer.lora_magnitude_vector[ADAPTER_NAME].weight.detach().float()
    delta = magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True) - weight
    return WeightUpdate(f"{name}.weight", weight, delta=delta)


def _merged_updates(attached: AttachedMethod, name: str, layer: Any) -> Iterator[WeightUpdate]:
    """What PEFT's merge in float32 makes of the layer's own weights, which are restored afterwards."""
    base_layer = layer.get_base_layer()
    stored = {key: parameter.data for key, parameter in base_layer.named_parameters()}
    before = {
        key: attached.base_weights.get(f"{name}.{key}", tensor).to(tensor.device).float()
        for key, tensor in stored.items()
    }
    try:
        for key, parameter in base_layer.named_parameters():
            parameter.data = stored[key].float().clone()
        layer.merge(adapter_names=[ADAPTER_NAME])
        after = {key: p.detach().float() for key, p in layer.get_base_layer().named_parameters()}
    except PEFT_ERRORS as error:
        if is_out_of_memory(error):
            raise
        reason = f"PEFT does not merge it: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        yield WeightUpdate(f"{name}.weight", before["weight"], unsupported=reason)
        return
    finally:
        if layer.get_base_layer() is not base_layer:  # some types replace the base layer
            layer.unmerge()
        layer.merged_adapters.clear()
        for key, parameter in base_layer.named_parameters():
            parameter.data = stored[key]
    for key, tensor in before.items():
        yield _dense_update(f"{name}.{key}", base_layer, tensor, after[key])


def _is_quantised(module: Any) -> bool:
    return getattr(module, "weight", None) is not None and type(module.weight).__name__ in ("Params4bit", "Int8Params")


def _dequantised(module: Any) -> torch.Tensor:
    """The present weight of a module, float32."""
    weight: Any = module.weight
    if not _is_quantised(module):
        unquantised: torch.Tensor = weight.detach().float()
        return unquantised
    from bitsandbytes import functional

    if type(weight).__name__ == "Params4bit":
        return functional.dequantize_4bit(weight.data, weight.quant_state).float()
    scales = (
        weight.SCB if module.state.SCB is None else module.state.SCB
    )  # the first forward pass moves them to `state`
    rows: torch.Tensor = weight.data.float() * (scales.to(weight.device) / 127)[:, None]
    return rows
