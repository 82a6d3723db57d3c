"""How many tokens a base was trained on at once: beyond that its losses rise, though it has positions for more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from peftodyssey.models.ladder_file import LADDER_FILE
from peftodyssey.models.source import ModelSource

NO_LIMIT = 1_000_000  # tokenizers without a limit state more than this


class TrainingLength(NamedTuple):
    """Tokens of a training sequence, and where they are stated."""

    tokens: int
    stated_in: str


def training_length(source: ModelSource) -> TrainingLength | None:
    """The least that the model's files state: its ladder's sequence length, the positions before a RoPE was stretched,
    its tokenizer's limit, its positions. None where they state none.
    """
    config = source.config.get("text_config") or source.config
    stated = [
        TrainingLength(tokens, where)
        for tokens, where in (
            (_ladder_length(source), f"sequence_length in {LADDER_FILE}"),
            (_unstretched(config), "original_max_position_embeddings in config.json"),
            (_tokenizer_limit(source), "model_max_length in tokenizer_config.json"),
            (config.get("max_position_embeddings") or config.get("n_positions"), "positions in config.json"),
        )
        if isinstance(tokens, int) and 0 < tokens < NO_LIMIT
    ]
    return min(stated, key=lambda length: length.tokens, default=None)


def too_long_note(name: str, trained: TrainingLength, context: int) -> str:
    """What must be said where `name` is scored with a longer context than it was trained with."""
    return (
        f"{name} was trained on {trained.tokens:,} tokens at once ({trained.stated_in}); at a context of {context:,} "
        "its losses are higher for that alone"
    )


def _ladder_length(source: ModelSource) -> Any:
    folder = source.folder
    for place in (folder, folder.parent) if folder is not None else ():
        if (place / LADDER_FILE).is_file():
            return _read(place / LADDER_FILE).get("sequence_length")
    return None


def _unstretched(config: Mapping[str, Any]) -> Any:
    entries = (config.get("rope_parameters"), config.get("rope_scaling"), config)
    key = "original_max_position_embeddings"
    return next((entry[key] for entry in entries if isinstance(entry, Mapping) and entry.get(key)), None)


def _tokenizer_limit(source: ModelSource) -> Any:
    if source.kind == "random" or source.tokenizer_folder is None:  # a random shape has no tokenizer of its own
        return None
    return _read(source.tokenizer_folder / "tokenizer_config.json").get("model_max_length")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
