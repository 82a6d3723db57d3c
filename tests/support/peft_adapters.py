"""Adapter folders as plain PEFT writes them, on a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def lora_folder(base: Path, target: Path, seed: int = 1, **options: Any) -> Path:
    """A LoRA of plain PEFT on the model in `base`, its weights drawn so that it changes the logits."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    defaults = {"r": 4, "lora_alpha": 8, "init_lora_weights": False, "target_modules": ["q_proj", "v_proj"]}
    config = LoraConfig(task_type="CAUSAL_LM", **{**defaults, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "lora" not in name:  # modules_to_save, token indices: they start at the base
                parameter.data = parameter.data + 0.02 * torch.randn_like(parameter)
    model.save_pretrained(str(target))
    (target / "README.md").unlink(missing_ok=True)
    return target
