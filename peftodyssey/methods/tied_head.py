"""The head of a model that shares its weight with the embeddings, when an adapter of one of them is merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

UNTIED = (
    "the head and the embeddings were one matrix in the base and are two in the merged model: its config.json says "
    "tie_word_embeddings: false"
)


def part_head(model: PreTrainedModel) -> bool:
    """Gives the head a copy of the weight that it shares with the embeddings, where an adapter is on one of them.

    A merge changes a weight in place and would change both. True where the config ties the two, whatever the adapter.
    """
    import torch

    modules = model.get_input_embeddings(), model.get_output_embeddings()
    if modules[1] is None:
        return False
    inputs, head = (_innermost(module) for module in modules)
    if head.weight is inputs.weight and (inputs is not modules[0] or head is not modules[1]):
        head.weight = torch.nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    return any(part.tie_word_embeddings for part in _configs(model))


def tie_or_untie(model: PreTrainedModel) -> bool:
    """Makes the config of a tied model agree with its weights after a merge: equal matrices are one again, different
    ones are two in the config too. True where they are two.
    """
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_equal = head.weight.shape == inputs.weight.shape and bool((head.weight == inputs.weight).all())
    if is_equal:
        head.weight = inputs.weight
    for part in _configs(model):
        part.tie_word_embeddings = is_equal
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)
    return not is_equal


def _configs(model: PreTrainedModel) -> list[Any]:
    """The model's config and that of its text part, which are mostly the same, where they speak of a tied head."""
    configs = (model.config, model.config.get_text_config())
    return [part for part in configs if hasattr(part, "tie_word_embeddings")]


def _innermost(module: Any) -> Any:
    """The base's own module inside PEFT's wrappers."""
    while (inner := module._modules.get("base_layer") or module._modules.get("original_module")) is not None:
        module = inner
    return module
