"""IA3 (Liu et al., arXiv 2205.05638): learned scales on keys, values and the feed-forward's inner activations. In
METHODS as `ia3`.

Without `targets` the same parts are scaled in every family, as in the paper; a map that makes queries, keys and values
at once is scaled whole. A targeted map that leads out of the feed-forward has its input scaled, any other its output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter import attach_adapter, detach_adapter, export_adapter, merge_adapter
from peftodyssey.methods.modules import fan_in_fan_out, linear_modules, target_module_names
from peftodyssey.methods.protocol import AttachedMethod, MethodImpl
from peftodyssey.methods.saved import load_folder
from peftodyssey.methods.targets import matches, target_linears, target_problems
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEYS_AND_VALUES = ("k_proj", "v_proj", "query_key_value", "qkv_proj", "c_attn", "key", "value")
FEED_FORWARD = ("down_proj", "dense_4h_to_h", "mlp.c_proj", "fc2", "fc_out")


def is_feedforward(name: str) -> bool:
    """Whether the map leads out of the feed-forward."""
    return any(matches(name, part) for part in FEED_FORWARD)


def default_targets(names: list[str]) -> list[str]:
    """Of all linear maps the keys, the values and the way out of the feed-forward."""
    return [name for name in names if is_feedforward(name) or any(matches(name, part) for part in KEYS_AND_VALUES)]


def check(point: MethodSpec, anatomy: ModelShape) -> list[str]:
    """A quantised base, targets that match nothing, or a family whose keys, values and feed-forward are not known by
    name.
    """
    if point.quant:  # PEFT's 4-bit IA3 gives float32 where half precision is expected, except under autocast
        return [f"ia3 is not offered on a base stored as {point.quant.kind}; use qlora"]
    if point.targets is None and not _targets(point, anatomy):
        leaves = sorted({m.leaf for m in anatomy.linears})
        return [f"ia3 does not know the keys and values of {anatomy.family}: name targets among {', '.join(leaves)}"]
    return target_problems(anatomy, point.targets)


def _targets(point: MethodSpec, anatomy: ModelShape) -> list[str]:
    names = [m.name for m in target_linears(anatomy, point.targets)]
    return default_targets(names) if point.targets is None else names


def count(point: MethodSpec, anatomy: ModelShape) -> int:
    """One scale for each input of a way out of the feed-forward, one for each output of any other target."""
    chosen = set(_targets(point, anatomy))
    return sum(m.in_features if is_feedforward(m.name) else m.out_features for m in anatomy.linears if m.name in chosen)


def attach(model: PreTrainedModel, point: MethodSpec, seed: int) -> AttachedMethod:
    """PEFT's IA3 on the targets, all scales 1."""
    from peft import IA3Config

    names = (
        default_targets(list(linear_modules(model)))
        if point.targets is None
        else target_module_names(model, point.targets)[0]
    )
    if not names:
        raise MethodError(f"ia3 does not know the keys and values of {type(model).__name__}", "name `targets`")
    config = IA3Config(
        target_modules=names,
        feedforward_modules=[name for name in names if is_feedforward(name)],
        fan_in_fan_out=fan_in_fan_out(model, names),
        task_type="CAUSAL_LM",
    )
    return attach_adapter(model, config, point, seed)


IA3 = MethodImpl(
    "ia3",
    "learned scales on keys, values and the feed-forward",
    check,
    count,
    attach,
    export_adapter,
    load_folder,
    merge_adapter,
    detach_adapter,
)
