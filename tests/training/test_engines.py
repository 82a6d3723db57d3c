"""Law 3: our loop, PEFT under a plain PyTorch loop and TRL's SFTTrainer end in the same place on the same
batches.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from support.trainings import all_trainable, random_model, sequences, with_lora

from peftodyssey.corpora.packing import epoch_permutation
from peftodyssey.training.loop import train
from peftodyssey.training.settings import TrainCallbacks, TrainSettings
from peftodyssey.training.trl_bridge import train_trl

SETTINGS = TrainSettings(
    lr=2e-2,
    steps=20,
    batch_size=4,
    micro_batch_size=2,
    schedule="cosine",
    warmup=0.2,
    grad_clip=0.5,
    weight_decay=0.1,
    seed=3,
)


def plain_loop(model, trainable, data, settings, dtype):
    """Stock pieces only: the model's own loss on documents cut apart, clip_grad_norm_, AdamW, LambdaLR
    from transformers.
    """
    from transformers import get_cosine_schedule_with_warmup

    optimizer = torch.optim.AdamW(trainable.values(), lr=settings.lr, weight_decay=settings.weight_decay, foreach=False)
    scheduler = get_cosine_schedule_with_warmup(optimizer, math.ceil(settings.warmup * settings.steps), settings.steps)
    losses, norms = [], []
    model.train()
    epoch, queue = 0, []
    for _ in range(settings.steps):
        while len(queue) < settings.batch_size:
            queue += list(epoch_permutation(len(data.labels), settings.seed, epoch))
            epoch += 1
        batch, queue = queue[: settings.batch_size], queue[settings.batch_size :]
        count = sum(int((data.labels[b] != -100).sum()) for b in batch)
        total = 0.0
        for b in batch:
            for segment in range(data.segment_ids[b].max() + 1):
                inside = data.segment_ids[b] == segment
                ids = torch.tensor(data.input_ids[b][inside], dtype=torch.long)[None]
                labels = torch.tensor(data.labels[b][inside], dtype=torch.long)
                logits = model(input_ids=ids).logits[0]
                loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / count
                loss.backward()
                total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_(list(trainable.values()), settings.grad_clip).item())
        losses.append(total)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return losses, norms


def distance(left, right) -> float:
    return max((left[name] - right[name]).abs().max().item() for name in left)


def trained(engine, dtype, settings=SETTINGS):
    model, trainable = with_lora(random_model(dtype=dtype))
    data = sequences(num_sequences=7, masked_share=0.1)
    if engine is plain_loop:
        losses, norms = plain_loop(model, trainable, data, settings, dtype)
    else:
        result = engine(model, trainable, data, settings, device="cpu")
        losses, norms = [r.loss_nats for r in result.log], [r.grad_norm for r in result.log]
    return losses, norms, {name: p.detach().clone() for name, p in trainable.items()}


@pytest.fixture(scope="module")
def ours():
    return trained(train, torch.float32)


@pytest.mark.parametrize("engine", [plain_loop, train_trl])
def test_lora_loss_curve_and_weights_are_those_of_other_loops(ours, engine):
    losses, norms, weights = trained(engine, torch.float32)
    assert losses == pytest.approx(ours[0], abs=1e-5)
    assert norms == pytest.approx(ours[1], rel=1e-4)
    assert distance(weights, ours[2]) < 1e-5
    assert losses[-1] < losses[0] - 0.05
    assert max(norms) > SETTINGS.grad_clip  # clipping was at work


def test_lora_equals_a_plain_loop_in_float64():
    ours64, plain = trained(train, torch.float64), trained(plain_loop, torch.float64)
    assert ours64[0] == pytest.approx(plain[0], rel=1e-10)
    assert distance(ours64[2], plain[2]) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["constant", "linear", "wsd"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_full_training_through_trl_ends_in_the_same_place(family, schedule):
    settings = TrainSettings(
        lr=1e-3, steps=10, batch_size=4, micro_batch_size=3, schedule=schedule, warmup=0.1, weight_decay=0.1
    )
    data, base = sequences(num_sequences=7), random_model(family)
    models = [copy.deepcopy(base), copy.deepcopy(base)]
    results = [
        run(model, all_trainable(model), data, settings, device="cpu")
        for run, model in zip((train, train_trl), models, strict=True)
    ]
    assert [r.loss_nats for r in results[1].log] == pytest.approx([r.loss_nats for r in results[0].log], abs=1e-5)
    assert [r.lr for r in results[1].log] == pytest.approx([r.lr for r in results[0].log], rel=1e-12)
    assert [r.tokens for r in results[1].log] == [r.tokens for r in results[0].log]
    assert results[1].memory_settings.micro_batch_size == 2
    # A bias on the keys cancels in the softmax: its gradient is rounding noise, which AdamW blows up.
    ours, theirs = ({n: p for n, p in m.named_parameters() if not n.endswith("c_attn.bias")} for m in models)
    assert distance(ours, theirs) < 1e-5


def test_trl_leaves_the_model_as_it_was_and_calls_back():
    model, trainable = with_lora(random_model())
    settings = TrainSettings(lr=1e-3, steps=4, batch_size=2, eval_at_steps=(2, 4))
    data, seen, evals = sequences(), [], []
    result = train_trl(
        model,
        trainable,
        data,
        settings,
        device="cpu",
        callbacks=TrainCallbacks(
            on_step=seen.append,
            on_eval=lambda *arguments: evals.append(arguments),
            should_stop=lambda: len(seen) == 3,
        ),
    )
    assert tuple(seen) == result.log
    assert len(seen) == 3
    assert result.interrupted
    assert evals == [(0, 2, 96)]
    assert all("forward" not in module.__dict__ for module in model.modules())
