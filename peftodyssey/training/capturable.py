"""Which trainings may be captured as CUDA graphs: their passes never wait for the host and draw nothing at random.

`tests/training/test_capture_lint.py` looks at the operations of the passes that are allowed here.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from peftodyssey.constants import ATTENTION_DROPOUT
from peftodyssey.training.settings import TrainSettings

FAMILIES = frozenset({"llama", "mistral", "qwen2", "qwen3", "olmo2", "smollm3"})
EAGER_FAMILIES = frozenset(
    {"gpt2", "gpt_neox", "olmo", "gemma", "gemma2", "gemma3_text", "phi", "phi3", "starcoder2", "stablelm"}
)
TUNERS = frozenset({"lora", "ia3", "tuners_utils"})  # modules of peft.tuners in a model that is captured
ROPE_BY_LENGTH = frozenset({"dynamic", "longrope"})  # whose angles depend on the text


def untested(model: nn.Module) -> str:
    """A sentence about an architecture of which nothing is known here; "" for the others."""
    family = _family(model)
    if family in FAMILIES | EAGER_FAMILIES:
        return ""
    return f"the architecture {family} was not tested here: it trains eagerly, by transformers' own code"


def why_eager(model: nn.Module, settings: TrainSettings) -> str:
    """Why passes of a training are not captured; "" where they are."""
    if _family(model) not in FAMILIES:
        return f"the architecture {_family(model)}"
    if settings.offload_activations or settings.offload_optimizer:
        return "tensors move to the host and back"
    if settings.precision == "fp16":
        return "the loss scale of fp16 is read by the host"
    if _has_dropout(model):
        return "dropout draws random numbers"
    if _rope_type(model) in ROPE_BY_LENGTH:
        return "the angles of its positions depend on the text"
    for module in model.modules():
        package, kind = type(module).__module__, type(module).__name__
        if kind == "Linear8bitLt":
            return "the 8-bit base looks for outliers in every pass"
        if package.startswith("peft.tuners.") and package.split(".")[2] not in TUNERS:
            return f"the adapter {kind} of peft"
    return ""


def _family(model: nn.Module) -> str:
    return str(getattr(getattr(model, "config", None), "model_type", type(model).__name__))


def _rope_type(model: nn.Module) -> str:
    config: Any = getattr(model, "config", None)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return str(rope.get("rope_type", rope.get("type", "")))


def _has_dropout(model: nn.Module) -> bool:
    """Whether passes draw random numbers, by the model's modules or by its config."""
    config = getattr(model, "config", None)
    if config is None or vars(model).get(ATTENTION_DROPOUT):
        return True
    if any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        return True
    return any(value for name, value in vars(config).items() if "dropout" in name and isinstance(value, float))
