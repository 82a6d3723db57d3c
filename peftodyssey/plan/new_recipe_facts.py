"""What a new recipe heeds of its models and texts: lengths, templates, columns, rows that hold nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

from peftodyssey.constants import SPLITS
from peftodyssey.corpora import local
from peftodyssey.corpora.chat import PLAIN_TEMPLATE, Chat
from peftodyssey.corpora.documents import check_splits, documents
from peftodyssey.corpora.row_schema import infer_schema
from peftodyssey.corpora.source import Corpus, resolve
from peftodyssey.corpora.survey import Survey, read_as, survey
from peftodyssey.corpora.tokenizer_checks import chat_marker
from peftodyssey.errors import CorpusError, InputError, OdysseyError
from peftodyssey.models.source import resolve as resolve_model
from peftodyssey.models.tokenizer import TextTokenizer, chat_template, load_tokenizer
from peftodyssey.models.training_length import training_length
from peftodyssey.recipe.cell import CorpusSpec
from peftodyssey.recipe.corpus_names import PREFIXES, corpus_name
from peftodyssey.recipe.schema_texts import Corpus as CorpusKeys
from peftodyssey.recipe.template import ModelFacts, TextFacts, quoted

TEXT_FIELDS = ("text", "content", "document", "article", "body", "code", "abstract")
MEASURED_DOCUMENTS = 500  # whose lengths decide the sequence length
WIDER_SPLITS = {"valid": 0.15, "test": 0.25}  # for texts with so few documents that the usual shares leave one empty
CHARACTERS_PER_TOKEN = 4  # where the model has no tokenizer to ask


def model_facts(model: str) -> ModelFacts:
    """The facts of `model`; none where it cannot be looked at, which `check` says of the recipe."""
    try:
        source = resolve_model(model)
        marker, trained = chat_marker(load_tokenizer(source)), training_length(source)
    except OdysseyError:
        return ModelFacts()
    has_template = chat_template(source) is not None
    return ModelFacts(trained.tokens if trained else None, marker, has_template, source.stored_quant is not None)


def text_facts(text: str, models: Sequence[str]) -> TextFacts:
    """The facts of a text as it was given on the command line; a name of the Hub may be out of reach.

    Raises InputError where a local text cannot be read, or has no text in its rows.
    """
    name = corpus_name(CorpusKeys.model_validate({"source": text}))
    if text.startswith(PREFIXES):
        try:
            corpus = resolve(CorpusSpec(name, text))
        except OdysseyError:  # `check` says what is wrong with it
            return TextFacts(name, text)
        schema = corpus.row_schema
        return TextFacts(name, text, has_answers=schema.turns is not None, is_chat=schema.is_chat)
    spec = _with_field(CorpusSpec(name, str(Path(text).expanduser())))
    chat = Chat(PLAIN_TEMPLATE)
    corpus, found = _with_bad_rows(spec, chat)
    corpus = _with_wider_splits(corpus, chat)
    lengths = _lengths(corpus, chat, models)
    mean = sum(lengths) / max(len(lengths), 1)
    whole = found.complete and corpus.kind == "local"
    return TextFacts(
        name,
        text,
        _keys(corpus.spec),
        (read_as(corpus, found).partition(": ")[2],),
        corpus.row_schema.turns is not None,
        corpus.row_schema.is_chat,
        tuple(lengths),
        round(mean * found.documents) if whole else None,
    )


def _keys(spec: CorpusSpec) -> tuple[tuple[str, str], ...]:
    """The keys of a text in which it differs from the defaults, as YAML."""
    keys = [("field", quoted(spec.field))] if spec.field else []
    keys += [("bad_rows", spec.bad_rows)] if spec.bad_rows != "error" else []
    if spec.split:
        keys.append(("split", "{" + ", ".join(f"{name}: {share:.0%}" for name, share in spec.split.items()) + "}"))
    return tuple(keys)


def _with_field(spec: CorpusSpec) -> CorpusSpec:
    """The text with a `field` where its rows have no form that is known and no column `text`: the longest column."""
    files = local.find_splits(spec.source, {})
    path = next(path for paths in files.values() for path in paths)
    if local.is_plain(path):
        return spec
    place, row = next(iter(local.rows(path)), (str(path), None))
    if row is None:
        raise CorpusError(f"{path} is empty: it has no rows", "put text into it, or remove it")
    try:
        found = infer_schema(row, None, place)
    except CorpusError:
        texts = [key for key, value in row.items() if isinstance(value, str)]
        usual = [key for name in TEXT_FIELDS for key in texts if key.lower() == name]
        if not texts:
            raise InputError(
                f"{path} has no field of text; its fields are: {', '.join(row)}", "name a file whose rows have one"
            ) from None
        return replace(spec, field=(usual or sorted(texts, key=lambda key: -len(row[key])))[0])
    return replace(spec, field=None if found.field == "text" else found.field)


def _with_bad_rows(spec: CorpusSpec, chat: Chat) -> tuple[Corpus, Survey]:
    """The text, and what was found in its first rows; with `bad_rows: drop` where some cannot be used."""
    corpus = resolve(spec)
    try:
        return corpus, survey(corpus, chat)
    except CorpusError:
        corpus = resolve(replace(spec, bad_rows="drop"))
        found = survey(corpus, chat)
        if not found.documents:
            raise
        return corpus, found


def _with_wider_splits(corpus: Corpus, chat: Chat) -> Corpus:
    """The text with larger shares for validation and test where the usual ones leave a split empty."""
    try:
        check_splits(corpus, corpus.splits, chat)
    except CorpusError:
        missing = {name: share for name, share in WIDER_SPLITS.items() if name not in corpus.source_splits}
        wider = resolve(replace(corpus.spec, split=missing)) if missing else corpus
        check_splits(wider, wider.splits, chat)
        return wider
    return corpus


def _lengths(corpus: Corpus, chat: Chat, models: Sequence[str]) -> list[int]:
    """Tokens of the first documents of the training split, under the first model's tokenizer where there is one."""
    split = "train" if "train" in corpus.splits else SPLITS[-1]
    texts = [document.text for document in islice(documents(corpus, split, chat), MEASURED_DOCUMENTS)]
    tokenizer = _tokenizer(models)
    if tokenizer is None:
        return [len(text) // CHARACTERS_PER_TOKEN for text in texts]
    return [len(e.ids) for e in tokenizer.backend.encode_batch(texts, add_special_tokens=False)]


def _tokenizer(models: Sequence[str]) -> TextTokenizer | None:
    for model in models:
        try:
            return load_tokenizer(resolve_model(model))
        except OdysseyError:
            continue
    return None
