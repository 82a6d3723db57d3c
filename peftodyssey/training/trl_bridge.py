"""The same training through `trl.SFTTrainer`: same batches, order, schedule and clipping, somebody else's
loop.

`jobs.adapt` calls it for `train.engine: trl`; it is also what `train.loop` is checked against. The Trainer's
AdamW, schedule, accumulation and loss are its own. It keeps no state on disk: an interrupted training starts
from step 0.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from peftodyssey.corpora.packing import IGNORE_INDEX
from peftodyssey.errors import TrainingError
from peftodyssey.models import host_memory
from peftodyssey.models.packing import packed_inputs
from peftodyssey.training import sampler, schedule
from peftodyssey.training.settings import (
    ADDED_FIELDS,
    OnEval,
    OnNote,
    OnStep,
    ShouldStop,
    StepRecord,
    TrainResult,
    TrainSettings,
)
from peftodyssey.training.trl_cleanup import restore_dtypes, restore_forwards

if TYPE_CHECKING:
    from peftodyssey.corpora.packing import PackedSequences

TRAINER_SCHEDULES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "wsd": "warmup_stable_decay",
}


def train_trl(
    model: nn.Module,
    trainable: Mapping[str, nn.Parameter],
    blocks: PackedSequences,
    settings: TrainSettings,
    *,
    device: str | torch.device,
    state_folder: Path | None = None,
    checkpoint_every_s: float | None = None,
    on_step: OnStep | None = None,
    on_eval: OnEval | None = None,
    should_stop: ShouldStop | None = None,
    on_note: OnNote | None = None,
    general_nll: Any = None,
) -> TrainResult:
    """Trains `trainable` in place as `train.loop.train` does, with the same arguments, callbacks and result.

    The micro-batch is the largest divisor of the batch that is not above `settings.micro_batch_size`. Raises
    TrainingError where memory runs out: the Trainer cannot begin a step again. No budget of resident memory is watched.
    The recipe refuses what is done between the steps: `l2_sp`, `norm_ball`, `replay` and `early_stop`.
    """
    settings.check()
    assert all(getattr(settings, name) == off for name, off in ADDED_FIELDS.items()), (
        "the recipe refuses these with TRL"
    )
    sampler.require_trained_tokens(blocks)
    micro_batch_size = _divisor(settings.batch_size, settings.micro_batch_size)
    follower = _follower(model, blocks, settings, torch.device(device), on_step, on_eval, should_stop)
    with tempfile.TemporaryDirectory() as folder, restore_forwards(model), restore_dtypes(trainable) as restore:
        trainer = _trainer(model, blocks, settings, torch.device(device), micro_batch_size, folder, follower)
        restore()
        try:
            trainer.train()
        except Exception as error:
            if not host_memory.is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the memory does not hold a step of {micro_batch_size} blocks in TRL's trainer: {error}",
                "train.engine own goes on with fewer blocks at a time where that happens",
            ) from error
    log: list[StepRecord] = follower.log
    return TrainResult(
        steps=len(log),
        tokens=log[-1].tokens if log else 0,
        log=tuple(log),
        final_loss=log[-1].loss_nats if log else math.nan,
        seconds=math.fsum(record.seconds for record in log),
        interrupted=len(log) < settings.steps,
        resumed_from=0,
        micro_batch_size_used=micro_batch_size,
        gradient_checkpointing_used=settings.gradient_checkpointing,
    )


def _trainer(
    model: nn.Module,
    blocks: PackedSequences,
    settings: TrainSettings,
    device: torch.device,
    micro_batch_size: int,
    folder: str,
    follower: Any,
) -> Any:
    from datasets import Dataset
    from trl import SFTTrainer

    rows = [
        sampler.step_blocks(len(blocks.labels), settings.batch_size, settings.seed, step)
        for step in range(settings.steps)
    ]
    chosen = Dataset.from_dict({"block": np.concatenate(rows)})

    class Trainer(SFTTrainer):
        """Weight decay on matrices only, as in `train.optim`; batches in the order of the data set's rows."""

        def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
            return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

        def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(chosen)

    trainer = Trainer(
        model=cast(Any, model),
        args=_arguments(settings, device, micro_batch_size, folder),
        data_collator=lambda features: _collate(model, blocks, np.array([feature["block"] for feature in features])),
        train_dataset=chosen,
        processing_class=_no_tokenizer(),
        callbacks=[follower],
    )
    _silence(trainer)
    return trainer


def _arguments(settings: TrainSettings, device: torch.device, micro_batch_size: int, folder: str) -> Any:
    from trl import SFTConfig

    decay_steps = schedule.wsd_decay_steps(settings.steps, settings.warmup_steps)
    return SFTConfig(
        output_dir=folder,
        max_steps=settings.steps,
        per_device_train_batch_size=micro_batch_size,
        gradient_accumulation_steps=settings.batch_size // micro_batch_size,
        learning_rate=settings.lr,
        lr_scheduler_type=TRAINER_SCHEDULES[settings.schedule],
        lr_scheduler_kwargs={"num_decay_steps": decay_steps, "decay_type": "linear"}
        if settings.schedule == "wsd"
        else {},
        warmup_steps=settings.warmup_steps,
        optim="adamw_torch",
        weight_decay=settings.weight_decay,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        adam_epsilon=settings.eps,
        max_grad_norm=settings.grad_clip,
        bf16=settings.precision == "bf16",
        fp16=settings.precision == "fp16",
        use_cpu=device.type == "cpu",
        gradient_checkpointing=settings.gradient_checkpointing == "full",
        gradient_checkpointing_kwargs={"use_reentrant": False},
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        packing=False,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )


def _collate(model: nn.Module, blocks: PackedSequences, chosen: np.ndarray) -> dict[str, Tensor]:
    """Blocks as the Trainer wants them: labels not shifted, so one more token whose only use is to carry the
    last label.

    That token is a document of its own: it attends to nothing, nothing to it, and no target is asked of it.
    """

    def longer(array: np.ndarray, extra: np.ndarray | int) -> np.ndarray:
        column = np.broadcast_to(np.asarray(extra).reshape(-1, 1), (len(chosen), 1))
        return np.concatenate([array, column], axis=1)

    labels = blocks.labels[chosen]
    segments = blocks.segment_ids[chosen]
    shifted_back = np.concatenate([np.full((len(chosen), 1), IGNORE_INDEX), labels], axis=1).astype(np.int64)
    inputs = packed_inputs(
        model,
        longer(blocks.input_ids[chosen], blocks.input_ids[chosen][:, 0]),
        longer(blocks.position_ids[chosen], 0),
        longer(segments, segments.max(axis=1) + 1),
        allow_varlen=False,  # the Trainer counts tokens by a mask
    )
    inputs.pop("use_cache", None)
    return {**inputs, "labels": torch.from_numpy(shifted_back)}


def _follower(
    model: nn.Module,
    blocks: PackedSequences,
    settings: TrainSettings,
    device: torch.device,
    on_step: OnStep | None,
    on_eval: OnEval | None,
    should_stop: ShouldStop | None,
) -> Any:
    """A TrainerCallback that fills `log` with StepRecords and calls the loop's callbacks at the loop's
    moments.
    """
    from transformers import TrainerCallback

    from peftodyssey.training.loop import preserve_training_state, require_finite

    class Follower(TrainerCallback):
        def __init__(self) -> None:
            self.log: list[StepRecord] = []
            self.begun = time.perf_counter()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if should_stop and should_stop():
                control.should_training_stop = True
            self.begun = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            logs: dict[str, float] = given["logs"]
            if "loss" not in logs:  # the summary at the end
                return
            step, seconds = state.global_step, time.perf_counter() - self.begun
            require_finite(
                step,
                logs["loss"],
                float(logs["grad_norm"]),
                logs["learning_rate"],
                settings.precision == "fp16",
            )
            chosen = sampler.step_blocks(len(blocks.labels), settings.batch_size, settings.seed, step - 1)
            tokens = sampler.trained_tokens(blocks, chosen) + (self.log[-1].tokens if self.log else 0)
            self.log.append(
                StepRecord(step, tokens, logs["loss"], logs["learning_rate"], float(logs["grad_norm"]), seconds)
            )
            if on_step:
                on_step(self.log[-1])
            if on_eval and step in settings.eval_at_steps:
                with preserve_training_state(model, device):
                    on_eval(settings.eval_at_steps.index(step), step, tokens)

    return Follower()


def _silence(trainer: Any) -> None:
    """Nothing is printed by a training: the command line shows progress from `on_step`."""
    from transformers import PrinterCallback, ProgressCallback

    for kind in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(kind)


def _no_tokenizer() -> Any:
    """A tokenizer without special tokens: SFTTrainer asks for one, and never uses it on tokens made
    beforehand.
    """
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"": 0}, unk_token="")))


def _divisor(batch_size: int, micro_batch_size: int) -> int:
    return max(d for d in range(1, min(batch_size, micro_batch_size) + 1) if batch_size % d == 0)
