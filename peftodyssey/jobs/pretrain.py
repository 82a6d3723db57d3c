"""Job: train a ladder phase by phase, each rung a folder that plain transformers loads. Called by `run.pretraining`.

    DIR/recipe.yaml  ladder.json  log.parquet   what was asked; the rungs and how each was made; the trunk's steps
    DIR/<rung>/                                 config.json, model.safetensors, tokenizer, manifest.json (written last)
    DIR/checkpoint/trunk, DIR/checkpoint/<rung> the training between two steps, until the ladder is whole

Killed at any instant and started again, the rungs have the bits of an unbroken training (same machine, CPU).
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
from peftodyssey.jobs.callbacks import Events, How
from peftodyssey.models.ladder_file import LADDER_FILE
from peftodyssey.plan.ladder import LadderPlan
from peftodyssey.recipe.identity import digest
from peftodyssey.store import atomic, layout, manifest, parquet, tables
from peftodyssey.training import pretrain as training
from peftodyssey.training.pretrain import PretrainSettings, Stream, Training
from peftodyssey.training.settings import StepRecord
from peftodyssey.training.small_llama import initial
from peftodyssey.training.wsd_phases import ANNEALED, TRUNK, Phase

INIT = "init"
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class Work:
    """One ladder being trained: what it is, where it goes, what it stands on."""

    plan: LadderPlan
    root: Path
    text: pretrain_text.Text
    training: Training
    belongs_to: str
    how: How
    events: Events

    def state(self, phase: Phase) -> Path:
        """Where the state between two steps of a phase lies."""
        return self.root / layout.CHECKPOINT / (TRUNK if phase.arm == TRUNK else phase.rung)


def pretrain(plan: LadderPlan, root: Path, how: How, events: Events) -> list[StepRecord]:
    """Train what of `plan` is missing below `root`; the records of the steps that this call did.

    Raises Interrupted where the user stops, InputError where `root` holds another ladder, TrainingError where the loss
    is not finite.
    """
    refuse_another(plan, root)
    atomic.write_text(root / layout.RECIPE, plan.recipe.source_text)
    if all(manifest.read(root / name) for name in (INIT, *(phase.rung for phase in plan.rungs))):
        write_ladder(plan, root)
        return []
    work = _work(plan, root, how, events)
    if manifest.read(root / INIT) is None:
        keep_rung(work, INIT, INIT, 0)
    done: list[StepRecord] = []
    trunk = _trunk_state(work)
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
    """InputError where `root` holds a ladder that was made otherwise."""
    path = root / LADDER_FILE
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")).get("identity") != digest(plan.identity):
        raise InputError(
            f"{root} holds a ladder of other settings, text or weights",
            "give this one a directory of its own with --out",
        )


def _work(plan: LadderPlan, root: Path, how: How, events: Events) -> Work:
    text = pretrain_text.text_of(plan, root)
    recipe, device = plan.recipe, torch.device(how.device)
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
    prepared = training.prepared(initial(plan.config, recipe.seed).to(device), stream, settings)
    belongs_to = digest({**plan.identity, "tokenizer": text.tokenizer.fingerprint})
    work = Work(plan, root, text, prepared, belongs_to, how, events)
    write_ladder(plan, root, work)
    return work


def _trunk_state(work: Work) -> list[StepRecord]:
    """The log of the trunk as it was saved, its weights put back; empty at the start."""
    log, why = training.restore(work.training, work.state(Phase(TRUNK, 0, 0)), work.belongs_to)
    if why:
        work.events.note(why)
    return log or []


def _train(work: Work, phase: Phase, log: list[StepRecord], done: list[StepRecord]) -> list[StepRecord]:
    """Train one phase to its end from where `log` stands, keep its rung and its state; returns its log."""
    steps, before = phase.stop, len(log)
    folder = work.state(phase)
    whole = training.run_phase(
        work.training,
        phase,
        log,
        checkpoint_every_s=work.how.checkpoint_every_s,
        should_stop=work.events.should_stop,
        on_step=lambda record: work.events.step(record, steps),
        save=partial(training.save, work.training, folder, work.belongs_to, log),
    )
    done += log[before:]
    if not whole:
        raise Interrupted(
            f"stopped after step {len(log):,} of {steps:,} of the {phase.arm} phase",
            "start the same command again, it goes on from there",
        )
    if phase.rung:
        keep_rung(work, phase.rung, phase.arm, phase.stop)
    if phase.arm == TRUNK:
        training.save(work.training, folder, work.belongs_to, log)
    return log


def _branch(work: Work, phase: Phase, trunk: list[StepRecord], done: list[StepRecord]) -> None:
    """Train one branch, from its own saved state or from the trunk's, and put the trunk back."""
    log, _ = training.restore(work.training, work.state(phase), work.belongs_to)
    assert log is not None or len(trunk) == phase.start, "a branch is trained when the trunk has come to it"
    _train(work, phase, list(trunk) if log is None else log, done)
    manifest.remove(work.state(phase))
    restored, _ = training.restore(work.training, work.state(Phase(TRUNK, 0, 0)), work.belongs_to)
    assert restored is not None, "the trunk was saved where the branch left it"


def keep_rung(work: Work, name: str, arm: str, steps: int) -> None:
    """Write the model as it stands as the rung `name`, and its losses on held-out text; the manifest is written last."""
    from safetensors.torch import save_file

    model, config = work.training.model, work.plan.config
    dtype = DTYPES[work.plan.recipe.rungs.save_as]
    weights = {key: p.detach().to(dtype) for key, p in model.named_parameters()}
    folder = manifest.prepare_dir(work.root / name)
    pretrain_text.copy_tokenizer(work.root, folder)
    told = {**config, **pretrain_text.ids_of(work.root, work.text.tokenizer)}
    atomic.write_text(folder / "config.json", json.dumps(told, indent=2) + "\n")
    with atomic.atomic_write(folder / "model.safetensors") as temporary:
        save_file(
            {key: tensor.cpu().contiguous() for key, tensor in weights.items()}, temporary, metadata={"format": "pt"}
        )
    manifest.commit(folder, {"kind": "rung", "entry": _entry(work, name, arm, steps, weights)})
    write_ladder(work.plan, work.root, work)


def _entry(work: Work, name: str, arm: str, steps: int, weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What ladder.json says of a rung."""
    recipe = work.plan.recipe
    entry: dict[str, Any] = {"name": name, "arm": arm, "tokens": steps * recipe.train.batch_tokens, "steps": steps}
    device = work.training.stream.tokens.device
    entry["validation_nll"] = {
        corpus: round(
            training.mean_nats(
                work.training.model,
                {key: w.float() for key, w in weights.items()},
                torch.from_numpy(row).to(device),
                recipe.train.seq_len,
                work.plan.precision,
            ),
            4,
        )
        for corpus, row in work.text.held_out.items()
    }
    return entry


def write_ladder(plan: LadderPlan, root: Path, work: Work | None = None) -> None:
    """ladder.json: how the ladder is made, and the rungs that are whole, by tokens."""
    recipe = plan.recipe
    names = (INIT, *(phase.rung for phase in plan.rungs))
    entries = [written["entry"] for written in (manifest.read(root / name) for name in names) if written]
    path = root / LADDER_FILE
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if work is not None:
        names_of_text = ", ".join(corpus.name for corpus in plan.texts)
        passes = max(phase.stop for phase in plan.phases) * recipe.train.batch_tokens / len(work.text.tokens)
        content["pretraining_text"] = (
            f"{work.text.documents:,} documents of {names_of_text}: {len(work.text.tokens):,} tokens, up to {passes:.1f} times"
        )
    content |= described(plan)
    content["rungs"] = sorted(entries, key=lambda entry: (entry["tokens"], entry["arm"]))
    atomic.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def described(plan: LadderPlan) -> dict[str, Any]:
    """What ladder.json says of the whole."""
    train, rungs = plan.recipe.train, plan.recipe.rungs
    return {
        "name": plan.recipe.name,
        "identity": digest(plan.identity),
        "parameters": plan.parameters,
        "tokens_per_step": train.batch_tokens,
        "sequence_length": train.seq_len,
        "peak_lr": train.peak_lr,
        "optimizer": f"AdamW{train.betas}, weight decay {train.weight_decay:g} on matrices, gradient clip {train.grad_clip:g}",
        "precision": f"{'bf16 autocast over fp32 weights' if plan.precision == 'bf16' else 'fp32'}; saved as {rungs.save_as}",
        "schedule": f"linear warm-up over {train.warmup_steps} steps, then constant (arm 'trunk'); arm 'annealed' leaves the trunk "
        f"for the last {rungs.decay:.0%} of its budget and decays linearly to 0",
        "initializer_std": plan.recipe.model.init_std,
        "validation": f"mean nats per token of the stored weights over blocks of {train.seq_len} tokens that run across documents",
    }
