"""IA3 (Liu et al., arXiv 2205.05638): learned scales on keys, values and the feed-forward's inner activations.

Without `targets` these parts are scaled in every family, as in the paper; a fused query-key-value map is scaled as a
whole. The input of the feed-forward's output projection is scaled, and the output of any other target.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftodyssey.errors import MethodError
from peftodyssey.methods.adapter import attach_adapter
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.methods.method import Method
from peftodyssey.methods.modules import fan_in_fan_out, target_module_names
from peftodyssey.methods.targets import matches, target_linears, target_problems
from peftodyssey.model_shape import ModelShape
from peftodyssey.recipe.cell import MethodSpec

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEYS_AND_VALUES = ("k_proj", "v_proj", "query_key_value", "qkv_proj", "c_attn", "key", "value")
FEED_FORWARD = ("down_proj", "dense_4h_to_h", "mlp.c_proj", "fc2", "fc_out")


def is_feedforward(name: str) -> bool:
    """Whether the map is the feed-forward's output projection, one of PEFT's `feedforward_modules`."""
    return any(matches(name, part) for part in FEED_FORWARD)


def default_targets(names: list[str]) -> list[str]:
    """Of all linear maps the keys, the values and the feed-forward's output projections."""
    return [name for name in names if is_feedforward(name) or any(matches(name, part) for part in KEYS_AND_VALUES)]


def check(spec: MethodSpec, shape: ModelShape) -> list[str]:
    """Problems: a quantised base, targets that match nothing, a family with unknown names of keys and values."""
    if spec.quant:  # PEFT's 4-bit IA3 gives float32 where half precision is expected, except under autocast
        return [f"ia3 is not offered on a base stored as {spec.quant.kind}; use qlora"]
    if spec.targets is None and not _targets(spec, shape):
        leaves = sorted({m.leaf for m in shape.linears})
        return [f"ia3 does not know the keys and values of {shape.family}: name targets among {', '.join(leaves)}"]
    return target_problems([m.name for m in shape.linears], spec.targets)


def _targets(spec: MethodSpec, shape: ModelShape) -> list[str]:
    names = [m.name for m in target_linears(shape, spec.targets)]
    return default_targets(names) if spec.targets is None else names


def count(spec: MethodSpec, shape: ModelShape) -> int:
    """One scale for each input of a feed-forward's output projection, one for each output of any other target."""
    chosen = set(_targets(spec, shape))
    return sum(m.in_features if is_feedforward(m.name) else m.out_features for m in shape.linears if m.name in chosen)


def attach(model: PreTrainedModel, spec: MethodSpec, seed: int) -> AttachedMethod:
    """PEFT's IA3 on the targets, all scales 1."""
    from peft import IA3Config

    names, _ = target_module_names(model, spec.targets)
    if spec.targets is None:
        names = default_targets(names)
    if not names:
        raise MethodError(f"ia3 does not know the keys and values of {type(model).__name__}", "name `targets`")
    config = IA3Config(
        target_modules=names,
        feedforward_modules=[name for name in names if is_feedforward(name)],
        fan_in_fan_out=fan_in_fan_out(model, names),
        task_type="CAUSAL_LM",
    )
    return attach_adapter(model, config, spec, seed)


IA3 = Method("ia3", "learned scales on keys, values and the feed-forward", check, count, attach)
