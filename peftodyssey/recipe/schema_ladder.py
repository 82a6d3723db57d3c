"""The recipe of a ladder to be trained (`kind: ladder`) as pydantic classes.

A ladder is one model at several pretraining budgets: a trunk at a constant learning rate, and branches that leave it
and decay to 0 (warmup, stable, decay), so that an annealed budget costs a share of its tokens instead of a whole run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from peftodyssey.recipe.document import RecipeDocument
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

TokenList = Annotated[tuple[PositiveInt, ...], OrList(empty=True)]


class LadderModel(RecipeSection):
    """The decoder that is trained: a Llama of any size, which plain transformers loads."""

    layers: PositiveInt = Field(description="Decoder layers; a count.")
    width: PositiveInt = Field(description="Hidden size; a count, a multiple of `heads`.")
    heads: PositiveInt = Field(description="Attention heads; a count.")
    kv_heads: PositiveInt | None = Field(default=None, description="Key-value heads; a count. Default: `heads`.")
    feed_forward: PositiveInt = Field(description="Intermediate size of the feed-forward; a count.")
    vocabulary: PositiveInt = Field(description="Vocabulary size, in tokens; a count.")
    positions: PositiveInt = Field(
        default=1024, description="Longest sequence that the model can be used with, in tokens."
    )
    tied: Flag = Field(
        default=True, description="Tied word embeddings: one matrix for embedding and head; true or false."
    )
    rope_theta: Positive = Field(default=10_000.0, description="Base of the rotary position embeddings; a number.")
    init_std: Positive = Field(default=0.02, description="Standard deviation of the initial weights; a number.")

    @model_validator(mode="after")
    def _divides(self) -> LadderModel:
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise refuse(
                f"width {self.width} cannot be split into {self.heads} heads of even width",
                "width = heads x an even number, such as 3 x 64",
            )
        if self.heads % (self.kv_heads or self.heads):
            raise refuse(f"{self.heads} heads cannot share {self.kv_heads} key-value heads", "a divisor of heads")
        return self


class LadderTrain(RecipeSection):
    """How the ladder is pretrained."""

    seq_len: PositiveInt = Field(
        default=512, description="Sequence length of training, in tokens; sequences run across documents."
    )
    batch_tokens: PositiveInt = Field(description="Tokens of one optimiser step, a multiple of `seq_len`.")
    peak_lr: Positive = Field(description="Learning rate of the trunk after warmup.")
    warmup_steps: NonNegativeInt = Field(default=200, description="Steps of linear warmup; a count.")
    weight_decay: NotNegative = Field(
        default=0.1, description="Decoupled weight decay of matrices, per step and unit of learning rate."
    )
    betas: tuple[ShareBelowOne, ShareBelowOne] = Field(
        default=(0.9, 0.95), description="AdamW's beta1 and beta2; two numbers below 1."
    )
    grad_clip: NotNegative = Field(
        default=1.0, description="Largest gradient norm, beyond which gradients are clipped; 0 turns clipping off."
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto",
        description="Precision of the computation over fp32 weights: bf16 is autocast; auto is bf16 on a GPU that has "
        "it; a word.",
    )
    compile: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether the step is compiled by torch.compile; auto is on with CUDA and off on a CPU; a word.",
    )
    micro_batch_size: PositiveInt | None = Field(
        default=None,
        description="Micro-batch size, in sequences of one forward pass; a count. Default: as memory allows.",
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
    """Which pretraining budgets are kept as rungs."""

    trunk: TokenList = Field(
        default=(), description="Budgets of the rungs at the constant learning rate, in tokens; a list."
    )
    annealed: TokenList = Field(
        default=(), description="Budgets of the rungs whose learning rate decays to 0, in tokens; a list."
    )
    decay: ShareBelowOne = Field(
        default=0.15,
        description="Share of an annealed budget in which the learning rate falls linearly to 0; a share above 0.",
    )
    save_as: Literal["bf16", "fp32"] = Field(default="bf16", description="Data type in which rungs are saved; a word.")

    @model_validator(mode="after")
    def _some(self) -> LadderRungs:
        if not self.trunk and not self.annealed:
            raise refuse("there is no rung", "trunk: [64M, 256M], annealed: [64M, 256M]", "name at least one budget")
        if self.decay <= 0:
            raise refuse("`decay` must be above 0", "a share such as 15%")
        return self


class LadderRecipe(RecipeDocument):
    """The recipe of a ladder: a model, its text, and the pretraining budgets that are kept."""

    version: Literal[1] = Field(default=1, description="Version of the recipe's language; 1.")
    kind: Literal["ladder"] = Field(description="Kind of recipe: ladder.")
    name: Name = Field(
        default="ladder", description="Name of the ladder; letters, digits, `._-`. Default: the file's name."
    )
    seed: NonNegativeInt = Field(
        default=0, description="Seed of the initial weights and the data order; a whole number from 0."
    )
    model: LadderModel = Field(description="The decoder that is trained; a mapping.")
    tokenizer: NonEmptyStr = Field(
        default="train",
        description="train: a byte-level BPE is trained on the text; or bundled/<model>, a Hub id or a folder.",
    )
    text: Annotated[tuple[Annotated[Corpus, Shorthand("source")], ...], OrList()] = Field(
        description="Pretraining text; a dataset or a list, repeated where it is shorter than the budget."
    )
    held_out: Annotated[tuple[Annotated[Corpus, Shorthand("source")], ...], OrList(empty=True)] = Field(
        default=(),
        description="Datasets whose loss is recorded at every rung, on their test part or all of them; a list.",
    )
    train: LadderTrain = Field(description="How the ladder is pretrained; a mapping.")
    rungs: LadderRungs = Field(description="Which pretraining budgets are kept as rungs; a mapping.")
