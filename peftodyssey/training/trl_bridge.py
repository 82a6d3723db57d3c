"""The same training through `trl.SFTTrainer`: same batches, order, schedule and clipping, another loop.

It is an engine (`train.engine: trl`) and the oracle that `training.loop` is tested against. The Trainer's AdamW,
schedule, accumulation and loss are its own. It keeps no checkpoint: an interrupted training starts from step 0.
"""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from peftodyssey.corpora.packing import IGNORE_INDEX
from peftodyssey.errors import TrainingError
from peftodyssey.memory_settings import MemorySettings
from peftodyssey.models import host_memory
from peftodyssey.models.packed_inputs import packed_inputs
from peftodyssey.training import sampler, schedule
from peftodyssey.training.checkpoint import CheckpointSettings
from peftodyssey.training.loop import require_finite
from peftodyssey.training.settings import NO_CALLBACKS, StepRecord, TrainCallbacks, TrainResult, TrainSettings
from peftodyssey.training.training_run import preserve_training_state

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
    sequences: PackedSequences,
    settings: TrainSettings,
    *,
    device: str | torch.device,
    checkpoints: CheckpointSettings | None = None,
    callbacks: TrainCallbacks = NO_CALLBACKS,
) -> TrainResult:
    """Trains `trainable` in place as `training.loop.train` does, with the same arguments; `checkpoints` is ignored.

    The micro-batch is the largest divisor of the batch that is not above `settings.micro_batch_size`. Raises
    TrainingError where memory runs out: the Trainer cannot retry a step. `budget_bytes` is not watched. The recipe
    refuses what happens between steps: `l2_sp`, `norm_ball`, `replay` and `early_stop`.
    """
    settings.check()
    regularized = settings.l2_sp or settings.norm_ball is not None or settings.replay or settings.early_stop
    assert not regularized, "the recipe refuses these with TRL"
    sampler.require_trained_tokens(sequences)
    device = torch.device(device)
    micro_batch_size = _divisor(settings.batch_size, settings.micro_batch_size)
    recorder: Any = _step_recorder(model, sequences, settings, device, callbacks)
    weights = {name: parameter.data for name, parameter in trainable.items()}
    with tempfile.TemporaryDirectory() as folder, restore_forwards(model):
        arguments = _arguments(settings, device, micro_batch_size, folder)
        trainer = _trainer(model, sequences, settings, arguments, recorder)
        for name, parameter in trainable.items():  # SFTTrainer casts the adapters of a quantized base to bf16
            parameter.data = weights[name]
        try:
            trainer.train()
        except Exception as error:
            if not host_memory.is_out_of_memory(error):
                raise
            raise TrainingError(
                f"the memory does not hold a step of {micro_batch_size} sequences in TRL's trainer: {error}",
                "use train.engine native, which continues with fewer sequences at a time where that happens",
            ) from error
    log: list[StepRecord] = recorder.log
    return TrainResult(
        steps=len(log),
        tokens=log[-1].tokens if log else 0,
        log=tuple(log),
        final_loss=log[-1].loss_nats if log else math.nan,
        seconds=math.fsum(record.seconds for record in log),
        interrupted=len(log) < settings.steps,
        resumed_from=0,
        memory_settings=MemorySettings(micro_batch_size, settings.gradient_checkpointing),
    )


def _trainer(
    model: nn.Module, sequences: PackedSequences, settings: TrainSettings, arguments: Any, recorder: Any
) -> Any:
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback
    from trl import SFTTrainer

    order = [
        sampler.step_indices(len(sequences.labels), settings.batch_size, settings.seed, step)
        for step in range(settings.steps)
    ]
    dataset = Dataset.from_dict({"sequence": np.concatenate(order)})

    class Trainer(SFTTrainer):
        """Weight decay on matrices only, as in `training.optim`; batches in the order of the dataset's rows."""

        def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
            return [name for name, parameter in model.named_parameters() if parameter.ndim >= 2]

        def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
            return torch.utils.data.SequentialSampler(dataset)

    trainer = Trainer(
        model=cast(Any, model),
        args=arguments,
        data_collator=lambda features: _collate(
            model, sequences, np.array([feature["sequence"] for feature in features])
        ),
        train_dataset=dataset,
        processing_class=_empty_tokenizer(),
        callbacks=[recorder],
    )
    for printing in (PrinterCallback, ProgressCallback):  # the command line shows progress from `on_step`
        trainer.remove_callback(printing)
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


def _collate(model: nn.Module, sequences: PackedSequences, indices: np.ndarray) -> dict[str, Tensor]:
    """Sequences as the Trainer expects them: labels not shifted, so that one more token carries the last label.

    That token is a document of its own: it attends to nothing, nothing attends to it, and it has no target.
    """

    def append(array: np.ndarray, last: np.ndarray | int) -> np.ndarray:
        column = np.broadcast_to(np.asarray(last).reshape(-1, 1), (len(indices), 1))
        return np.concatenate([array, column], axis=1)

    labels = sequences.labels[indices]
    segments = sequences.segment_ids[indices]
    shifted_back = np.concatenate([np.full((len(indices), 1), IGNORE_INDEX), labels], axis=1).astype(np.int64)
    inputs = packed_inputs(
        model,
        append(sequences.input_ids[indices], sequences.input_ids[indices][:, 0]),
        append(sequences.position_ids[indices], 0),
        append(segments, segments.max(axis=1) + 1),
        allow_varlen=False,  # the Trainer counts tokens by a mask
    )
    inputs.pop("use_cache", None)
    return {**inputs, "labels": torch.from_numpy(shifted_back)}


def _step_recorder(
    model: nn.Module,
    sequences: PackedSequences,
    settings: TrainSettings,
    device: torch.device,
    callbacks: TrainCallbacks,
) -> Any:
    """A TrainerCallback that fills `log` with StepRecords and calls `callbacks` when the training loop would."""
    from transformers import TrainerCallback

    class StepRecorder(TrainerCallback):
        def __init__(self) -> None:
            self.log: list[StepRecord] = []
            self.begun = time.perf_counter()

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if callbacks.should_stop():
                control.should_training_stop = True
            self.begun = time.perf_counter()

        def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            logs: dict[str, float] = kwargs["logs"]
            if "loss" not in logs:  # the summary at the end
                return
            step, seconds = state.global_step, time.perf_counter() - self.begun
            loss_nats, lr, grad_norm = logs["loss"], logs["learning_rate"], float(logs["grad_norm"])
            require_finite(step, loss_nats, grad_norm, lr, settings.precision == "fp16")
            indices = sampler.step_indices(len(sequences.labels), settings.batch_size, settings.seed, step - 1)
            tokens = sampler.trained_tokens(sequences, indices) + (self.log[-1].tokens if self.log else 0)
            self.log.append(StepRecord(step, tokens, loss_nats, lr, grad_norm, seconds))
            callbacks.on_step(self.log[-1])
            if step in settings.eval_at_steps:
                with preserve_training_state(model, device):
                    callbacks.on_eval(settings.eval_at_steps.index(step), step, tokens)

    return StepRecorder()


def _empty_tokenizer() -> Any:
    """A tokenizer without special tokens: SFTTrainer asks for one, and does not use it on tokens."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"": 0}, unk_token="")))


def _divisor(batch_size: int, micro_batch_size: int) -> int:
    return max(d for d in range(1, min(batch_size, micro_batch_size) + 1) if batch_size % d == 0)


@contextlib.contextmanager
def restore_forwards(model: nn.Module) -> Iterator[None]:
    """Removes the forwards and the gradient checkpointing that the Trainer puts on a model; its mode stays training."""
    forwards = {module: module.__dict__.get("forward") for module in model.modules()}
    try:
        yield
    finally:
        for module, forward in forwards.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
        pretrained: Any = model
        pretrained.gradient_checkpointing_disable()
