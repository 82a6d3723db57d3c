"""The recipe of a ladder to what is pretrained: config, phases, texts, settings, sizes. Imports no torch.

Everything that is wrong with a recipe is raised together, as one RecipeError.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftodyssey.corpora import source as corpus_source
from peftodyssey.corpora.source import Corpus
from peftodyssey.errors import OdysseyError, Problem, RecipeError
from peftodyssey.memory.device import Device
from peftodyssey.models import source as model_source
from peftodyssey.models.shape_from_config import shape_from_config
from peftodyssey.models.source import ModelSource
from peftodyssey.models.tokenizer import load_tokenizer
from peftodyssey.recipe import identity
from peftodyssey.recipe.grid import corpus_specs
from peftodyssey.recipe.load_ladder import rung_label
from peftodyssey.recipe.schema_ladder import LadderRecipe
from peftodyssey.training.wsd_phases import ANNEALED, TRUNK, Phase, phases

TEXT_BYTES_PER_TOKEN = 4  # of English, about
MIN_VOCABULARY = 257  # every byte, and the end of text
PASS_BYTES_CPU = 256 << 20  # of activations in one pass
PASS_SHARE_CUDA = 0.5  # of the GPU, the same
# Saved for backward, per token: elements per unit of width and of feed-forward width in a layer; bytes per logit.
WIDTH_ELEMENTS, FEED_FORWARD_ELEMENTS, LOGIT_BYTES = 24, 6, 10


@dataclass(frozen=True)
class LadderPlan:
    """A ladder that is ready to be pretrained."""

    recipe: LadderRecipe
    device: Device
    config: dict[str, Any]  # config.json
    parameters: int
    texts: tuple[Corpus, ...]
    held_out: tuple[Corpus, ...]
    tokenizer: ModelSource | None  # None: to be trained on the text
    precision: str
    compiled: bool
    micro_batch_size: int
    phases: tuple[Phase, ...]
    identity: dict[str, Any]  # what the weights depend on, except a tokenizer that is not yet trained
    warnings: tuple[str, ...]

    @property
    def rungs(self) -> list[Phase]:
        """The phases that end in a rung."""
        return [phase for phase in self.phases if phase.rung]

    @property
    def trained_steps(self) -> int:
        """Optimiser steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    @property
    def text_bytes(self) -> int | None:
        """Bytes of the text, None where a part's size is not known."""
        sizes = [corpus.bytes_on_disk for corpus in self.texts]
        return None if None in sizes else sum(size or 0 for size in sizes)


def plan_ladder(recipe: LadderRecipe, device: Device) -> LadderPlan:
    """The plan of `recipe` on `device`; RecipeError with every problem found."""
    problems: list[Problem] = []
    texts = _texts(recipe, "text", problems)
    held_out = _texts(recipe, "held_out", problems)
    tokenizer = _tokenizer(recipe, problems)
    steps = _steps(recipe, problems)
    if problems:
        raise RecipeError(problems)
    config = config_of(recipe)
    train = recipe.train
    parameters = shape_from_config(config).parameters
    auto_precision = "bf16" if device.kind == "cuda" and device.bf16 else "fp32"
    precision = auto_precision if train.precision == "auto" else train.precision
    plan = LadderPlan(
        recipe=recipe,
        device=device,
        config=config,
        parameters=parameters,
        texts=texts,
        held_out=held_out,
        tokenizer=tokenizer,
        precision=precision,
        compiled=train.compile == "on" or (train.compile == "auto" and device.kind == "cuda"),
        micro_batch_size=min(
            train.micro_batch_size or _micro_batch_size(recipe, device), train.batch_tokens // train.seq_len
        ),
        phases=tuple(
            phases(steps[TRUNK], steps[ANNEALED], warmup_steps=train.warmup_steps, decay_share=recipe.rungs.decay)
        ),
        identity=_identity(recipe, texts, tokenizer, precision),
        warnings=(),
    )
    return replace(plan, warnings=tuple(_warnings(plan)))


def _texts(recipe: LadderRecipe, key: str, problems: list[Problem]) -> tuple[Corpus, ...]:
    texts = []
    for position, corpus in enumerate(getattr(recipe, key)):
        with _collect_problem(recipe, (key, position), problems):
            texts.append(corpus_source.resolve(next(corpus_specs(corpus, recipe))))
    return tuple(texts)


def _tokenizer(recipe: LadderRecipe, problems: list[Problem]) -> ModelSource | None:
    vocabulary, path = recipe.model.vocabulary, ("model", "vocabulary")
    if recipe.tokenizer == "train":
        if vocabulary < MIN_VOCABULARY:
            what = "too small for all bytes and an end of text"
            problems.append(_problem(recipe, path, what, f"at least {MIN_VOCABULARY}"))
        return None
    is_path = recipe.tokenizer.startswith(("./", "../"))
    source = None
    with _collect_problem(recipe, ("tokenizer",), problems):
        source = model_source.resolve(str(Path(recipe.folder) / recipe.tokenizer) if is_path else recipe.tokenizer)
        ids = load_tokenizer(source).backend.get_vocab_size(with_added_tokens=True)
        if ids > vocabulary:
            what = f"smaller than the tokenizer, which has {ids} tokens"
            problems.append(_problem(recipe, path, what, f"at least {ids}"))
    return source


def _steps(recipe: LadderRecipe, problems: list[Problem]) -> dict[str, dict[str, int]]:
    """Rung names with their optimiser steps, rounded down within the budget, by arm."""
    steps: dict[str, dict[str, int]] = {}
    for arm in (TRUNK, ANNEALED):
        budgets = sorted(set(getattr(recipe.rungs, arm)))
        steps[arm] = {f"{arm}-{rung_label(tokens)}": tokens // recipe.train.batch_tokens for tokens in budgets}
        if len(set(steps[arm].values())) < len(budgets):
            what = "two budgets have the same number of steps"
            problems.append(_problem(recipe, ("rungs", arm), what, "budgets a step apart"))
    return steps


@contextmanager
def _collect_problem(recipe: LadderRecipe, path: tuple[Any, ...], problems: list[Problem]) -> Iterator[None]:
    """Add an OdysseyError of the block to `problems`, at its place in the recipe."""
    try:
        yield
    except OdysseyError as error:
        problems.append(_problem(recipe, path, error.message, next_step=error.next_step))


def _problem(recipe: LadderRecipe, path: tuple[Any, ...], what: str, allowed: str = "", next_step: str = "") -> Problem:
    place = recipe._tree.place(path)
    key = ".".join(map(str, path))
    return Problem(place.where, place.line, place.column, key, what, allowed=allowed, next_step=next_step)


def config_of(recipe: LadderRecipe) -> dict[str, Any]:
    """config.json of the model, as transformers reads it."""
    model = recipe.model
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocabulary,
        "hidden_size": model.width,
        "intermediate_size": model.feed_forward,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads or model.heads,
        "head_dim": model.width // model.heads,
        "max_position_embeddings": model.positions,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": model.tied,
        "rope_parameters": {"rope_theta": model.rope_theta, "rope_type": "default"},
        "initializer_range": model.init_std,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "use_cache": True,
        "dtype": {"bf16": "bfloat16", "fp32": "float32"}[recipe.rungs.save_as],
    }


def _micro_batch_size(recipe: LadderRecipe, device: Device) -> int:
    """Blocks whose activations fit. The budget is fixed on a CPU, so that a resumed training adds in the same order."""
    model, train = recipe.model, recipe.train
    elements = model.layers * (WIDTH_ELEMENTS * model.width + FEED_FORWARD_ELEMENTS * model.feed_forward)
    block_bytes = train.seq_len * (4 * elements + LOGIT_BYTES * model.vocabulary)
    available = PASS_BYTES_CPU if device.kind == "cpu" else PASS_SHARE_CUDA * device.total_bytes
    return max(1, int(available // block_bytes))


def _identity(
    recipe: LadderRecipe, texts: tuple[Corpus, ...], tokenizer: ModelSource | None, precision: str
) -> dict[str, Any]:
    """Everything that the weights of a rung depend on, except its own budget."""
    train = recipe.train.model_dump(exclude={"compile", "micro_batch_size", "precision"})
    return {
        "model": recipe.model.model_dump(),
        "train": {**train, "precision": precision},
        "decay": recipe.rungs.decay,
        "save_as": recipe.rungs.save_as,
        "seed": recipe.seed,
        "text": [[corpus.fingerprint, identity.canonical(corpus.spec.split), corpus.spec.newline] for corpus in texts],
        "tokenizer": load_tokenizer(tokenizer).fingerprint if tokenizer else "train",
    }


def _warnings(plan: LadderPlan) -> list[str]:
    largest_tokens = max(phase.stop for phase in plan.phases) * plan.recipe.train.batch_tokens
    if not plan.text_bytes or (passes := largest_tokens * TEXT_BYTES_PER_TOKEN / plan.text_bytes) <= 1.5:
        return []
    return [
        f"the text has about {plan.text_bytes // TEXT_BYTES_PER_TOKEN:,} tokens and is repeated about {passes:.0f} "
        "times for the largest budget: after a few passes a model memorises the text"
    ]
