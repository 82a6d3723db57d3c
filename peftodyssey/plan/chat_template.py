"""The chat template of a cell: the one that the recipe names, else the model's own."""

from __future__ import annotations

from pathlib import Path

from peftodyssey.corpora.chat import PLAIN_TEMPLATE, Chat, with_one_start
from peftodyssey.corpora.control_tokens import control_token_pattern
from peftodyssey.corpora.source import Corpus
from peftodyssey.errors import CorpusError
from peftodyssey.models.source import ModelSource
from peftodyssey.models.tokenizer import TextTokenizer, chat_template
from peftodyssey.untrusted import limits


def chat_of(corpus: Corpus, named: str | None, source: ModelSource, tokenizer: TextTokenizer) -> Chat | None:
    """The template that turns the conversations of `corpus` into text; None where its rows are not conversations.

    `named` is "plain", the path of a Jinja file, or None for the model's own. Where the tokenizer puts bos before every
    text and the template writes none, it is put before each conversation once. Raises CorpusError where the model has
    none, or the file cannot be read.
    """
    if not corpus.row_schema.is_chat:
        return None
    template = chat_template(source) if named is None else PLAIN_TEMPLATE if named == "plain" else _read(Path(named))
    if template is None:
        raise CorpusError(
            f"{corpus.name} has conversations, and {source.name} has no chat template to turn them into text",
            "name one: train: {chat_template: plain} (`score --chat-template plain`), or the path of a Jinja file; or "
            "put chat_template.jinja beside its tokenizer",
        )
    ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "pad_token": tokenizer.pad_id}
    chat = Chat(
        template,
        {name: str(tokenizer.backend.id_to_token(token)) for name, token in ids.items() if token is not None},
        control=None if corpus.spec.special_tokens == "parse" else control_token_pattern(tokenizer.backend),
    )
    return with_one_start(chat) if tokenizer.adds_bos else chat


def chat_identity(chat: Chat | None) -> dict[str, str]:
    """What a text's identity holds of its chat template; nothing where it has no conversations."""
    return {} if chat is None else {"chat_template": chat.template, "answers": "every turn"}


def _read(path: Path) -> str:
    try:
        return limits.read_bytes(path, limits.TEMPLATE_BYTES).decode("utf-8")
    except (OSError, ValueError) as error:
        raise CorpusError(
            f"the chat template {path} cannot be read: {error}", "set train.chat_template to `plain` or to a Jinja file"
        ) from error
