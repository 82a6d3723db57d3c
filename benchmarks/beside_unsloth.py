"""The training of `trainings.stock` by unsloth, in a process of its own because it patches transformers. Started by
`step.py`.

    python benchmarks/beside_unsloth.py '{"folder": ..., "adapter": ..., "quant": "nf4", "rank": 16, ...}'

Prints one line of JSON: seconds, peak_bytes, loss_nats, grad_norm. Needs a GPU and an installed unsloth.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Load, start from the given adapter, train on the given tokens."""
    from unsloth import FastLanguageModel  # isort: skip  (it wants to be imported before transformers)
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file
    from steps import random_blocks

    from peftodyssey.training import sampler

    model, _ = FastLanguageModel.from_pretrained(
        model_name=asked["folder"],
        max_seq_length=asked["seq_len"],
        dtype=torch.bfloat16,
        load_in_4bit=asked["quant"] == "nf4",
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=asked["rank"],
        lora_alpha=2 * asked["rank"],
        lora_dropout=0,
        bias="none",
        target_modules=LINEARS,
        random_state=0,
        use_gradient_checkpointing="unsloth" if asked["gradient_checkpointing"] == "full" else False,
    )
    set_peft_model_state_dict(model, load_file(asked["adapter"]))
    blocks = random_blocks(asked["blocks"] * 2, asked["seq_len"], model.config.vocab_size)
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer, seconds = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0, fused=True), []
    torch.cuda.reset_peak_memory_stats()
    for step in range(asked["steps"]):
        chosen = sampler.step_indices(len(blocks.labels), asked["blocks"], 0, step)
        ids = torch.from_numpy(blocks.input_ids[chosen]).long().cuda()
        begun = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss  # unsloth shifts labels itself
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(trainable, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        last = {"loss_nats": loss.item(), "grad_norm": norm.item()}
        seconds.append(time.perf_counter() - begun)
    return {**last, "seconds": seconds, "peak_bytes": torch.cuda.max_memory_reserved()}


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
