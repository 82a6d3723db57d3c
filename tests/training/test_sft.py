"""`objective: sft` against others: a plain float64 loop over transformers' logits, and TRL's SFTTrainer with its own
data path.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from peftodyssey import assets
from peftodyssey.corpora.chat import Chat
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import build_index, read_index
from peftodyssey.corpora.packing import SpecialTokens, pack
from peftodyssey.corpora.source import resolve
from peftodyssey.recipe.cell import CorpusSpec
from peftodyssey.training.loop import train
from peftodyssey.training.settings import TrainSettings
from peftodyssey.training.trl_bridge import train_trl

END = "<|endoftext|>"
EXAMPLES = 8
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
    "{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)
pytestmark = pytest.mark.slow


def tokenizer():
    path = assets.model_files("odyssey-3m") / "tokenizer.json"
    return PreTrainedTokenizerFast(
        tokenizer_file=str(path), bos_token=END, eos_token=END, pad_token=END, chat_template=TEMPLATE
    )


def base(dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(assets.unpack_model("odyssey-3m", "annealed-64M"), dtype=dtype)


def rows(kind):
    """Real prompts and completions; as conversations of two answers each."""
    name = "python_functions" if kind == "python_functions" else "gsm8k"
    with assets.open_corpus(name, "train") as stream:
        examples = [json.loads(line) for line, _ in zip(stream, range(40), strict=False)]
    examples = sorted(examples, key=lambda row: len(row["text"]))[:EXAMPLES]
    if kind != "chat":
        return [{key: row[key] for key in ("prompt", "completion")} for row in examples]
    pairs = [
        ({"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["completion"].strip()})
        for r in examples
    ]
    return [{"messages": [*pairs[i], *pairs[i - 1]]} for i in range(EXAMPLES)]


def ours(kind, folder):
    """The sequences that the toolkit trains on."""

    class Held:
        backend = tokenizer().backend_tokenizer

    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(kind)))
    corpus = resolve(CorpusSpec("x", str(folder / "rows.jsonl")))
    chat = Chat(TEMPLATE, {"bos_token": END, "eos_token": END})
    build_index(documents(corpus, "all", chat), Held(), folder / "index", parse_special=True)
    special = SpecialTokens(None, None, from_template=True) if kind == "chat" else SpecialTokens(0, 0)
    return pack(read_index(folder / "index"), special, seq_len=1024, seed=0, objective="sft")


def by_hand(kind):
    """Mean NLL of answers, float64: every example alone, its text and its mask made without the toolkit."""
    stock, model = tokenizer(), base(torch.float64)
    total, count = 0.0, 0
    for row in rows(kind):
        if kind == "chat":
            encoded = stock.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
            ids, learnt = encoded["input_ids"], encoded["assistant_masks"]
        else:
            prompt = stock(END + row["prompt"])["input_ids"]
            ids = stock(END + row["prompt"] + row["completion"] + END)["input_ids"]
            assert ids[: len(prompt)] == prompt
            learnt = [0] * len(prompt) + [1] * (len(ids) - len(prompt))
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0]
        for place in range(1, len(ids)):
            if learnt[place]:
                row_logits = logits[place - 1]
                total += float(torch.logsumexp(row_logits, 0) - row_logits[ids[place]])
                count += 1
    return total / count, count


def loss_of(engine, sequences):
    settings = TrainSettings(
        lr=1e-9, steps=1, batch_size=len(sequences.labels), micro_batch_size=1, schedule="constant", warmup=0.0, seed=0
    )
    model = base().requires_grad_(True).train()
    return engine(model, dict(model.named_parameters()), sequences, settings, device="cpu").log[0].loss_nats


def loss_of_trl(kind, folder):
    """The first loss of SFTTrainer, which tokenises, masks and batches by itself."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    if kind == "chat":
        data, option = rows(kind), {"assistant_only_loss": True}
    else:
        data, option = [{**row, "prompt": END + row["prompt"]} for row in rows(kind)], {"completion_only_loss": True}
    arguments = SFTConfig(
        output_dir=str(folder / "trl"),
        max_steps=1,
        per_device_train_batch_size=EXAMPLES,
        learning_rate=1e-9,
        logging_steps=1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        max_length=None,
        seed=0,
        gradient_checkpointing=False,
        **option,
    )
    trainer = SFTTrainer(
        model=base(), args=arguments, train_dataset=Dataset.from_list(data), processing_class=tokenizer()
    )
    trainer.train()
    return trainer.state.log_history[0]["loss"]


@pytest.mark.parametrize("kind", ["gsm8k", "python_functions", "chat"])
def test_the_loss_is_that_of_answers_by_hand_and_by_trl(kind, tmp_path):
    sequences = ours(kind, tmp_path)
    expected, count = by_hand(kind)
    assert sequences.trained_tokens == count
    assert 0 < count < np.count_nonzero(sequences.input_ids)
    assert loss_of(train, sequences) == pytest.approx(expected, rel=1e-5)
    assert loss_of(train_trl, sequences) == pytest.approx(expected, rel=1e-5)
    assert loss_of_trl(kind, tmp_path) == pytest.approx(expected, rel=1e-4)  # TRL logs four digits or so
