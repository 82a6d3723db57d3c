"""The same LoRA training by the stock stack, by TRL, by this package alone and by multi-LoRA. Used by `step.py` and
`sweep.py`.

All start from the same adapters and see the same random tokens; each gives its seconds, losses and gradient norms by
step.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from steps import HALVES, random_blocks
from torch.nn import functional as F

from peftodyssey.models import load as models
from peftodyssey.models import source
from peftodyssey.multi_lora.adapters import adapter_of
from peftodyssey.multi_lora.trainer import Member, train_adapters
from peftodyssey.recipe.cell import QuantSpec
from peftodyssey.training.loop import resume_digest, train
from peftodyssey.training.settings import TrainSettings

BESIDE = str(Path(__file__).with_name("beside_unsloth.py"))
WARM_UP = 3  # steps that are not timed


@dataclass(frozen=True)
class Setting:
    """One shape of step on one model."""

    model: str
    quant: str | None
    precision: str
    rank: int
    blocks: int
    seq_len: int
    gradient_checkpointing: str
    steps: int
    device: str
    offload_activations: bool = False  # ours: the layers' inputs wait in host memory

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.blocks * self.seq_len

    def train_settings(self, seed: int = 0) -> TrainSettings:
        """As the training loop takes it."""
        return TrainSettings(
            lr=1e-3,
            steps=self.steps,
            batch_size=self.blocks,
            micro_batch_size=self.blocks,
            schedule="constant",
            precision=self.precision,
            gradient_checkpointing=self.gradient_checkpointing,
            offload_activations=self.offload_activations,
            seed=seed,
            eval_at_steps=(),
        )


@dataclass(frozen=True)
class Timed:
    """One way of training: median seconds of a step, what it had reserved, and where it ended."""

    seconds: float
    peak_bytes: int | None
    loss_nats: float
    grad_norm: float

    @classmethod
    def of(cls, seconds: list[float], peak_bytes: int | None, loss_nats: float, grad_norm: float) -> Timed:
        """From the seconds of every step."""
        return cls(statistics.median(seconds[WARM_UP:] or seconds), peak_bytes, loss_nats, grad_norm)


def base_of(setting: Setting) -> Any:
    """The frozen base."""
    quant = QuantSpec(setting.quant, True) if setting.quant else None
    return models.load(source.resolve(setting.model), precision=setting.precision, quant=quant, device=setting.device)


@contextlib.contextmanager
def adapted(base: Any, setting: Setting, seed: int = 0) -> Iterator[tuple[Any, dict[str, torch.nn.Parameter]]]:
    """PEFT's LoRA on all linear maps of the decoder, drawn from `seed`; taken off again."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=setting.rank, lora_alpha=2 * setting.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, config).train()
    try:
        yield model, {name: p for name, p in model.named_parameters() if p.requires_grad}
    finally:
        plain = model.unload()
        for mark in ("peft_config", "_hf_peft_config_loaded"):
            vars(plain).pop(mark, None)
        plain.requires_grad_(False)


@contextlib.contextmanager
def peak(device: str) -> Iterator[Callable[[], int | None]]:
    """A function that says what PyTorch's allocator had reserved at most in the body; None on a CPU."""
    if device != "cuda":
        yield lambda: None
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield torch.cuda.max_memory_reserved


def stock(base: Any, setting: Setting) -> Timed:
    """transformers and PEFT as they come, torch's AdamW, the loss of all logits."""
    blocks, seconds = random_blocks(setting.blocks * 2, setting.seq_len, base.config.vocab_size), []
    from peftodyssey.training import sampler

    with adapted(base, setting) as (model, trainable), peak(setting.device) as peak_bytes:
        if setting.gradient_checkpointing == "full":
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        optimizer = torch.optim.AdamW(trainable.values(), lr=1e-3, weight_decay=0.0, fused=True)
        for step in range(setting.steps):
            chosen = sampler.step_indices(len(blocks.labels), setting.blocks, 0, step)
            ids, labels = (
                torch.from_numpy(a[chosen]).long().to(setting.device) for a in (blocks.input_ids, blocks.labels)
            )
            begun = time.perf_counter()
            logits = model(input_ids=ids).logits
            loss = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
            loss.backward()
            norm = torch.nn.utils.clip_grad_norm_(trainable.values(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            last = loss.item(), norm.item()  # waits for the device
            seconds.append(time.perf_counter() - begun)
            del logits, loss
        if setting.gradient_checkpointing == "full":
            base.gradient_checkpointing_disable()
            base.disable_input_require_grads()
        return Timed.of(seconds, peak_bytes(), *last)


def by_loop(base: Any, setting: Setting, loop: Callable[..., Any] = train) -> Timed:
    """This package's loop, or TRL's trainer by the same interface."""
    blocks = random_blocks(setting.blocks * 2, setting.seq_len, base.config.vocab_size)
    with adapted(base, setting) as (model, trainable), peak(setting.device) as peak_bytes:
        log = loop(model, trainable, blocks, setting.train_settings(), device=setting.device).log
        return Timed.of([r.seconds for r in log], peak_bytes(), log[-1].loss_nats, log[-1].grad_norm)


def trl(base: Any, setting: Setting) -> Timed:
    """TRL's SFTTrainer on the same batches."""
    from peftodyssey.training.trl_bridge import train_trl

    return by_loop(base, setting, train_trl)


def unsloth(base: Any, setting: Setting) -> Timed | str:
    """unsloth from the same weights, adapter and tokens, in a process of its own; or why there is none."""
    if importlib.util.find_spec("unsloth") is None:
        return "not installed"
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    model_source = source.resolve(setting.model)
    with tempfile.TemporaryDirectory() as folder:
        models.load(model_source, precision="bf16", device="cpu").save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if model_source.tokenizer_folder and (file := model_source.tokenizer_folder / name).is_file():
                shutil.copy(file, folder)
        with adapted(base, setting) as (model, _):
            save_file(
                {name: value.contiguous().cpu() for name, value in get_peft_model_state_dict(model).items()},
                f"{folder}.adapter",
            )
        request = {**vars(setting), "folder": folder, "adapter": f"{folder}.adapter"}
        try:
            done = subprocess.run(
                [sys.executable, BESIDE, json.dumps(request)], capture_output=True, text=True, check=False
            )
        finally:
            Path(f"{folder}.adapter").unlink()
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["ended without a word"])[-1]
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    return Timed.of(measured["seconds"], measured["peak_bytes"], measured["loss_nats"], measured["grad_norm"])


def multi_lora(base: Any, setting: Setting, num_members: int, micro_batch_size: int) -> Timed:
    """So many adapters together; seconds are those of the joint step, loss and norm of the member that the others train
    alone.
    """
    blocks = random_blocks(setting.blocks * 2, setting.seq_len, base.config.vocab_size)
    members = []
    with tempfile.TemporaryDirectory() as folder, peak(setting.device) as peak_bytes:
        for number in range(num_members):
            settings = setting.train_settings(seed=number)
            settings = TrainSettings(**{**vars(settings), "micro_batch_size": micro_batch_size})
            with adapted(base, setting, seed=number) as (model, trainable):
                owner = resume_digest(trainable, blocks, settings)
                members.append(Member(settings, blocks, adapter_of(model), Path(folder) / str(number), owner))
        train_adapters(base, members, device=setting.device)
        log = members[0].log
        return Timed.of([r.seconds * num_members for r in log], peak_bytes(), log[-1].loss_nats, log[-1].grad_norm)


def base_only(base: Any, setting: Setting, passes: int) -> list[float]:
    """Seconds of some passes of the base alone over the tokens of so many steps: forward, and backward to the
    activations.
    """
    ids = torch.randint(0, base.config.vocab_size, (setting.blocks * passes, setting.seq_len), device=setting.device)
    embed, seconds = base.get_input_embeddings(), []
    dtype = HALVES.get(setting.precision, torch.float32)
    for _ in range(WARM_UP + 3):
        begun = time.perf_counter()
        inputs = embed(ids).to(dtype).detach().requires_grad_(True)
        hidden = base.base_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        hidden.sum().backward()
        if setting.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    return seconds[WARM_UP:]
