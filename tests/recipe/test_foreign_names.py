"""Keys of PEFT, transformers and TRL in a recipe: each message names the key to write instead, and that key exists."""

from __future__ import annotations

import dataclasses

import pytest
import typer
from support.recipes import MINIMAL, only

from peftodyssey.errors import RecipeError
from peftodyssey.recipe.field_types import written_keys
from peftodyssey.recipe.foreign_names import FOREIGN_NAMES, LADDER_NAMES, NO_COUNTERPART
from peftodyssey.recipe.load_ladder import load_ladder
from peftodyssey.recipe.schema import Recipe
from peftodyssey.recipe.schema_ladder import LadderRecipe
from peftodyssey.recipe.schema_methods import METHOD_CLASSES
from peftodyssey.recipe.validation_errors import section_classes


def every_key(root) -> set[str]:
    """The paths of all keys below a class of the schema, without places in lists."""
    paths = set(written_keys(root))
    for name, field in root.model_fields.items():
        kinds = METHOD_CLASSES.values() if name == "methods" else section_classes(field.annotation)
        paths |= {f"{name}.{key}" for kind in kinds for key in every_key(kind)}
    return paths


def options_of_run() -> set[str]:
    from peftodyssey.cli.main import app

    run = typer.main.get_command(app).commands["run"]
    return {option for parameter in run.params for option in parameter.opts}


KEYS = every_key(Recipe)


@pytest.mark.parametrize("name", FOREIGN_NAMES)
def test_the_counterpart_exists(name):
    key, note = FOREIGN_NAMES[name]
    assert key in (options_of_run() if key.startswith("--") else KEYS) or (not key and note)


@pytest.mark.parametrize("name", LADDER_NAMES)
def test_the_counterpart_of_a_ladder_exists(name):
    key = LADDER_NAMES[name].key
    assert key in (options_of_run() if key.startswith("--") else every_key(LadderRecipe))


def test_every_setting_of_the_libraries_has_a_counterpart_or_is_listed_without():
    from peft import LoraConfig
    from transformers import TrainingArguments
    from trl import ModelConfig, ScriptArguments, SFTConfig

    classes = (LoraConfig, TrainingArguments, SFTConfig, ModelConfig, ScriptArguments)
    settings = {field.name for kind in classes for field in dataclasses.fields(kind)}
    last_parts = {key.rsplit(".", 1)[-1] for key in KEYS}
    assert settings - set(FOREIGN_NAMES) - NO_COUNTERPART - last_parts == set()
    assert not set(FOREIGN_NAMES) & NO_COUNTERPART
    assert not {name for name in FOREIGN_NAMES if name in KEYS}


@pytest.mark.parametrize(
    ("method", "key", "hint"),
    [
        ("{method: lora, r: 4}", "r", "did you mean rank?"),
        ("{method: lora, lora_alpha: 16}", "lora_alpha", "did you mean alpha?"),
        ("{method: qlora, lora_dropout: 0.1}", "lora_dropout", "did you mean dropout?"),
        ("{method: lora, target_modules: [q_proj]}", "target_modules", "did you mean targets?"),
        ("{method: lora, init_lora_weights: true}", "init_lora_weights", "did you mean init?"),
        ("{method: lora, load_in_4bit: true}", "load_in_4bit", "did you mean quant?"),
        ("{method: full, learning_rate: 1e-4}", "learning_rate", "did you mean lr?"),
        ("{method: full, r: 4}", "r", "use lora"),
        ("{method: full, lora_alpha: 16}", "lora_alpha", "methods lora, qlora"),
        ("{method: lora, rank_pattern: {}}", "rank_pattern", "peft_type: LORA"),
        ("{method: lora, num_train_epochs: 3}", "num_train_epochs", "did you mean train.budget?"),
        ("{method: lora, task_type: CAUSAL_LM}", "task_type", "remove it"),
        ("{method: lora, weight_decay: 0.1}", "weight_decay", "did you mean train.weight_decay?"),
        ("{method: lora, seeds: 1}", "seeds", "did you mean seeds"),
    ],
)
def test_a_foreign_key_of_a_method(method, key, hint):
    problem = only(MINIMAL.replace("full", method))
    assert problem.key == f"methods[0].{key}"
    assert hint in problem.next_step


@pytest.mark.parametrize(
    ("line", "key", "hint"),
    [
        ("train: {learning_rate: 1e-4}", "train.learning_rate", "did you mean lr?"),
        ("learning_rate: 1e-4", "learning_rate", "did you mean lr?"),
        ("rank: 4", "rank", "methods lora, qlora"),
        ("train: {per_device_train_batch_size: 8}", "train.per_device_train_batch_size", "did you mean batch_tokens?"),
        ("gradient_accumulation_steps: 8", "gradient_accumulation_steps", "did you mean train.batch_tokens?"),
        ("train: {max_length: 512}", "train.max_length", "did you mean seq_len?"),
        ("train: {max_steps: 9}", "train.max_steps", "300 steps"),
        ("train: {bf16: true}", "train.bf16", "did you mean precision?"),
        ("train: {save_steps: 9}", "train.save_steps", "--checkpoint-every"),
        ("gradient_checkpointing: true", "gradient_checkpointing", "chosen by memory"),
        ("train: {packing: true}", "train.packing", "remove it"),
        ("train: {logging_steps: 1}", "train.logging_steps", "no counterpart"),
        ("general: [{path: x, dataset_text_field: body}]", "general[0].dataset_text_field", "did you mean field?"),
        ("seed: 1", "seed", "did you mean seeds?"),
    ],
)
def test_a_foreign_key_elsewhere(line, key, hint):
    problem = only(f"{MINIMAL}{line}\n")
    assert problem.key == key
    assert hint in problem.next_step


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("learning_rate=1e-4", "did you mean lr?"),
        ("methods[0].r=4", "use lora"),
        ("train.num_train_epochs=3", "did you mean budget?"),
        ("model.model_name_or_path=gpt2", "did you mean name?"),
        ("model.revision=main", "did you mean revisions?"),
        ("warmup_ratio=0.1", "did you mean train.warmup?"),
    ],
)
def test_a_foreign_key_in_an_override(override, hint):
    problem = only(MINIMAL, override)
    assert problem.where == f"--set {override}"
    assert hint in problem.next_step


def test_a_foreign_key_of_a_ladder():
    text = (
        "kind: ladder\ntext: bundled/pretrain_sample\nrungs: {trunk: 1M}\n"
        "train: {batch_tokens: 4096, peak_lr: 1e-2, learning_rate: 1}\n"
        "model: {layers: 2, hidden_size: 64, width: 64, heads: 2, feed_forward: 96, vocabulary: 512}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load_ladder(text)
    assert {problem.next_step for problem in caught.value.problems} == {"did you mean peak_lr?", "did you mean width?"}
