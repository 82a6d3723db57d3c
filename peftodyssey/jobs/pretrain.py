"""Job: pretrain a ladder phase by phase; each rung is a folder that plain transformers loads.

    DIR/recipe.yaml  ladder.json  log.parquet   the recipe; the rungs and how each was made; the trunk's steps
    DIR/<rung>/                                 config.json, model.safetensors, tokenizer, manifest.json (written last)
    DIR/checkpoint/trunk, DIR/checkpoint/<rung> the training between two steps, until the ladder is complete

Killed at any instant and started again, the rungs have the bits of an uninterrupted training (same machine, CPU).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from peftodyssey.errors import InputError, Interrupted
from peftodyssey.jobs import pretrain_text
from peftodyssey.jobs.context import START_AGAIN, JobContext
from peftodyssey.models.ladder_file import LADDER_FILE
from peftodyssey.plan.ladder import LadderPlan
from peftodyssey.recipe.identity import digest
from peftodyssey.store import atomic, layout, manifest, parquet, tables
from peftodyssey.training import pretrain as training
from peftodyssey.training.pretrain import PretrainSettings, Stream, Training
from peftodyssey.training.settings import StepRecord
from peftodyssey.training.small_llama import init_model
from peftodyssey.training.wsd_phases import ANNEALED, TRUNK, Phase

INIT = "init"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class LadderTraining:
    """One ladder in training: its plan, its text and its model."""

    plan: LadderPlan
    text: pretrain_text.Text
    training: Training
    resume_digest: str
    context: JobContext

    def state(self, phase: Phase) -> Path:
        """The folder of a phase's checkpoint."""
        return self.context.root / layout.CHECKPOINT / (TRUNK if phase.arm == TRUNK else phase.rung)


def pretrain(plan: LadderPlan, context: JobContext) -> list[StepRecord]:
    """Trains what is missing of `plan`; returns the records of the steps that this call did.

    Raises Interrupted where the user stops, InputError where the folder holds another ladder, TrainingError where the
    loss is not finite.
    """
    root = context.root
    refuse_another(plan, root)
    atomic.write_text(root / layout.RECIPE, plan.recipe.source_text)
    if all(manifest.read(root / name) for name in (INIT, *(phase.rung for phase in plan.rungs))):
        write_ladder(plan, root)
        return []
    work = _prepare(plan, context)
    if manifest.read(root / INIT) is None:
        save_rung(work, INIT, INIT, 0)
    done: list[StepRecord] = []
    trunk = _load_trunk(work)
    for phase in plan.phases:
        if phase.arm == TRUNK and len(trunk) < phase.stop:
            trunk = _train(work, phase, trunk, done)
            parquet.write_rows(root / layout.LOG, [vars(record) for record in trunk], tables.LOG)
        elif phase.arm == ANNEALED and manifest.read(root / phase.rung) is None:
            _branch(work, phase, trunk, done)
    write_ladder(plan, root)
    manifest.remove(root / layout.CHECKPOINT)
    return done


def refuse_another(plan: LadderPlan, root: Path) -> None:
    """Raises InputError where `root` holds a ladder with other settings."""
    path = root / LADDER_FILE
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("identity") != digest(plan.identity):
        raise InputError(
            f"{root} holds a ladder of other settings, text or weights",
            "give this ladder another directory with --out",
        )


def _prepare(plan: LadderPlan, context: JobContext) -> LadderTraining:
    text = pretrain_text.text_of(plan, context.root)
    recipe, device = plan.recipe, torch.device(context.options.device)
    settings = PretrainSettings(
        peak_lr=recipe.train.peak_lr,
        seq_len=recipe.train.seq_len,
        batch_size=recipe.train.batch_tokens // recipe.train.seq_len,
        micro_batch_size=plan.micro_batch_size,
        warmup_steps=recipe.train.warmup_steps,
        decay_share=recipe.rungs.decay,
        weight_decay=recipe.train.weight_decay,
        betas=recipe.train.betas,
        grad_clip=recipe.train.grad_clip,
        precision=plan.precision,
        compiled=plan.compiled,
        seed=recipe.seed,
    )
    stream = Stream(torch.from_numpy(text.tokens).to(device), settings.seq_len, settings.seed)
    prepared = training.prepare(
        init_model(plan.config, recipe.seed).to(device), stream, settings, context.callbacks.note
    )
    resume_digest = digest({**plan.identity, "tokenizer": text.tokenizer.fingerprint})
    work = LadderTraining(plan, text, prepared, resume_digest, context)
    write_ladder(plan, context.root, work)
    return work


def _load_trunk(work: LadderTraining) -> list[StepRecord]:
    """Loads the trunk's checkpoint; its log, empty where there is none."""
    log, note = training.restore(work.training, work.state(Phase(TRUNK, 0, 0)), work.resume_digest)
    if note:
        work.context.callbacks.note(note)
    return log or []


def _train(work: LadderTraining, phase: Phase, log: list[StepRecord], done: list[StepRecord]) -> list[StepRecord]:
    """Trains one phase to its end, after the steps in `log`, and saves its rung and its checkpoint; returns its log."""
    steps, first = phase.stop, len(log)
    save = partial(training.save, work.training, work.state(phase), work.resume_digest, log)
    finished = training.run_phase(
        work.training,
        phase,
        log,
        checkpoint_every_s=work.context.options.checkpoint_every_s,
        should_stop=work.context.callbacks.should_stop,
        on_step=lambda record: work.context.callbacks.step(record, steps),
        save=save,
    )
    done += log[first:]
    if not finished:
        raise Interrupted(f"stopped after step {len(log):,} of {steps:,} of the {phase.arm} phase", START_AGAIN)
    if phase.rung:
        save_rung(work, phase.rung, phase.arm, phase.stop)
    if phase.arm == TRUNK:
        save()
    return log


def _branch(work: LadderTraining, phase: Phase, trunk: list[StepRecord], done: list[StepRecord]) -> None:
    """Trains one branch, from its own checkpoint or from the trunk, and loads the trunk again."""
    log, _ = training.restore(work.training, work.state(phase), work.resume_digest)
    assert log is not None or len(trunk) == phase.start, "a branch starts when the trunk has reached its first step"
    _train(work, phase, list(trunk) if log is None else log, done)
    manifest.remove(work.state(phase))
    restored, _ = training.restore(work.training, work.state(Phase(TRUNK, 0, 0)), work.resume_digest)
    assert restored is not None, "the trunk was saved where the branch left it"


def save_rung(work: LadderTraining, name: str, arm: str, steps: int) -> None:
    """Writes the model as the rung `name`, with its losses on held-out text; the manifest is written last."""
    from safetensors.torch import save_file

    model, config = work.training.model, work.plan.config
    dtype = DTYPES[work.plan.recipe.rungs.save_as]
    weights = {key: p.detach().to(dtype) for key, p in model.named_parameters()}
    folder = manifest.prepare_dir(work.context.root / name)
    pretrain_text.copy_tokenizer(work.context.root, folder)
    content = {**config, **pretrain_text.special_ids(work.text.tokenizer)}
    atomic.write_text(folder / "config.json", json.dumps(content, indent=2) + "\n")
    with atomic.atomic_write(folder / "model.safetensors") as temporary:
        save_file(
            {key: tensor.cpu().contiguous() for key, tensor in weights.items()}, temporary, metadata={"format": "pt"}
        )
    manifest.commit(folder, {"kind": "rung", "entry": _entry(work, name, arm, steps, weights)})
    write_ladder(work.plan, work.context.root, work)


def _entry(work: LadderTraining, name: str, arm: str, steps: int, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The entry of a rung in ladder.json."""
    recipe = work.plan.recipe
    entry: dict[str, Any] = {"name": name, "arm": arm, "tokens": steps * recipe.train.batch_tokens, "steps": steps}
    device = work.training.stream.tokens.device
    float32_weights = {key: weight.float() for key, weight in weights.items()}
    model, seq_len, precision = work.training.model, recipe.train.seq_len, work.plan.precision
    entry["validation_nll"] = {}
    for corpus, row in work.text.held_out.items():
        nll_nats = training.mean_nats(model, float32_weights, torch.from_numpy(row).to(device), seq_len, precision)
        entry["validation_nll"][corpus] = round(nll_nats, 4)
    return entry


def write_ladder(plan: LadderPlan, root: Path, work: LadderTraining | None = None) -> None:
    """Writes ladder.json: how the ladder is trained, and its finished rungs, by tokens."""
    recipe = plan.recipe
    names = (INIT, *(phase.rung for phase in plan.rungs))
    entries = [written["entry"] for written in (manifest.read(root / name) for name in names) if written]
    path = root / LADDER_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if work is not None:
        corpora = ", ".join(corpus.name for corpus in plan.texts)
        passes = max(phase.stop for phase in plan.phases) * recipe.train.batch_tokens / len(work.text.tokens)
        content["pretraining_text"] = (
            f"{work.text.documents:,} documents of {corpora}: {len(work.text.tokens):,} tokens, "
            f"up to {passes:.1f} times"
        )
    content |= ladder_facts(plan)
    content["rungs"] = sorted(entries, key=lambda entry: (entry["tokens"], entry["arm"]))
    atomic.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def ladder_facts(plan: LadderPlan) -> dict[str, Any]:
    """The entries of ladder.json that hold for all rungs."""
    train, rungs = plan.recipe.train, plan.recipe.rungs
    precision = "bf16 autocast over fp32 weights" if plan.precision == "bf16" else "fp32"
    return {
        "name": plan.recipe.name,
        "identity": digest(plan.identity),
        "parameters": plan.parameters,
        "tokens_per_step": train.batch_tokens,
        "sequence_length": train.seq_len,
        "peak_lr": train.peak_lr,
        "optimizer": f"AdamW{train.betas}, weight decay {train.weight_decay:g} on matrices, "
        f"gradient clip {train.grad_clip:g}",
        "precision": f"{precision}; saved as {rungs.save_as}",
        "schedule": f"linear warm-up over {train.warmup_steps} steps, then constant (arm 'trunk'); "
        f"arm 'annealed' leaves the trunk for the last {rungs.decay:.0%} of its budget and decays linearly to 0",
        "initializer_std": plan.recipe.model.init_std,
        "validation": "mean nats per token of the stored weights over sequences of "
        f"{train.seq_len} tokens that run across documents",
    }
