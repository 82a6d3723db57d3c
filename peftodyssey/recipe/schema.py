"""The recipe as pydantic classes: every key, its default, and a sentence with its unit. Used by `recipe.load` and `recipe.grid`.

These classes say what one value may be; what two values may be together is in `recipe.checks`.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PrivateAttr,
    WithJsonSchema,
)
from pydantic_core import core_schema

from peftodyssey.errors import Problem
from peftodyssey.recipe import numbers
from peftodyssey.recipe.fields import (
    Count,
    Natural,
    NotNegative,
    OrList,
    Part,
    ShareAboveZero,
    ShareBelowOne,
    TokenCap,
    Word,
    refuse,
)
from peftodyssey.recipe.schema_methods import AnyMethod
from peftodyssey.recipe.yaml_tree import Path, Place, Tree, spell

BUDGET = r"^\s*(\S+)\s*(tokens?|epochs?|steps?)\s*$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class Short:
    """Marks a class that may also be written as one word, which stands for the field `key`."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def wrap(value: Any) -> Any:
            return {self.key: value} if isinstance(value, str) else value

        return core_schema.no_info_before_validator_function(wrap, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


def _name(value: Any) -> str:
    if isinstance(value, str) and re.match(NAME, value):
        return value
    raise refuse("not usable as a name: it becomes the name of a folder", "letters, digits, dot, dash and underscore; at most 64 of them")


Name = Annotated[str, BeforeValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME})]


class Model(Part):
    """A base model and its revisions."""

    name: Word = Field(description="Where the model is: bundled/<name>, a Hub id, a local folder, or random/<shape>; text.")
    revisions: Annotated[tuple[Word, ...], OrList()] | None = Field(
        None, description="Rungs of a pretraining ladder, or Hub revisions; an axis, text. Default: the model's own default."
    )
    max_position_embeddings: Count | None = Field(None, description="Longest sequence, in place of the model's own (random/ shapes), in tokens.")


def _part_of_text(value: Any) -> float | str:
    text = isinstance(value, str) and not re.match(numbers.SHARE, value)
    share = value if text else numbers.parse_share(value)
    if not text and not 0 < share < 1:
        raise refuse("a share of the documents must lie between 0 and 1, and not be 0", "5%, 0.05, or the name of a split of the source")
    return share


TextPart = Annotated[
    float | str, BeforeValidator(_part_of_text), WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, {"type": "string"}]})
]


class Split(Part):
    """How a text is parted: shares of its documents, or the names of the splits that the source has."""

    train: Word | None = Field(None, description="Name of the source's training split; text. Default: what the others leave.")
    valid: TextPart | None = Field(None, description="Share of the documents (5%) or name of the split on which learning rates are chosen.")
    test: TextPart | None = Field(None, description="Share of the documents (10%) or name of the split that is reported.")


class Corpus(Part):
    """One text and how it is read."""

    name: Name | None = Field(None, description="Short name in tables and folders; letters, digits, `._-`. Default: the last part of the source.")
    source: Word | None = Field(None, description="Where the text is: bundled/<name>, m2d2/<config>, hub:<data set>, or a path; text.")
    path: Word | None = Field(None, description="File, folder or pattern (data/*.jsonl), relative to the recipe's folder; a path.")
    field: Word | None = Field(None, description="Field of each row that holds the text; a word. Default: `text`, or the only text field.")
    split: Split | None = Field(None, description="Parts for training, choosing and reporting; a mapping. Default: the source's, or by hash.")
    newline: Literal["keep", "strip", "collapse", "mismatch"] = Field(
        "keep", description="Line ends: keep, strip, collapse runs to one, or mismatch (stripped in training, kept in scoring); a word."
    )
    config: Word | None = Field(None, description="Configuration of a Hub data set; a word.")
    revision: Word | None = Field(None, description="Revision of a Hub data set: a branch, tag or commit; text.")


Corpora = Annotated[tuple[Annotated[Corpus, Short("source")], ...], OrList()]


class Budget(Part):
    """How long a cell trains: an amount and its unit."""

    amount: float = Field(description="How many of the unit, above 0.")
    unit: Literal["tokens", "epochs", "steps"] = Field(description="What is counted: tokens, epochs or steps.")


class _BudgetForm:
    """Reads `200k tokens`, `2 epochs`, `300 steps` as a `Budget`."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_before_validator_function(self.read, handler(source))

    @staticmethod
    def read(value: Any) -> Any:
        allowed = "an amount and a unit: 200k tokens, 2 epochs or 300 steps"
        if isinstance(value, Budget):
            return value
        found = re.match(BUDGET, value) if isinstance(value, str) else None
        if found is None:
            unitless = isinstance(value, (int, float)) or (isinstance(value, str) and re.match(numbers.COUNT, value))
            hint = f"write `{value} tokens` if tokens are meant" if unitless and not isinstance(value, bool) else ""
            raise refuse("a budget has no unit" if hint else "not a budget", allowed, hint)
        unit = found.group(2).rstrip("s") + "s"
        try:
            amount = numbers.parse_number(found.group(1)) if unit == "epochs" else numbers.parse_count(found.group(1))
        except ValueError:
            raise refuse("the amount of the budget cannot be read", allowed) from None
        if amount <= 0:
            raise refuse("a budget must be above 0", allowed, "use the method `saved` to score without training")
        return {"amount": amount, "unit": unit}

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string", "pattern": BUDGET, "examples": ["200k tokens", "2 epochs", "300 steps"]}


class Train(Part):
    """How a cell is trained."""

    budget: Annotated[Budget, _BudgetForm()] = Field(
        Budget(amount=200_000, unit="tokens"), description="How long each cell trains, in tokens, epochs or steps. Equal for all cells."
    )
    seq_len: Count = Field(256, description="Length of a training block, in tokens.")
    batch_tokens: Count = Field(4096, description="Tokens of one optimiser step; `4k` means the nearest multiple of seq_len.")
    schedule: Literal["constant", "linear", "cosine", "wsd"] = Field("cosine", description="Course of the learning rate after warm-up; a word.")
    warmup: ShareBelowOne = Field(0.03, description="Share of the steps in which the learning rate rises from 0, 0 to 1.")
    weight_decay: NotNegative = Field(0.0, description="Decoupled weight decay, per step and unit of learning rate; pulls full to 0 but an adapter to the base.")
    grad_clip: NotNegative = Field(1.0, description="Longest gradient that is not shortened, as a norm; 0 turns clipping off.")
    betas: tuple[ShareBelowOne, ShareBelowOne] = Field((0.9, 0.999), description="AdamW's decay of the two running means, each 0 to 1.")
    objective: Literal["text", "sft"] = Field("text", description="text: every token is learnt; sft: only answers (prompt/completion, messages); a word.")
    score_at: Annotated[tuple[ShareAboveZero, ...], OrList()] = Field(
        (1.0,), description="Points of the training at which the held-out text is scored, as shares of the budget; the end is always one."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="Number format of the computation; auto: bf16 on a GPU that has it; a word.")
    optimizer: Literal["auto", "adamw"] = Field("auto", description="Optimiser; a word.")
    engine: Literal["own", "trl"] = Field("own", description="Who runs the loop: own, or TRL's SFTTrainer on the same batches; a word.")


class Score(Part):
    """How held-out text is scored."""

    context: Count | None = Field(None, description="Longest window a token is scored in, in tokens. Default: train.seq_len.")
    stride: Count | None = Field(None, description="Tokens scored anew by each further window. Default: half the context (all of it in a stream).")
    tokens: TokenCap = Field(50_000, description="At most so many tokens of each split, by whole documents chosen by hash; `all` for no cap.")
    first_token: Literal["bos", "skip"] = Field("bos", description="First token of a document: scored after the start token, or skipped; a word.")
    mode: Literal["documents", "stream"] = Field("documents", description="Each document by itself, or the whole split as one stream in disjoint windows; a word.")


class Recipe(Part):
    """A whole recipe, checked. `source_text` is the text it came from, `where` its file, `warnings` what deserves a look."""

    version: Literal[1] = Field(1, description="Version of the recipe's language; 1.")
    name: Name = Field("recipe", description="Name of the study; letters, digits, `._-`. Default: the file's name.")
    seeds: Annotated[tuple[Natural, ...], OrList()] = Field((0,), description="Seeds of data order and adapter start; axis, whole numbers from 0.")
    model: Annotated[tuple[Annotated[Model, Short("name")], ...], OrList()] = Field(description="The base model, or a list of them; axis.")
    domains: Corpora = Field(description="Texts to adapt to; axis.")
    general: Annotated[tuple[Annotated[Corpus, Short("source")], ...], OrList(empty=True)] = Field(
        (Corpus(source="bundled/wiki_general"),), description="Texts on which forgetting is measured; a list of texts."
    )
    methods: Annotated[tuple[Annotated[AnyMethod, Short("method")], ...], OrList()] = Field(description="Constraints on the update to compare; axis.")
    train: Train = Field(Train(), description="How each cell is trained; a mapping.")
    score: Score = Field(Score(), description="How held-out text is scored; a mapping.")
    measure: Annotated[tuple[Literal["degradation", "forgetting", "tokens"], ...], OrList()] = Field(
        ("degradation", "forgetting", "tokens"), description="What the report states; a list of words."
    )

    _tree: Tree = PrivateAttr(default_factory=Tree)
    _source_text: str = PrivateAttr("")
    _where: str = PrivateAttr("recipe")
    _folder: str = PrivateAttr(".")
    _warnings: tuple[Problem, ...] = PrivateAttr(())

    @property
    def source_text(self) -> str:
        """The text as it was given."""
        return self._source_text

    @property
    def where(self) -> str:
        """The file's name, or what stood in for it."""
        return self._where

    @property
    def folder(self) -> str:
        """The absolute folder that relative paths start from."""
        return self._folder

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What is allowed but deserves a look."""
        return self._warnings

    @property
    def data(self) -> dict[str, Any]:
        """The plain values as written, overrides applied."""
        return self._tree.data

    def place(self, path: Path) -> tuple[int, int]:
        """Line and column, from 1, of the value at `path` or its nearest ancestor; (0, 0) where an override set it."""
        place = self._tree.place(path)
        return place.line, place.column

    def problem(self, path: Path, what: str, *, got: str = "", allowed: str = "", next_step: str = "", severity: str = "error") -> Problem:
        """A `Problem` at the place of `path`, for checks that need more than the recipe."""
        place: Place = self._tree.place(path)
        return Problem(place.where, place.line, place.column, spell(path), what, got, allowed, next_step, severity)


def json_schema() -> dict[str, Any]:
    """The JSON Schema that editors check recipes with, from the classes above."""
    schema = Recipe.model_json_schema(mode="validation")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "peftodyssey recipe", **{k: v for k, v in schema.items() if k != "title"}}
