"""What a new recipe heeds of its model: the length it was trained on, and what its start token is."""

from __future__ import annotations

from peftodyssey.corpora.tokenizer_checks import chat_marker
from peftodyssey.errors import OdysseyError
from peftodyssey.models.source import resolve
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.models.training_length import training_length
from peftodyssey.recipe.template import ModelFacts


def model_facts(model: str) -> ModelFacts:
    """The facts of `model`; none where it cannot be looked at, which `check` says of the recipe."""
    try:
        source = resolve(model)
        marker, trained = chat_marker(load_tokenizer(source)), training_length(source)
    except OdysseyError:
        return ModelFacts()
    return ModelFacts(trained.tokens if trained else None, marker)
