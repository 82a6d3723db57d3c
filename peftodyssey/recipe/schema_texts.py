"""Models, datasets and tasks of a recipe as pydantic classes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from peftodyssey.recipe import numbers
from peftodyssey.recipe.field_syntax import OrList, Shorthand
from peftodyssey.recipe.field_types import NonEmptyStr, PositiveInt, RecipeSection, refuse
from peftodyssey.recipe.schema_rungs import Revisions

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def _name(value: Any) -> str:
    if isinstance(value, str) and re.match(NAME, value):
        return value
    raise refuse(
        "not usable as a name: it becomes the name of a folder",
        "letters, digits, dot, dash and underscore; at most 64 of them",
    )


Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME})]


class Model(RecipeSection):
    """A base model and its revisions."""

    name: NonEmptyStr = Field(
        description="Name of the model: bundled/<name>, a Hub id, a local folder, or random/<shape>; text."
    )
    revisions: Revisions | None = Field(
        default=None,
        description="Rungs of a pretraining ladder, or Hub revisions: their names, or a mapping that chooses them by "
        "tokens; axis. Default: the model's own default.",
    )
    weights: Literal["safetensors", "bin"] = Field(
        default="safetensors",
        description="bin allows revisions that exist as pickled .bin files only; they are read as tensors alone and "
        "converted once; a word.",
    )
    equal_rungs: Literal["leave_out", "keep"] = Field(
        default="leave_out",
        description="Rungs that hold the same bytes: leave_out keeps them out of what depends on pretraining tokens, "
        "because at most one of them is what its name says; a word.",
    )
    max_position_embeddings: PositiveInt | None = Field(
        default=None, description="Longest sequence of a random/ shape, in place of its own, in tokens."
    )


def _share_or_name(value: Any) -> float | str:
    if isinstance(value, str) and not re.match(numbers.SHARE, value):
        return value
    share = numbers.parse_share(value)
    if not 0 < share < 1:
        allowed = "5%, 0.05, or the name of a split of the source"
        raise refuse("a share of the documents must lie between 0 and 1, and not be 0", allowed)
    return share


SplitPart = Annotated[
    float | str,
    BeforeValidator(_share_or_name),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"type": "string"}]}),
]


class Split(RecipeSection):
    """How a dataset is split: shares of its documents, or the names of the splits that the source has."""

    train: NonEmptyStr | None = Field(
        default=None, description="Name of the source's training split; text. Default: what the other two leave."
    )
    valid: SplitPart | None = Field(
        default=None,
        description="Validation split, on which learning rates are chosen: share of the documents (5%) or its name.",
    )
    test: SplitPart | None = Field(
        default=None, description="Test split, which is reported: share of the documents (10%) or its name."
    )


class Columns(RecipeSection):
    """Where rows have a prompt and its answer, or a conversation; each a column or a template such as `Q: {question}`.

    A paragraph of a template whose columns are all empty is left out.
    """

    prompt: NonEmptyStr | None = Field(default=None, description="The prompt: a column or a template; text.")
    completion: NonEmptyStr | None = Field(default=None, description="Its answer: a column or a template; text.")
    messages: NonEmptyStr | None = Field(
        default=None, description="The column of a conversation, in place of the other two; a word."
    )

    @model_validator(mode="after")
    def _one_form(self) -> Columns:
        if (self.messages is None) == (self.prompt is None or self.completion is None):
            allowed = "{prompt: COLUMN, completion: COLUMN} or {messages: COLUMN}"
            raise refuse("columns are those of prompt and completion, or that of messages", allowed)
        return self


class Corpus(RecipeSection):
    """One dataset of text and how it is read."""

    name: Name | None = Field(
        default=None,
        description="Short name in tables and folders; letters, digits, `._-`. Default: the last part of the source.",
    )
    source: NonEmptyStr | None = Field(
        default=None,
        description="Name of the dataset: bundled/<name>, m2d2/<config>, hub:<dataset>, or a path; text.",
    )
    path: NonEmptyStr | None = Field(
        default=None,
        description="File, folder or pattern (data/*.jsonl), relative to the recipe's folder; a path.",
    )
    field: NonEmptyStr | None = Field(
        default=None,
        description="Text field of each row: a column, or a template such as `{title}: {body}`; text. Default: the "
        "columns of a form that is known by their names, else `text`, or the only field that holds text.",
    )
    columns: Columns | None = Field(
        default=None,
        description="Prompt and answer, or conversation, of each row; a mapping. Default: known by their names "
        "(`check` says as what).",
    )
    bad_rows: Literal["error", "drop"] = Field(
        default="error",
        description="Rows without an answer, or whose text is no text: error refuses them, drop leaves them out and "
        "counts them; a word.",
    )
    dedupe: Literal["off", "test", "train"] = Field(
        default="off",
        description="Documents of validation and test that stand in the training split, word for word or for the most "
        "part: off keeps and counts them, test takes them out of these two, train takes what they stand in out of the "
        "training split; a word; of a domain.",
    )
    split: Split | None = Field(
        default=None,
        description="Training, validation and test split; a mapping. Default: the source's own, or by hash.",
    )
    newline: Annotated[tuple[Literal["keep", "strip", "collapse", "mismatch"], ...], OrList()] = Field(
        default=("keep",),
        description="Line breaks: keep, strip, collapse runs to one, or mismatch (stripped in training, kept in "
        "scoring); a word; axis of a domain.",
    )
    special_tokens: Literal["text", "parse"] = Field(
        default="text",
        description="Control tokens that the text spells out, such as <|endoftext|>: text encodes their characters, "
        "parse reads them as control tokens; a word. Those that a chat template writes are control tokens, those that "
        "a message spells are text.",
    )
    config: NonEmptyStr | None = Field(default=None, description="Configuration of a Hub dataset; a word.")
    revision: NonEmptyStr | None = Field(
        default=None, description="Revision of a Hub dataset: a branch, tag or commit; text."
    )

    @model_validator(mode="after")
    def _one_way_to_read(self) -> Corpus:
        if self.field is not None and self.columns is not None:
            raise refuse("a row is read by `field` or by `columns`, not by both", next_step="remove one of the two")
        return self


class Task(RecipeSection):
    """A multiple-choice task: the accuracy of the likeliest choice is measured."""

    name: Name | None = Field(
        default=None,
        description="Short name in tables and folders; letters, digits, `._-`. Default: the last part of the source.",
    )
    source: NonEmptyStr | None = Field(
        default=None, description="Name of the dataset: bundled/<name>, hub:<dataset>, or a path; text."
    )
    path: NonEmptyStr | None = Field(
        default=None,
        description="File of rows with prompt, choices and answer, relative to the recipe's folder; a path.",
    )
    split: NonEmptyStr | None = Field(
        default=None, description="Split of the source that is scored; a word. Default: its test split, else all of it."
    )
    examples: PositiveInt | None = Field(
        default=None, description="Largest number of prompts, chosen by hash; a count. Default: all."
    )
    config: NonEmptyStr | None = Field(default=None, description="Configuration of a Hub dataset; a word.")
    revision: NonEmptyStr | None = Field(
        default=None, description="Revision of a Hub dataset: a branch, tag or commit; text."
    )


Corpora = Annotated[tuple[Annotated[Corpus, Shorthand("source")], ...], OrList()]
