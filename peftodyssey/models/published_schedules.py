"""Published pretraining schedules of public checkpoint ladders: tokens per step, and the learning rate at each step.

Sources, by row: OLMo-1B, its cosine and steps: allenai/OLMo `configs/official/OLMo-1B.yaml`. OLMo-2-1B: the same
repository, `configs/official-0425/OLMo2-1B-stage1.yaml`. OLMo-2-7B: its model card. Amber: arXiv 2312.06550 (360 chunks
of 1,706,976 sequences of 2,048 tokens; its card calls the last one `ckpt_359`, so `ckpt_000` has seen one chunk).
Pythia: EleutherAI/pythia `models/*/*.yml` (143,000 steps, 1 % warm-up, down to a tenth). SmolLM2: huggingface/smollm
`pre-training/smollm2/*.yaml` (constant to the given step, then linear to 0). What is not published there is None here.
"""

from __future__ import annotations

import functools
import math
import re
from dataclasses import dataclass

STEP_4M, STEP_2M, STEP_1M = 4_194_304, 2_097_152, 1_048_576
AMBER_CHUNK = 1_706_976 * 2_048


@dataclass(frozen=True)
class PublishedSchedule:
    """One ladder as its authors describe it. Steps are optimiser steps; Amber's are chunks of text."""

    tokens_per_step: int
    shape: str | None = None  # cosine | wsd (constant, then linear to 0); None: not published
    peak_lr: float | None = None
    warmup_steps: int = 0
    end_step: float = math.inf  # where the schedule ends
    min_lr_ratio: float = 0.0  # of a cosine: the last rate over the peak
    decay_step: int = 0  # of wsd: where the decay begins
    stage1_tokens: int | None = None  # seen before a second stage begins


cosine_schedule = functools.partial(PublishedSchedule, shape="cosine", min_lr_ratio=0.1)
pythia_schedule = functools.partial(cosine_schedule, STEP_2M, warmup_steps=1_430, end_step=143_000)

PUBLISHED: tuple[tuple[str, PublishedSchedule], ...] = (
    (r"allenai/OLMo-1B(-hf)?", cosine_schedule(STEP_4M, peak_lr=4e-4, warmup_steps=2_000, end_step=739_328)),
    (
        r"allenai/OLMo-2-0425-1B(-early-training)?",
        cosine_schedule(
            STEP_2M, peak_lr=4e-4, warmup_steps=4_000, end_step=5e12 / STEP_2M, stage1_tokens=4_001 * 10**9
        ),
    ),
    (r"allenai/OLMo-2-1124-7B", PublishedSchedule(STEP_4M, stage1_tokens=3_896 * 10**9)),
    (r"LLM360/Amber", cosine_schedule(AMBER_CHUNK, peak_lr=3e-4, end_step=360)),
    (r"EleutherAI/pythia-(14m|31m|70m)(-deduped)?", pythia_schedule(peak_lr=1e-3)),
    (r"EleutherAI/pythia-160m(-deduped)?", pythia_schedule(peak_lr=6e-4)),
    (r"EleutherAI/pythia-(410m|1b)(-deduped)?", pythia_schedule(peak_lr=3e-4)),
    (r"EleutherAI/pythia-.*", pythia_schedule()),
    (
        r"HuggingFaceTB/SmolLM2-135M-intermediate-checkpoints",
        PublishedSchedule(STEP_1M, "wsd", 3e-3, warmup_steps=2_000, end_step=2_000_000, decay_step=1_600_000),
    ),
    (
        r"HuggingFaceTB/SmolLM2-360M-intermediate-checkpoints",
        PublishedSchedule(3 * STEP_1M // 2, "wsd", end_step=2_600_000, decay_step=2_080_000),
    ),
    (r"HuggingFaceTB/SmolLM3-3B-checkpoints", PublishedSchedule(2_359_296)),
)


def published_schedule(repository: str) -> PublishedSchedule | None:
    """The published schedule of the ladder in a Hub repository; None where this table has none."""
    return next((schedule for name, schedule in PUBLISHED if re.fullmatch(name, repository, re.IGNORECASE)), None)


def learning_rate_at_step(schedule: PublishedSchedule, step: int) -> float | None:
    """The learning rate at `step` of the first stage; None where none is published."""
    if schedule.peak_lr is None or schedule.shape is None:
        return None
    if step < schedule.warmup_steps:
        return schedule.peak_lr * step / schedule.warmup_steps
    if schedule.shape == "wsd":
        decayed = (step - schedule.decay_step) / (schedule.end_step - schedule.decay_step)
        return schedule.peak_lr * min(1.0, max(0.0, 1.0 - decayed))
    progress = min(1.0, (step - schedule.warmup_steps) / (schedule.end_step - schedule.warmup_steps))
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return schedule.peak_lr * (schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * cosine)


def arm_at_step(schedule: PublishedSchedule | None, step: int) -> str | None:
    """The arm of a first-stage rung by its learning rate: init, warm-up, trunk, decay or cosine; None if not known."""
    if step == 0:
        return "init"
    if schedule is None or schedule.shape is None:
        return None
    if schedule.shape == "cosine":
        return "cosine"
    if step < schedule.warmup_steps:
        return "warm-up"
    return "trunk" if step <= schedule.decay_step else "decay"
