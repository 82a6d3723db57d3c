"""How cells are trained and texts scored, as pydantic classes. Used by `recipe.schema`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

from peftodyssey.recipe import numbers
from peftodyssey.recipe.field_syntax import OrList
from peftodyssey.recipe.field_types import (
    NonEmptyStr,
    NotNegative,
    PositiveInt,
    RecipeSection,
    ShareAboveZero,
    ShareBelowOne,
    TokenCap,
    refuse,
)

BUDGET = r"^\s*(\S+)\s*(tokens?|epochs?|steps?)\s*$"


class Budget(RecipeSection):
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

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"type": "string", "pattern": BUDGET, "examples": ["200k tokens", "2 epochs", "300 steps"]}


class Select(RecipeSection):
    """Which cells of a tuned group are stopped early."""

    halving: Annotated[PositiveInt, Field(ge=2)] = Field(
        description="At each point of eval_at before the end, one in so many goes on (rounded up); at least 2."
    )
    on: Literal["validation"] = Field(
        default="validation", description="What they are compared on: the loss on the validation split; a word."
    )


class Train(RecipeSection):
    """How a cell is trained."""

    budget: Annotated[Budget, _BudgetForm()] = Field(
        default=Budget(amount=200_000, unit="tokens"),
        description="How long each cell trains, in tokens, epochs or steps. Equal for all cells.",
    )
    seq_len: PositiveInt = Field(default=256, description="Length of a training block, in tokens.")
    batch_tokens: PositiveInt = Field(
        default=4096, description="Tokens of one optimiser step; `4k` means the nearest multiple of seq_len."
    )
    schedule: Literal["constant", "linear", "cosine", "wsd"] = Field(
        default="cosine", description="Course of the learning rate after warm-up; a word."
    )
    warmup: ShareBelowOne = Field(
        default=0.03, description="Share of the steps in which the learning rate rises from 0, 0 to 1."
    )
    weight_decay: NotNegative = Field(
        default=0.0,
        description="Decoupled weight decay, per step and unit of learning rate; pulls full to 0 but an adapter to "
        "the base.",
    )
    grad_clip: NotNegative = Field(
        default=1.0, description="Longest gradient that is not shortened, as a norm; 0 turns clipping off."
    )
    betas: tuple[ShareBelowOne, ShareBelowOne] = Field(
        default=(0.9, 0.999), description="AdamW's decay of the two running means, each 0 to 1."
    )
    objective: Literal["text", "sft"] = Field(
        default="text",
        description="text: every token is learnt; sft: only answers (prompt/completion, messages); a word.",
    )
    too_long: Literal["error", "truncate", "drop"] = Field(
        default="error",
        description="Under sft, an example longer than seq_len: stop with its name, truncate it, or leave it out; a word.",
    )
    chat_template: NonEmptyStr | None = Field(
        default=None,
        description="Template that makes text of `messages`: `plain`, or the path of a Jinja file. Default: the model's own.",
    )
    eval_at: Annotated[tuple[ShareAboveZero, ...], OrList()] = Field(
        default=(1.0,),
        description="Points of the training at which the held-out text is scored, as shares of the budget; the end "
        "is always one.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Number format of the computation; auto: bf16 on a GPU that has it; a word.",
    )
    optimizer: Literal["auto", "adamw", "adamw8bit"] = Field(
        default="auto",
        description="Optimiser; auto: adamw; adamw8bit keeps its two running means in 8 bits; a word.",
    )
    engine: Literal["native", "trl"] = Field(
        default="native", description="Who runs the loop: native, or TRL's SFTTrainer on the same batches; a word."
    )

    multi_lora: Literal["auto", "off"] | PositiveInt = Field(
        default="auto",
        description="LoRA cells of one base that train side by side: auto: as many as pay and fit; off: none; or how many at most.",
    )
    select: Select | None = Field(
        default=None,
        description="Successive halving over tuned learning rates: those that trail are stopped early; a mapping.",
    )


class Score(RecipeSection):
    """How held-out text is scored."""

    context: PositiveInt | None = Field(
        default=None, description="Longest window a token is scored in, in tokens. Default: train.seq_len."
    )
    stride: PositiveInt | None = Field(
        default=None,
        description="Tokens scored anew by each further window. Default: half the context (all of it in a stream).",
    )
    tokens: TokenCap = Field(
        default=50_000,
        description="Cap on the tokens of each split (half of it for validation), reached by whole documents "
        "chosen by hash, the last of which may go beyond; `all` for none.",
    )
    first_token: Literal["bos", "skip"] = Field(
        default="bos",
        description="First token of a document: scored after the start token, or skipped; a word.",
    )
    mode: Literal["documents", "stream"] = Field(
        default="documents",
        description="Each document by itself, or the whole split as one stream in disjoint windows; a word.",
    )
