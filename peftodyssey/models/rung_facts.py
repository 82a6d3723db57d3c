"""What is published of public checkpoint ladders: tokens of a step, and the learning rate at each. Called by
`rung_names`.

Sources, by row: OLMo-1B, its cosine and steps: allenai/OLMo `configs/official/OLMo-1B.yaml`. OLMo-2-1B: the same
repository, `configs/official-0425/OLMo2-1B-stage1.yaml`. OLMo-2-7B: its model card. Amber: arXiv 2312.06550 (360 chunks
of 1,706,976 sequences of 2,048 tokens; its card calls the last one `ckpt_359`, so `ckpt_000` has seen one chunk).
Pythia: EleutherAI/pythia `models/*/*.yml` (143,000 steps, 1 % warm-up, down to a tenth). SmolLM2: huggingface/smollm
`pre-training/smollm2/*.yaml` (constant to the given step, then linear to 0). What is not published there is None here.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

STEP_4M, STEP_2M, STEP_1M = 4_194_304, 2_097_152, 1_048_576
AMBER_CHUNK = 1_706_976 * 2_048


@dataclass(frozen=True)
class PublishedSchedule:
    """One ladder as its authors describe it. Steps count optimiser steps, Amber's count chunks of text."""

    tokens_per_step: int
    shape: str | None = None  # cosine | wsd (constant, then linear to 0); None: not published
    peak_lr: float | None = None
    warmup_steps: int = 0
    end_step: float = math.inf  # where the schedule ends
    floor: float = 0.0  # of a cosine: the last rate over the peak
    decay_step: int = 0  # of wsd: where the fall begins
    stage1_tokens: int | None = None  # seen before a second stage begins


_COSINE = {"shape": "cosine", "floor": 0.1}
_PYTHIA = {"tokens_per_step": STEP_2M, **_COSINE, "warmup_steps": 1_430, "end_step": 143_000}

PUBLISHED: tuple[tuple[str, PublishedSchedule], ...] = (
    (
        r"allenai/OLMo-1B(-hf)?",
        PublishedSchedule(STEP_4M, **_COSINE, peak_lr=4e-4, warmup_steps=2_000, end_step=739_328),
    ),
    (
        r"allenai/OLMo-2-0425-1B(-early-training)?",
        PublishedSchedule(
            STEP_2M, **_COSINE, peak_lr=4e-4, warmup_steps=4_000, end_step=5e12 / STEP_2M, stage1_tokens=4_001 * 10**9
        ),
    ),
    (r"allenai/OLMo-2-1124-7B", PublishedSchedule(STEP_4M, stage1_tokens=3_896 * 10**9)),
    (r"LLM360/Amber", PublishedSchedule(AMBER_CHUNK, **_COSINE, peak_lr=3e-4, end_step=360)),
    (r"EleutherAI/pythia-(14m|31m|70m)(-deduped)?", PublishedSchedule(**_PYTHIA, peak_lr=1e-3)),
    (r"EleutherAI/pythia-160m(-deduped)?", PublishedSchedule(**_PYTHIA, peak_lr=6e-4)),
    (r"EleutherAI/pythia-(410m|1b)(-deduped)?", PublishedSchedule(**_PYTHIA, peak_lr=3e-4)),
    (r"EleutherAI/pythia-.*", PublishedSchedule(**_PYTHIA)),
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
    """What is published of the ladder in a Hub repository; None where this table has nothing."""
    return next((facts for pattern, facts in PUBLISHED if re.fullmatch(pattern, repository, re.IGNORECASE)), None)


def learning_rate_at_step(facts: PublishedSchedule, step: int) -> float | None:
    """The learning rate at `step` of the first stage, as its published schedule has it; None where none is."""
    if facts.peak_lr is None or facts.shape is None:
        return None
    if step < facts.warmup_steps:
        return facts.peak_lr * step / facts.warmup_steps
    if facts.shape == "wsd":
        fall = (step - facts.decay_step) / (facts.end_step - facts.decay_step)
        return facts.peak_lr * min(1.0, max(0.0, 1.0 - fall))
    way = min(1.0, (step - facts.warmup_steps) / (facts.end_step - facts.warmup_steps))
    return facts.peak_lr * (facts.floor + (1 - facts.floor) * (1 + math.cos(math.pi * way)) / 2)


def arm_at_step(facts: PublishedSchedule | None, step: int) -> str | None:
    """The arm of a first-stage rung by what its learning rate does there: init, warm-up, trunk, decay or cosine."""
    if step == 0:
        return "init"
    if facts is None or facts.shape is None:
        return None
    if facts.shape == "cosine":
        return "cosine"
    if step < facts.warmup_steps:
        return "warm-up"
    return "trunk" if step <= facts.decay_step else "decay"
