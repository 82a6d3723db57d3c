"""How cells are trained and texts scored, as pydantic classes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema

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
    """How long a cell is trained: an amount and its unit."""

    amount: float = Field(description="How many of the unit, above 0.")
    unit: Literal["tokens", "epochs", "steps"] = Field(description="What is counted: tokens, epochs or steps.")


def _budget(value: Any) -> Any:
    """`200k tokens`, `2 epochs` and `300 steps` as the fields of a `Budget`."""
    allowed = "an amount and a unit: 200k tokens, 2 epochs or 300 steps"
    if isinstance(value, Budget):
        return value
    match = re.match(BUDGET, value) if isinstance(value, str) else None
    if match is None:
        no_unit = isinstance(value, (int, float)) or (isinstance(value, str) and re.match(numbers.COUNT, value))
        hint = f"write `{value} tokens` if tokens are meant" if no_unit and not isinstance(value, bool) else ""
        raise refuse("a budget has no unit" if hint else "not a budget", allowed, hint)
    unit = match.group(2).rstrip("s") + "s"
    try:
        amount = numbers.parse_number(match.group(1)) if unit == "epochs" else numbers.parse_count(match.group(1))
    except ValueError:
        raise refuse("the amount of the budget cannot be read", allowed) from None
    if amount <= 0:
        raise refuse("a budget must be above 0", allowed, "use the method `saved` to score without training")
    return {"amount": amount, "unit": unit}


def _warmup(value: Any) -> Any:
    """`3%` as a share of the steps, `2k tokens` and `10 steps` as the fields of a `Budget`."""
    allowed = "a share such as 3%, or an amount such as 2k tokens or 10 steps"
    if isinstance(value, Budget):
        return value
    if isinstance(value, str) and re.match(BUDGET, value):
        if "epoch" in value:
            raise refuse("a warmup is not counted in epochs", allowed)
        return _budget(value)
    try:
        share = numbers.parse_share(value)
    except ValueError as error:
        raise refuse(str(error).rpartition("write ")[0].rstrip("; ") or "this value cannot be read", allowed) from None
    if share >= 1:
        raise refuse("it must be below 1", allowed)
    return share


_BUDGET_SCHEMA = {"type": "string", "pattern": BUDGET, "examples": ["200k tokens", "2 epochs", "300 steps"]}
OneBudget = Annotated[Budget, BeforeValidator(_budget), WithJsonSchema(_BUDGET_SCHEMA)]
_AMOUNT = r"^\s*\S+\s*(tokens?|steps?)\s*$"
_WARMUP_SCHEMA = {"anyOf": [{"type": "number"}, *({"type": "string", "pattern": p} for p in (numbers.SHARE, _AMOUNT))]}
Warmup = Annotated[Budget | float, BeforeValidator(_warmup), WithJsonSchema(_WARMUP_SCHEMA)]


class Select(RecipeSection):
    """Successive halving: which tuned learning rates are stopped early."""

    halving: Annotated[PositiveInt, Field(ge=2)] = Field(
        description="At each point of eval_at at which the learning rate is at its peak, one rate in this many "
        "continues (rounded up), and always the best with its neighbours; at least 2."
    )
    on: Literal["validation"] = Field(
        default="validation",
        description="What rates are compared on: loss on the validation split, pooled over seeds; a word.",
    )


class Train(RecipeSection):
    """How a cell is trained."""

    budget: Annotated[tuple[OneBudget, ...], OrList()] = Field(
        default=(Budget(amount=200_000, unit="tokens"),),
        description="How long each cell is trained, in tokens, epochs or steps; axis, in one unit: [12k tokens, 25k "
        "tokens, 50k tokens]. With schedule wsd the budgets share one stem, which is trained once.",
    )
    seq_len: PositiveInt = Field(default=256, description="Sequence length of training, in tokens.")
    batch_tokens: PositiveInt = Field(
        default=4096,
        description="Batch size: tokens of one optimiser step; `4k` means the nearest multiple of seq_len. "
        "Micro-batch size, gradient accumulation and gradient checkpointing are chosen by memory.",
    )
    schedule: Literal["constant", "linear", "cosine", "wsd"] = Field(
        default="cosine", description="Learning rate schedule after warmup; a word."
    )
    warmup: Warmup = Field(
        default=0.03,
        description="Warmup, in which the learning rate rises from 0: a share of the steps, 0 to 1, or an amount such "
        "as 2k tokens or 10 steps, which is the same for every budget.",
    )
    weight_decay: NotNegative = Field(
        default=0.0,
        description="Decoupled weight decay, per step and unit of learning rate; it pulls full fine-tuning to 0, an "
        "adapter to the base.",
    )
    grad_clip: NotNegative = Field(
        default=1.0, description="Largest gradient norm, beyond which gradients are clipped; 0 turns clipping off."
    )
    betas: tuple[ShareBelowOne, ShareBelowOne] = Field(
        default=(0.9, 0.999), description="AdamW's beta1 and beta2, each 0 to 1."
    )
    objective: Literal["text", "sft"] = Field(
        default="text",
        description="text: loss on every token; sft: loss on answers only (prompt/completion, messages); a word.",
    )
    too_long: Literal["error", "truncate", "drop"] = Field(
        default="error",
        description="sft: what happens to an example longer than seq_len: error names it, truncate cuts its end, drop "
        "leaves it out; a word.",
    )
    chat_template: NonEmptyStr | None = Field(
        default=None,
        description="sft: chat template for `messages`: `plain`, or the path of a Jinja file. Default: the model's "
        "own.",
    )
    eval_at: Annotated[tuple[ShareAboveZero, ...], OrList()] = Field(
        default=(1.0,),
        description="Fractions of the budget after which validation and test are scored; the end is always one.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto",
        description="Precision of the computation; auto: bf16 on a GPU that has it and on a CPU that is faster in it, "
        "else fp16 on a GPU and fp32 on a CPU; a word.",
    )
    optimizer: Literal["auto", "adamw", "adamw8bit"] = Field(
        default="auto", description="Optimiser; auto: adamw; adamw8bit keeps its state in 8 bits; a word."
    )
    engine: Literal["native", "trl"] = Field(
        default="native", description="Training loop: native, or TRL's SFTTrainer on the same batches; a word."
    )
    multi_lora: Literal["auto", "off"] | PositiveInt = Field(
        default="auto",
        description="How many LoRA cells are trained at once over one copy of their base; auto: as many as are faster "
        "and fit; off: one; or the largest number.",
    )
    select: Select | None = Field(
        default=None,
        description="Successive halving over tuned learning rates: those with a higher validation loss are stopped "
        "early. With schedule wsd or constant; a mapping.",
    )


class Score(RecipeSection):
    """How held-out text is scored."""

    context: PositiveInt | None = Field(
        default=None, description="Context length: tokens of a window. Default: train.seq_len."
    )
    stride: PositiveInt | None = Field(
        default=None,
        description="Tokens newly scored by each window after the first. Default: half the context (all of it in a "
        "stream).",
    )
    tokens: TokenCap = Field(
        default=50_000,
        description="Largest number of tokens of each split (half of it for validation), reached by whole documents "
        "chosen by hash, the last of which may exceed it; `all` for no limit.",
    )
    first_token: Literal["bos", "skip"] = Field(
        default="bos",
        description="First token of a document: scored after the start token (bos), or not scored; a word.",
    )
    mode: Literal["documents", "stream"] = Field(
        default="documents",
        description="Each document by itself, or the whole split as one stream in disjoint windows; a word.",
    )
