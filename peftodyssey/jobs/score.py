"""Job: score one model, as it stands in memory, on one index and commit the column."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from peftodyssey.errors import ModelError, NotFinite
from peftodyssey.jobs.context import JobContext
from peftodyssey.jobs.index import opened
from peftodyssey.models import bin_conversion
from peftodyssey.models.broken_numbers import broken_numbers
from peftodyssey.plan.tasks import ScoreTask
from peftodyssey.scoring.nll import ScoreResult, mean_nats, score_adapters
from peftodyssey.scoring.sense import sense
from peftodyssey.scoring.settings import ScoreSettings
from peftodyssey.scoring.untrained_rows import untrained_rows
from peftodyssey.store import manifest, parquet

if TYPE_CHECKING:
    from torch import nn

    from peftodyssey.corpora.index import Index


def score_and_write(task: ScoreTask, model: nn.Module, prefix: int | None, context: JobContext) -> None:
    """Writes `nll.parquet` of `task`, row for row with its index."""
    commit(task, context.root, prefix, scored(task, model, prefix, context))


def score_base_and_write(task: ScoreTask, model: nn.Module, prefix: int | None, context: JobContext) -> None:
    """`score_and_write` of a base as it was loaded, with a note where it does not predict as trained weights do."""
    try:
        result = scored(task, model, prefix, context)
    except NotFinite as error:
        raise _broken_base(task, error) from error
    commit(task, context.root, prefix, result._replace(facts={**result.facts, **_sense(task, model, prefix, context)}))


def _broken_base(task: ScoreTask, error: NotFinite) -> ModelError:
    """The error that names the tensors of a base which are not finite, or says that its activations overflow."""
    name, precision = task.base.source.name, task.base.precision
    if broken := broken_numbers(task.base.source):
        return ModelError(
            f"{error.message}: weights of {name} are not finite: {broken}",
            "download or save the model again; where it was trained like that, take an earlier checkpoint",
        )
    wider = "fp32" if precision == "bf16" else "bf16 or fp32"
    return ModelError(
        f"{error.message}: the stored weights of {name} are all finite, so its activations overflow in {precision}",
        f"score it in {wider}, or look for layers whose weights are far too large"
        if precision != "fp32"
        else "look for layers whose weights are far too large: float32 does not hold what they compute",
    )


def _sense(task: ScoreTask, model: nn.Module, prefix: int | None, context: JobContext) -> dict[str, object]:
    """Facts for the manifest: the comparison with the model's own average, or why it was not made."""
    source = task.base.source
    if source.kind == "random" or source.pretrain_tokens == 0:
        return {"sense": "not asked of initial weights"}
    if task.base.quant:
        return {"sense": "asked of the unquantised base"}
    settings = ScoreSettings(context.options.device, precision=task.base.precision)
    index = opened(context.root / task.index)
    found, untrained = sense(model, index, settings, prefix), untrained_rows(model, index)
    if untrained.places:
        context.callbacks.note(
            f"{source.name} on {Path(task.index).name}: {untrained.places:,} tokens of the text have an embedding that "
            f"looks untrained (its norm is far from the others'): ids {', '.join(map(str, untrained.tokens[:5]))}"
        )
    if found.problem:
        context.callbacks.note(f"{source.name} on {Path(task.index).name}: {found.problem}")
    facts: dict[str, object] = {
        "sense": {**found._asdict(), "makes_sense": not found.problem, "problem": found.problem}
    }
    return {**facts, "untrained_tokens": untrained.places} if untrained.places else facts


def commit(task: ScoreTask, root: Path, prefix: int | None, result: ScoreResult) -> None:
    """Writes a scored column."""
    folder = manifest.prepare_dir(root / task.folder)
    parquet.write_nll(folder, result.nll_nats, result.rank)
    facts = {"nll_nats_mean": mean_nats(result.nll_nats), "prefix": prefix, **result.facts}
    if task.base.source.notes:
        facts["base_notes"] = list(task.base.source.notes)
    if task.base.source.pickled:
        facts["base_weights"] = bin_conversion.CONVERSION_NOTE
    manifest.commit(folder, {"kind": "score", "identity": task.identity, "status": "done", "facts": facts})


def scored(task: ScoreTask, model: nn.Module, prefix: int | None, context: JobContext) -> ScoreResult:
    """The column of `task`, not yet written; Interrupted where the user wants to stop."""
    return scored_adapters(task, 1, model, prefix, context)[0]


def scored_adapters(
    task: ScoreTask,
    num_adapters: int,
    model: nn.Module,
    prefix: int | None,
    context: JobContext,
    index: Index | None = None,
) -> list[ScoreResult]:
    """What `scored` gives for each of `num_adapters` adapters on `model`; `task` is the column of any of them.

    `index`: the text in place of the task's own.
    """
    index = opened(context.root / task.index) if index is None else index
    name = Path(task.index).name
    options = context.options
    results = score_adapters(
        model,
        num_adapters,
        index,
        task.settings,
        ScoreSettings(options.device, task.batch_tokens, options.resident_bytes, precision=task.base.precision),
        prefix=prefix,
        on_progress=context.scoring_progress(name, "scoring"),
    )
    facts = results[0].facts
    if facts.get("out_of_memory"):
        context.callbacks.note(
            f"scoring {name} ran out of memory; it continued with {facts['batch_tokens']:,} tokens a pass"
        )
    return results if index.trained.all() else [answers_only(result, index.trained) for result in results]


def answers_only(result: ScoreResult, answer: np.ndarray) -> ScoreResult:
    """The column without its prompts, where bool [rows] `answer` is False: they are context and not scored."""
    nll_nats, rank = np.where(answer, result.nll_nats, np.float32("nan")), np.where(answer, result.rank, np.int32(-1))
    return ScoreResult(nll_nats, rank, {**result.facts, "tokens": int((rank > 0).sum())})
