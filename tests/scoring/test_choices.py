"""Likelihoods of choices: against transformers alone, whatever the batch, and against lm-eval's harness on real
prompts.
"""

import json
import math

import numpy as np
import pytest
import torch
from support.scorings import PREFIX, tiny_model

from peftodyssey import assets
from peftodyssey.corpora.multiple_choice import Request, questions, requests, resolve
from peftodyssey.errors import InputError
from peftodyssey.measures.multiple_choice import compute as measured
from peftodyssey.measures.multiple_choice.likelihoods import score_choices
from peftodyssey.recipe.cell import TaskSpec
from peftodyssey.scoring.settings import ScoreSettings


def drawn(seed=0, count=12):
    draw = np.random.default_rng(seed)
    return [
        Request(
            draw.integers(1, 200, draw.integers(1, 20)).tolist(), draw.integers(1, 200, draw.integers(1, 5)).tolist()
        )
        for _ in range(count)
    ]


def plain(model, request, prefix):
    """Summed log-likelihood of the choice, float64, by transformers' logits of this request alone."""
    ids = [*([] if prefix is None else [prefix]), *request.context, *request.choice]
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([ids[:-1]])).logits[0].double(), -1)
    return sum(float(log_p[place - 1, ids[place]]) for place in range(len(ids) - len(request.choice), len(ids)))


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("prefix", [PREFIX, None])
def test_sums_are_those_of_transformers_alone(family, prefix):
    model = tiny_model(family).eval()
    scores = score_choices(model, drawn(), ScoreSettings(batch_tokens=64), prefix=prefix)
    assert scores.loglik_nats == pytest.approx([plain(model, request, prefix) for request in drawn()], rel=1e-5)
    assert scores.tokens.tolist() == [len(request.choice) for request in drawn()]
    assert scores.facts["truncated"] == 0


def test_neither_batch_nor_neighbours_matter():
    model = tiny_model("llama").eval()
    whole = score_choices(model, drawn(), ScoreSettings(batch_tokens=4096), prefix=PREFIX).loglik_nats
    alone = [
        score_choices(model, [request], ScoreSettings(batch_tokens=1), prefix=PREFIX).loglik_nats[0]
        for request in drawn()
    ]
    assert whole == pytest.approx(alone, rel=1e-5)


def test_a_prompt_longer_than_the_model_loses_its_beginning_and_is_counted():
    model = tiny_model("llama", max_position_embeddings=16).eval()
    long = Request(list(range(1, 40)), [50, 51])
    scores = score_choices(model, [long, Request([1], [2])], ScoreSettings(), prefix=PREFIX)
    assert scores.facts["truncated"] == 1
    assert scores.loglik_nats[0] == pytest.approx(
        plain(model, Request(long.context[-15:], long.choice), None), rel=1e-5
    )
    with pytest.raises(InputError, match="nothing before it within 16 positions"):
        score_choices(model, [Request([1], list(range(1, 30)))], ScoreSettings(), prefix=PREFIX)
    with pytest.raises(InputError, match="first_token: bos"):
        score_choices(model, [Request([], [1, 2])], ScoreSettings(), prefix=None)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arxiv_field", "arc_easy"])
def test_accuracies_are_lm_evals_own(name, tmp_path):
    """lm-eval tokenises, scores and judges by itself: a task of its own kind on the same prompts."""
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    examples = questions(resolve(TaskSpec(name, f"bundled/{name}", examples=30)))
    rows = [{"prompt": q.prompt, "choices": [c.strip() for c in q.choices], "answer": q.answer} for q in examples]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = str(assets.model_files("odyssey-3m") / "tokenizer.json")
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=path, eos_token="<|endoftext|>", bos_token="<|endoftext|>")
    model = AutoModelForCausalLM.from_pretrained(
        assets.unpack_model("odyssey-3m", "annealed-1024M"), dtype=torch.float32
    )
    task = ConfigurableTask(
        config={
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{prompt}}",
            "doc_to_choice": "{{choices}}",
            "doc_to_target": "{{answer}}",
            "target_delimiter": " ",
            "metric_list": [
                {"metric": metric, "aggregation": "mean", "higher_is_better": True}
                for metric in ("acc", "acc_norm", "acc_bytes")
            ],
        }
    )
    harness = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    out = evaluate(lm=harness, task_dict={name: task}, bootstrap_iters=0, log_samples=True)
    theirs = out["results"][name]

    requests_of = [requests(question, tokenizer.backend_tokenizer) for question in examples]
    scores = score_choices(
        model.eval(), [r for of_example in requests_of for r in of_example], ScoreSettings(), prefix=None
    )
    samples = sorted(out["samples"][name], key=lambda sample: sample["doc_id"])
    assert scores.loglik_nats == pytest.approx([r[0] for sample in samples for r in sample["filtered_resps"]], rel=1e-4)
    example = np.repeat(np.arange(len(examples)), [len(q.choices) for q in examples])
    answer = np.array([number == q.answer for q in examples for number in range(len(q.choices))])
    length = np.array([n for q in examples for n in q.choice_bytes])
    right = measured.correct_answers(scores.loglik_nats, example, answer)
    normed = measured.correct_answers(measured.per_byte(scores.loglik_nats, length), example, answer)
    assert right.mean() == pytest.approx(theirs["acc,none"])
    assert normed.mean() == pytest.approx(theirs["acc_bytes,none"])
    if all(c.isascii() for q in examples for c in q.choices):
        assert normed.mean() == pytest.approx(theirs["acc_norm,none"])
    assert not math.isclose(right.mean(), 0)
