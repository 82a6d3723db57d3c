"""What a training step allocates in a family that the simulator does not know: the step itself, run without numbers.

The model is built of torch's fake tensors, which have sizes and no storage, and runs its forward and backward pass; a
dispatch mode counts the bytes that are alive. Two micro-batches give a line: every further block costs the same.
Grouped products of experts have no fake kernel in float32; theirs is stated here: an output, and gradients like the
inputs. The result is kept in the cache by config and settings.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from unittest import mock

from peftodyssey import assets
from peftodyssey.errors import ModelError
from peftodyssey.memory.step_spec import StepSpec
from peftodyssey.methods.targets import target_linears
from peftodyssey.model_shape import ModelShape

if TYPE_CHECKING:
    import torch

SCORED_ROW_TOKENS = 512  # tokens of a row of a traced scoring pass
TOKEN_BY_TOKEN = ("mamba", "falcon_mamba", "rwkv")  # their passes are loops over tokens, and slow to trace
FEW_TOKENS = 64
SCALED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")
IGNORED = ("micro_batch_size", "quant", "optimizer", "trainable", "multi_lora_size", "replays", "kept_copies", "device")


@dataclass(frozen=True)
class Trace:
    """Bytes at the peak of a pass beyond weights, adapters and optimiser states, and of the gradients it leaves."""

    peak_bytes: int
    gradient_bytes: int


def trace_step(shape: ModelShape, step: StepSpec, rank: int) -> Trace:
    """A forward and backward pass of the micro-batch of `step`; ModelError where the family cannot be traced.

    `rank`: of the adapters on the step's targets; 0 in full fine-tuning.
    """
    if shape.family in TOKEN_BY_TOKEN and step.seq_len > FEW_TOKENS:  # memory grows with tokens, however they lie
        short, long = (replace(step, seq_len=n, micro_batch_size=1) for n in (FEW_TOKENS // 2, FEW_TOKENS))
        first, last = trace_step(shape, short, rank), trace_step(shape, long, rank)
        rows = step.micro_batch_size * step.seq_len / (FEW_TOKENS // 2) - 1
        return Trace(first.peak_bytes + int((last.peak_bytes - first.peak_bytes) * rows), last.gradient_bytes)
    one, two = (_cached(shape, replace(step, micro_batch_size=n), rank, scoring=False) for n in (1, 2))
    more = (two.peak_bytes - one.peak_bytes) * (step.micro_batch_size - 1)
    return Trace(one.peak_bytes + more, one.gradient_bytes)


def trace_scoring(shape: ModelShape, step: StepSpec, tokens: int) -> int:
    """Bytes at the peak of a pass without gradients over `tokens` tokens, without logits."""
    row = min(FEW_TOKENS if shape.family in TOKEN_BY_TOKEN else SCORED_ROW_TOKENS, tokens, shape.positions)
    as_scored = replace(step, seq_len=row, gradient_checkpointing="none", accumulates=False)
    one = _cached(shape, replace(as_scored, micro_batch_size=1), 0, scoring=True)
    return one.peak_bytes * -(-tokens // row)


@lru_cache(maxsize=4096)
def _cached(shape: ModelShape, step: StepSpec, rank: int, scoring: bool) -> Trace:
    """The trace from the cache, or made and kept there."""
    import torch
    import transformers

    told = {key: value for key, value in asdict(step).items() if key not in IGNORED}
    told |= {"rows": step.micro_batch_size, "rank": rank, "scoring": scoring, "config": shape.traced_config}
    told |= {"versions": [2, torch.__version__, transformers.__version__]}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]
    file = assets.cache_folder() / "traces" / f"{digest}.json"
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Trace(**json.loads(file.read_text()))
    trace = _run(shape, step, rank, scoring)
    with contextlib.suppress(OSError):  # a cache that cannot be written costs time alone
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(asdict(trace)))
        os.replace(temporary, file)
    return trace


def _run(shape: ModelShape, step: StepSpec, rank: int, scoring: bool) -> Trace:
    from torch._subclasses.fake_tensor import FakeTensorMode

    from peftodyssey.models.log_filters import quiet

    _say_once(shape.family)
    try:
        with quiet(), _without_data(), FakeTensorMode(allow_non_fake_inputs=True):
            model = _model(shape, step, rank)
            return _scoring_pass(model, step) if scoring else _training_pass(model, step)
    except Exception as error:  # operators without fake kernels, and code that reads numbers: kinds differ by family
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise ModelError(
            f"the memory of family {shape.family!r} cannot be planned: a step without numbers ends in "
            f"{type(error).__name__}: {reason[:200]}",
            "`peftodyssey score` scores such models; please report the family",
        ) from error


@lru_cache(maxsize=64)
def _say_once(family: str) -> None:
    sys.stderr.write(
        f"  tracing a training step of family {family!r} to plan its memory (once; kept in the cache) ...\n"
    )


def _model(shape: ModelShape, step: StepSpec, rank: int) -> Any:
    """The model with its adapters, as `step` trains it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[step.precision]
    if step.full and step.master == "fp32":
        dtype = torch.float32
    config = AutoConfig.for_model(**json.loads(shape.traced_config))
    for key in [key for key in vars(config) if "drop" in key and isinstance(getattr(config, key), float)]:
        setattr(config, key, 0.0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.requires_grad_(step.full)
    model.config.use_cache = False
    if rank:
        from peft import LoraConfig, get_peft_model

        names = [m.name for m in target_linears(shape, None) if step.targets is None or m.leaf in step.targets]
        lora = LoraConfig(r=rank, target_modules=names, task_type="CAUSAL_LM")
        with mock.patch.object(torch.nn.Module, "to", lambda module, *args, **kwargs: module):  # all is in its place
            model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    return model.train()


def _training_pass(model: Any, step: StepSpec) -> Trace:
    import torch

    from peftodyssey.models import patching
    from peftodyssey.training.gradient_checkpointing import checkpointed_model
    from peftodyssey.training.loss import token_nll_sums

    compute = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(step.precision)
    native = step.engine == "native"
    labels = torch.zeros(step.micro_batch_size, step.seq_len, dtype=torch.long)
    inputs, head = _inputs(model, step), _backbone_and_head(model) if native else None
    patched = (
        patching.patch_model(model, compute, probe=False) if native else contextlib.nullcontext(compute is not None)
    )
    with patched as autocast, checkpointed_model(model, step.gradient_checkpointing), _Alive() as alive:
        for _ in range(2 if step.accumulates else 1):
            with torch.autocast("cpu", compute, enabled=bool(autocast and compute)):
                [nll] = token_nll_sums(model, head, inputs, [labels], [None], step.loss_chunk_bytes)
            nll.backward()
            del nll
        return Trace(alive.peak_bytes, sum(p.grad.nbytes for p in model.parameters() if p.grad is not None))


def _scoring_pass(model: Any, step: StepSpec) -> Trace:
    import torch

    parts = _backbone_and_head(model)
    with torch.no_grad(), _Alive() as alive:
        (parts[0] if parts else model)(**_inputs(model, replace(step, packed=False)))
    return Trace(alive.peak_bytes, 0)


def _inputs(model: Any, step: StepSpec) -> dict[str, Any]:
    """The inputs of a pass: with a mask of documents where the family takes one."""
    import torch

    from peftodyssey.models.packed_inputs import masked_inputs
    from peftodyssey.models.separate_documents import has_mixer

    rows, tokens = step.micro_batch_size, step.seq_len
    if not step.packed:
        return {"input_ids": torch.zeros(rows, tokens, dtype=torch.long), "use_cache": False}
    halves = (2 * rows, tokens // 2) if tokens % 2 == 0 else (rows, tokens)  # documents of half a block are planned for
    alone = {"input_ids": torch.zeros(halves, dtype=torch.long), "use_cache": False}
    if has_mixer(model):
        return alone
    zeros, positions = torch.zeros(rows, tokens, dtype=torch.long), torch.arange(tokens).expand(rows, tokens)
    with_mask = masked_inputs(model, zeros, positions, zeros)
    try:
        with torch.no_grad():
            model(**with_mask)
    except Exception:  # a family that takes no such mask: its documents pass in rows of their own
        return alone
    return with_mask


def _backbone_and_head(model: Any) -> Any:
    """As `lm_head.split_lm_head` finds them, by the config in place of numbers."""
    from torch import nn

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = base.config.get_text_config()
    head, backbone = base.get_output_embeddings(), base.base_model
    scaled = any(getattr(config, key, None) not in (None, 1, 1.0) for key in SCALED_LOGITS)
    return None if scaled or backbone is base or not isinstance(head, nn.Linear) else (backbone, head)


class _Alive:
    """Counts the bytes of storages that operators make in the body, until they are freed."""

    def __enter__(self) -> _Alive:
        from torch.utils._python_dispatch import TorchDispatchMode

        self.alive_bytes = self.peak_bytes = 0
        known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        outer = self

        class Mode(TorchDispatchMode):
            def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                result = operator(*args, **(kwargs or {}))
                for tensor in _tensors(result):
                    storage = tensor.untyped_storage()
                    if storage not in known:
                        known[storage] = storage.nbytes()
                        outer._add(known[storage])
                        weakref.finalize(storage, outer._add, -known[storage])
                return result

        self.mode = Mode()
        self.mode.__enter__()
        return self

    def _add(self, size_bytes: int) -> None:
        self.alive_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.alive_bytes)

    def __exit__(self, *raised: Any) -> None:
        self.mode.__exit__(*raised)


def _tensors(result: Any) -> Iterator[torch.Tensor]:
    import torch
    from torch.utils._pytree import tree_leaves

    return (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))


@contextlib.contextmanager
def _without_data() -> Iterator[None]:
    """In the body transformers does not look at numbers: rows are one document, and experts' products are stated."""
    from transformers import masking_utils
    from transformers.integrations import moe

    with (
        mock.patch.object(masking_utils, "find_packed_sequence_indices", return_value=None),
        mock.patch.object(moe, "_grouped_mm", _grouped_product),
    ):
        yield


def _grouped_product(rows: Any, weight: Any, offs: Any) -> Any:
    """The sizes of a grouped product (rows [s, i], weight [e, i, o]): its output, and what its gradients take."""
    import torch

    class Grouped(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, rows: Any, weight: Any) -> Any:
            ctx.save_for_backward(rows, weight)
            return rows.new_empty(rows.shape[0], weight.shape[2])

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            rows, weight = ctx.saved_tensors
            needed = ctx.needs_input_grad
            return tuple(torch.empty_like(t) if n else None for t, n in zip((rows, weight), needed, strict=True))

    return Grouped.apply(rows.to(weight.dtype), weight)
