"""Only seeds are seeds: cells that differ in anything else are never one setting with several seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import micro
from support.plans import build, load_recipe

from peftodyssey.memory.device import detect

LORA = "methods=[{method: lora, rank: 2, lr: 1e-2}]"
# Every axis along which a recipe can be changed, as overrides of the micro recipe with LoRA alone.
AXES = {
    "rung": ["model.revisions=[annealed-256M]"],
    "model": ["model=random/odyssey-3m"],
    "domain": ["domains=[bundled/wiki_history_events]"],
    "newline": ["domains=[{source: bundled/arxiv_cs.CL, newline: strip}]"],
    "general text": ["general=[bundled/wiki_history_events]"],
    "no general text": ["general=[]", "measure=degradation"],
    "method": ["methods=[{method: full, lr: 1e-2}]"],
    "rank": ["methods=[{method: lora, rank: 4, lr: 1e-2}]"],
    "alpha": ["methods=[{method: lora, rank: 2, alpha: 3, lr: 1e-2}]"],
    "learning rate": ["methods=[{method: lora, rank: 2, lr: 2e-2}]"],
    "targets": ["methods=[{method: lora, rank: 2, lr: 1e-2, targets: [q_proj]}]"],
    "dropout": ["methods=[{method: lora, rank: 2, lr: 1e-2, dropout: 0.1}]"],
    "rslora": ["methods=[{method: lora, rank: 2, lr: 1e-2, rslora: true}]"],
    "dora": ["methods=[{method: lora, rank: 2, lr: 1e-2, dora: true}]"],
    "quantisation": ["methods=[{method: qlora, rank: 2, lr: 1e-2}]"],
    "L2-SP": ["methods=[{method: lora, rank: 2, lr: 1e-2, l2_sp: 0.1}]"],
    "norm ball": ["methods=[{method: lora, rank: 2, lr: 1e-2, norm_ball: 0.1}]"],
    "replay": [
        "methods=[{method: lora, rank: 2, lr: 1e-2, replay: 0.2}]",
        "pretraining_text=bundled/wiki_history_events",
    ],
    "early stopping": ["methods=[{method: lora, rank: 2, lr: 1e-2, early_stop: {}}]"],
    "budget": ["train.budget=5 steps"],
    "sequence length": ["train.seq_len=128"],
    "batch": ["train.batch_tokens=512"],
    "schedule": ["train.schedule=constant"],
    "warm-up": ["train.warmup=50%"],
    "weight decay": ["train.weight_decay=0.1"],
    "clipping": ["train.grad_clip=0.5"],
    "precision": ["train.precision=bf16"],
    "optimiser": ["train.optimizer=adamw8bit"],
    "engine": ["train.engine=trl"],
    "context": ["score.context=128", "score.stride=48"],
    "stride": ["score.stride=32"],
    "cap": ["score.tokens=2k"],
    "first token": ["score.first_token=skip"],
    "mode": ["score={context: 64, tokens: 1k, mode: stream}"],
}


def settings(folder: Path, *overrides: str) -> set[str]:
    plan = build(load_recipe(str(micro.write(folder)), [LORA, *overrides]), detect("cpu"))
    return {task.entry["setting"] for task in plan.cells}


@pytest.mark.parametrize("axis", sorted(AXES))
def test_another_value_of_an_axis_is_another_setting(axis: str, tmp_path: Path) -> None:
    assert not settings(tmp_path) & settings(tmp_path, *AXES[axis])


def test_seeds_and_tuned_rates_are_one_setting(tmp_path: Path) -> None:
    tuned = "methods=[{method: lora, rank: 2, lr: {tune: [1e-3, 1e-2]}}]"
    assert len(settings(tmp_path, tuned, "seeds=[0, 1, 2]")) == 1
    assert len(settings(tmp_path, "methods=[{method: lora, rank: 2, lr: [1e-3, 1e-2]}]")) == 2


def test_names_and_how_it_is_computed_are_no_setting(tmp_path: Path) -> None:
    same = ["name=other", "train.multi_lora=off", "measure=[degradation, forgetting, geometry]"]
    assert settings(tmp_path) == settings(tmp_path, *same)
