"""The recipe of a ladder to be trained (`kind: ladder`) as pydantic classes. Used by `recipe.load_ladder`.

A ladder is one model at several pretraining budgets: a trunk at a constant learning rate, and branches that leave it
and decay to 0 (warm-up, stable, decay), so that each annealed budget costs a share of its tokens instead of a run of
its own.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, model_validator

from peftodyssey.recipe.field_syntax import OrList, Shorthand
from peftodyssey.recipe.field_types import (
    Flag,
    NonEmptyStr,
    NonNegativeInt,
    NotNegative,
    Positive,
    PositiveInt,
    RecipeSection,
    ShareBelowOne,
    refuse,
)
from peftodyssey.recipe.schema_texts import Corpus, Name
from peftodyssey.recipe.yaml_tree import Tree

TokenList = Annotated[tuple[PositiveInt, ...], OrList(empty=True)]


class LadderModel(RecipeSection):
    """The decoder that is trained: a Llama of any size, which plain transformers loads."""

    layers: PositiveInt = Field(description="Decoder layers; a count.")
    width: PositiveInt = Field(description="Numbers of a hidden state; a count, a multiple of `heads`.")
    heads: PositiveInt = Field(description="Attention heads; a count.")
    kv_heads: PositiveInt | None = Field(
        default=None, description="Heads of keys and values; a count. Default: `heads`."
    )
    feed_forward: PositiveInt = Field(description="Inner width of the feed-forward; a count.")
    vocabulary: PositiveInt = Field(description="Tokens of the vocabulary; a count.")
    positions: PositiveInt = Field(
        default=1024, description="Longest sequence that the model will be used with, in tokens."
    )
    tied: Flag = Field(default=True, description="One matrix for embedding and head; true or false.")
    rope_theta: Positive = Field(default=10_000.0, description="Base of the rotary positions; a number.")
    init_std: Positive = Field(default=0.02, description="Standard deviation of the initial matrices; a number.")

    @model_validator(mode="after")
    def _divides(self) -> LadderModel:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise refuse(
                f"width {self.width} does not part into {self.heads} heads of even width",
                "width = heads x an even number, such as 3 x 64",
            )
        if self.heads % (self.kv_heads or self.heads):
            raise refuse(
                f"{self.heads} heads do not share {self.kv_heads} heads of keys and values", "a divisor of heads"
            )
        return self


class LadderTrain(RecipeSection):
    """How the ladder is trained."""

    seq_len: PositiveInt = Field(default=512, description="Tokens of a block; blocks run across documents.")
    batch_tokens: PositiveInt = Field(description="Tokens of one step, a multiple of `seq_len`.")
    peak_lr: Positive = Field(description="Learning rate of the trunk after the warm-up, per step.")
    warmup_steps: NonNegativeInt = Field(default=200, description="Steps of linear warm-up; a count.")
    weight_decay: NotNegative = Field(default=0.1, description="Decay of matrices per step, times the learning rate.")
    betas: tuple[ShareBelowOne, ShareBelowOne] = Field(
        default=(0.9, 0.95), description="AdamW's means; two numbers below 1."
    )
    grad_clip: NotNegative = Field(default=1.0, description="Largest global gradient norm; 0 is off.")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="Arithmetic over fp32 weights: bf16 is autocast; auto is bf16 on a card that has it; a word.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto", description="torch.compile of the step; auto is on with CUDA and off on a CPU; a word."
    )
    micro_batch_size: PositiveInt | None = Field(
        default=None, description="Blocks of one forward and backward pass; a count. Default: as memory allows."
    )

    @model_validator(mode="after")
    def _whole_blocks(self) -> LadderTrain:
        if self.batch_tokens % self.seq_len:
            below = self.batch_tokens // self.seq_len * self.seq_len
            raise refuse(
                f"batch_tokens {self.batch_tokens} is not a multiple of seq_len {self.seq_len}",
                f"{max(below, self.seq_len)} or {below + self.seq_len}",
            )
        return self


class LadderRungs(RecipeSection):
    """Which rungs are kept."""

    trunk: TokenList = Field(default=(), description="Budgets at the constant learning rate, in tokens; a list.")
    annealed: TokenList = Field(default=(), description="Budgets that end decayed to 0, in tokens; a list.")
    decay: ShareBelowOne = Field(
        default=0.15, description="Share of an annealed budget in which the rate falls linearly to 0; a share above 0."
    )
    save_as: Literal["bf16", "fp32"] = Field(default="bf16", description="Type in which rungs are stored; a word.")

    @model_validator(mode="after")
    def _some(self) -> LadderRungs:
        if not self.trunk and not self.annealed:
            raise refuse("there is no rung", "trunk: [64M, 256M], annealed: [64M, 256M]", "name at least one budget")
        if self.decay <= 0:
            raise refuse("`decay` must be above 0", "a share such as 15%")
        return self


class LadderRecipe(RecipeSection):
    """A whole recipe of a ladder, checked."""

    version: Literal[1] = Field(default=1, description="Version of the recipe's language; 1.")
    kind: Literal["ladder"] = Field(description="What the file is a recipe of: ladder.")
    name: Name = Field(
        default="ladder", description="Name of the ladder; letters, digits, `._-`. Default: the file's name."
    )
    seed: NonNegativeInt = Field(
        default=0, description="Seed of initial weights and data order; a whole number from 0."
    )
    model: LadderModel = Field(description="The decoder that is trained; a mapping.")
    tokenizer: NonEmptyStr = Field(
        default="train",
        description="train: byte-level BPE of `vocabulary` tokens from the text; or bundled/<model>, a Hub id or a folder.",
    )
    text: Annotated[tuple[Annotated[Corpus, Shorthand("source")], ...], OrList()] = Field(
        description="What the ladder is trained on; a text or a list, repeated where it is shorter than the budget."
    )
    held_out: Annotated[tuple[Annotated[Corpus, Shorthand("source")], ...], OrList(empty=True)] = Field(
        default=(), description="Texts whose loss is recorded at every rung: their test part, or all; a text or a list."
    )
    train: LadderTrain = Field(description="How the ladder is trained; a mapping.")
    rungs: LadderRungs = Field(description="Which rungs are kept; a mapping.")

    _tree: Tree = PrivateAttr(default_factory=Tree)
    _source_text: str = PrivateAttr("")
    _where: str = PrivateAttr("recipe")
    _folder: str = PrivateAttr(".")

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
    def data(self) -> dict[str, Any]:
        """The plain values as written, overrides applied."""
        return self._tree.data
