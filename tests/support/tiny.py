"""Tiny random models of every family, laid out as Hub repositories, for tests of every floor.

`tiny("gpt2", tmp_path)` returns a folder with config.json, model.safetensors and the bundled tokenizer. Two layers of
width 64, so that 4-bit blocks of 64 fit; initial weights large enough that logits differ visibly from token to token.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peftodyssey import assets
from peftodyssey.models.shapes import named_configs

# Families over which tests run that hold for every one; those without a bias have nothing for BitFit to train.
FAMILIES = ("llama", "gpt2", "gpt_neox", "olmo", "olmo2", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text")
WITHOUT_BIASES = ("llama", "olmo", "olmo2", "qwen3", "gemma", "gemma2", "gemma3_text")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def tiny_config(family: str) -> dict[str, Any]:
    """The config.json of the tiny model of `family`: that of `random/tiny-<family>`."""
    return named_configs()[f"tiny-{family}"]


def tiny(family: str, folder: Path, seed: int = 0, dtype: str = "float32", **changes: Any) -> Path:
    """Folder `<folder>/tiny-<family>-<seed>` of a random model; `changes` override keys of its config."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**{**tiny_config(family), **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # norms and biases start at 0 or 1, which would hide mistakes in them
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                assert parameter.std() > 0.04, name
    target = Path(folder) / f"tiny-{family}-{seed}"
    model.to(getattr(torch, dtype)).save_pretrained(target)
    copy_tokenizer(target)
    return target


def copy_tokenizer(folder: Path) -> None:
    """Puts the bundled tokenizer's files into `folder`."""
    for name in TOKENIZER_FILES:
        shutil.copyfile(assets.model_files("odyssey-3m") / name, Path(folder) / name)
