"""The tokenizer of a base model, with character offsets and without special tokens; and training a byte-level BPE.

Reading a tokenizer.json imports `tokenizers` only; transformers is imported where an older format must be converted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import ModelError
from peftodyssey.models.source import ModelSource

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CHAT_TEMPLATE_FILE = "chat_template.jinja"
END_OF_TEXT = "<|endoftext|>"  # of `train_bpe`: id 0; bos, eos and padding


@dataclasses.dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer, its special ids, and a fingerprint of both."""

    backend: Tokenizer
    bos_id: int | None
    eos_id: int | None
    pad_id: int | None
    fingerprint: str  # SHA-256 of the vocabulary, merges and special ids

    @cached_property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    @property
    def prefix_id(self) -> int | None:
        """The id put before the first token of a document: bos, else eos."""
        return self.bos_id if self.bos_id is not None else self.eos_id

    @cached_property
    def adds_bos(self) -> bool:
        """Whether the tokenizer puts bos before every text by itself, as in training of the model."""
        return self.bos_id is not None and self.backend.encode("a", add_special_tokens=True).ids[0] == self.bos_id

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and (start, end) character offsets of `text`: special tokens are not added, spelt ones are characters."""
        encoding = self.backend.encode(text, add_special_tokens=False)
        return encoding.ids, encoding.offsets

    def decode(self, ids: list[int]) -> str:
        """The text of `ids`, special tokens written out."""
        return self.backend.decode(ids, skip_special_tokens=False)


def load_tokenizer(source: ModelSource) -> TextTokenizer:
    """The tokenizer of `source`. Raises ModelError if there is none or it has more ids than the model has rows."""
    folder = source.tokenizer_folder
    assert folder is not None, "resolve always names a tokenizer folder"
    tokenizer = tokenizer_from_folder(folder, source.name, source.config)
    rows = embedding_rows(source)
    ids = tokenizer.backend.get_vocab_size(
        with_added_tokens=False
    )  # added tokens may lie beyond: Gemma 3's image token
    if rows is not None and ids > rows:
        raise ModelError(
            f"the tokenizer of {source.name} has {ids} ids, the model's vocabulary only {rows} rows",
            "use the tokenizer that belongs to the model",
        )
    return tokenizer


def embedding_rows(source: ModelSource) -> int | None:
    """Rows of the model's embeddings, as config.json states them; None where it leaves them to transformers."""
    rows: int | None = (source.config.get("text_config") or source.config).get("vocab_size")
    return rows


def check_ids(highest: int, name: str, source: ModelSource, tokenizer: TextTokenizer) -> None:
    """Raises ModelError where the highest id of the text `name` lies beyond the model's embeddings."""
    rows = embedding_rows(source)
    if rows is not None and highest >= rows:
        raise ModelError(
            f"{name} has the token {tokenizer.backend.id_to_token(highest)!r}, id {highest:,}, and {source.name} has "
            f"only {rows:,} embeddings: the token was added to the tokenizer and not to the model",
            "use the tokenizer that belongs to the model, or resize the model's embeddings and train them",
        )


def tokenizer_from_folder(folder: Path, name: str, config: dict[str, Any]) -> TextTokenizer:
    """The tokenizer in `folder`; special ids that its own files do not state are those of the model's `config`."""
    backend, content = _backend(folder, name)
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True  # control tokens that a text spells out are text
    ids = {key: _special_id(key, folder, config, backend) for key in ("bos", "eos", "pad")}
    fingerprint = hashlib.sha256(content + json.dumps(ids, sort_keys=True).encode()).hexdigest()
    return TextTokenizer(backend, ids["bos"], ids["eos"], ids["pad"], fingerprint)


def chat_template(source: ModelSource) -> str | None:
    """The Jinja chat template of this model, from chat_template.jinja or tokenizer_config.json; None if it has none."""
    folder = source.tokenizer_folder
    assert folder is not None, "resolve always names a tokenizer folder"
    if (folder / CHAT_TEMPLATE_FILE).is_file():
        return (folder / CHAT_TEMPLATE_FILE).read_text(encoding="utf-8")
    template = _read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several, each with a name
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    return template if isinstance(template, str) else None


def _backend(folder: Path, name: str) -> tuple[Tokenizer, bytes]:
    """The fast tokenizer and the bytes that define it."""
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        backend = _convert_to_fast(folder, name)
        return backend, backend.to_str().encode()
    content = path.read_bytes()
    try:
        return Tokenizer.from_buffer(content), content
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "copy the file again, or upgrade `tokenizers`") from error


def _convert_to_fast(folder: Path, name: str) -> Tokenizer:
    """The fast form of an older tokenizer (SentencePiece, vocab.json + merges.txt), converted by transformers."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise ModelError(
            f"no tokenizer of {name} can be read in {folder}: {error}",
            "put tokenizer.json beside config.json (AutoTokenizer.from_pretrained(...).save_pretrained(folder))",
        ) from error
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(f"the tokenizer of {name} has no fast form, so no character offsets", "choose another model")
    return backend


def _special_id(name: str, folder: Path, config: dict[str, Any], backend: Tokenizer) -> int | None:
    """Id of `bos`, `eos` or `pad` in tokenizer_config.json, where null means none; else in config.json."""
    key = f"{name}_token"
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = _read_json(folder / file)
        if key in settings:
            token = settings[key]
            text = token.get("content") if isinstance(token, dict) else token
            return backend.token_to_id(text) if text is not None else None
    ids = config.get(f"{key}_id")
    first = (ids[0] if ids else None) if isinstance(ids, list) else ids
    return first if isinstance(first, int) and backend.id_to_token(first) is not None else None


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}", "copy the file again") from error
    return content if isinstance(content, dict) else {}


def train_bpe(texts: Iterable[str], vocab_size: int, folder: Path, model_max_length: int) -> int:
    """Trains a byte-level BPE and writes tokenizer.json and tokenizer_config.json; returns the ids it has.

    These are `vocab_size`, or fewer where the text has too few pairs to merge.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    assert vocab_size > 256, vocab_size  # every byte, and the end of text
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": model_max_length}
    config |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return tokenizer.get_vocab_size(with_added_tokens=True)
