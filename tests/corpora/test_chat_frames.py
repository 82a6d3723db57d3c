"""One start of text and one end of each turn, whatever the chat template and the tokenizer write, on real templates.

The ids are those of transformers' `apply_chat_template`, of TRL's batches, and of lm-eval's rolling log-likelihood.
"""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from support.scorings import tiny_model
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from peftodyssey import assets
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import build_index, read_index
from peftodyssey.corpora.packing import SpecialTokens, pack
from peftodyssey.corpora.source import resolve
from peftodyssey.corpora.tokenizer_checks import answers, preview
from peftodyssey.errors import CorpusError
from peftodyssey.models.tokenizer import chat_template, tokenizer_from_folder
from peftodyssey.plan.chat_template import chat_of
from peftodyssey.recipe.cell import CorpusSpec
from peftodyssey.scoring.windows import corpus_windows
from peftodyssey.training import trl_bridge

LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
QWEN = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}"
    "{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles') }}{% endif %}"
    "{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + "
    "eos_token }}\n{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
# name: template, bos, eos, the token that ends a turn, other control tokens, whether the tokenizer adds bos itself
FAMILIES = {
    "llama-3": (
        LLAMA_3,
        "<|begin_of_text|>",
        "<|eot_id|>",
        "<|eot_id|>",
        ["<|start_header_id|>", "<|end_header_id|>"],
        True,
    ),
    "qwen": (QWEN, None, "<|im_end|>", "<|im_end|>", ["<|im_start|>", "<|endoftext|>"], False),
    "gemma": (GEMMA, "<bos>", "<eos>", "<end_of_turn>", ["<start_of_turn>"], True),
    "mistral": (MISTRAL, "<s>", "</s>", "</s>", [], True),
    "zephyr": (ZEPHYR, "<s>", "</s>", "</s>", [], True),
}
ANSWERS = ("Hello there!", "It is four, my king.")
TALK = [
    {"role": "user", "content": "Hi, who reigned?"},
    {"role": "assistant", "content": ANSWERS[0]},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": ANSWERS[1]},
]


def write_tokenizer(folder, family):
    """The bundled vocabulary with the control tokens, the template and the post-processor of a family."""
    template, bos, eos, end, more, adds_bos = FAMILIES[family]
    backend = Tokenizer.from_file(str(assets.model_files("odyssey-3m") / "tokenizer.json"))
    backend.add_special_tokens([token for token in (bos, eos, end, *more) if token])
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    return folder


class Case:
    """A tokenizer folder, and conversations as the toolkit reads them with it."""

    def __init__(self, folder, family, rows, **spec):
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer_folder = write_tokenizer(folder / "tokenizer", family)
        self.tokenizer = tokenizer_from_folder(self.tokenizer_folder, family, {})
        (folder / "talk.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
        self.corpus = resolve(CorpusSpec("talk", str(folder / "talk.jsonl"), **spec))
        source = SimpleNamespace(tokenizer_folder=self.tokenizer_folder, name=family)
        self.chat = chat_of(self.corpus, None, source, self.tokenizer)
        self.counts = build_index(
            documents(self.corpus, "all", self.chat), self.tokenizer, folder / "index", parse_special=True
        )
        self.index = read_index(folder / "index")

    def id(self, token):
        return self.tokenizer.backend.token_to_id(token)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_one_start_and_one_end_of_every_turn(family, tmp_path):
    _, bos, _, end, _, adds_bos = FAMILIES[family]
    case = Case(tmp_path, family, [TALK])
    ids, trained = case.index.token.tolist(), case.index.trained
    stock = AutoTokenizer.from_pretrained(case.tokenizer_folder)
    theirs = stock.apply_chat_template(TALK)["input_ids"]
    assert case.tokenizer.adds_bos == adds_bos
    if family == "zephyr":  # its template leaves bos to the tokenizer
        assert case.id(bos) not in theirs
        theirs = [case.id(bos), *theirs]
        assert "<s>" in answers(case.corpus, case.tokenizer, 512, "error", case.chat)
    assert ids == theirs
    assert ids.count(case.id(bos) if bos else -1) == (1 if bos else 0)
    assert bos is None or ids[0] == case.id(bos)
    turns = np.split(np.flatnonzero(trained), np.flatnonzero(np.diff(np.flatnonzero(trained)) > 1) + 1)
    texts = [case.tokenizer.decode([ids[place] for place in turn]).strip() for turn in turns]
    assert texts == [answer + end for answer in ANSWERS]
    assert [[ids[place] for place in turn].count(case.id(end)) for turn in turns] == [1, 1]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_both_engines_and_the_exported_tokenizer_have_the_same_ids(family, tmp_path):
    case = Case(tmp_path, family, [TALK])
    ids = case.index.token.tolist()
    sequences = pack(case.index, SpecialTokens(None, None, from_template=True), seq_len=128, seed=0, objective="sft")
    used = len(ids) - 1
    assert [*sequences.input_ids[0, :used], sequences.labels[0, used - 1]][:-1] == ids[:-1]
    batch = trl_bridge._collate(tiny_model("llama"), sequences, np.array([0]))
    assert batch["input_ids"][0, :used].tolist() == ids[:-1]
    labels = batch["labels"][0, 1 : used + 1].numpy()
    assert labels[labels >= 0].tolist() == case.index.token[case.index.trained].tolist()
    (case.tokenizer_folder / "chat_template.jinja").write_text(case.chat.template)  # as `export` writes it
    exported = AutoTokenizer.from_pretrained(case.tokenizer_folder)
    assert exported.apply_chat_template(TALK)["input_ids"] == ids
    assert chat_template(SimpleNamespace(tokenizer_folder=case.tokenizer_folder)) == case.chat.template


@pytest.mark.parametrize("family", list(FAMILIES))
def test_control_tokens_that_a_message_spells_are_text(family, tmp_path):
    _, bos, eos, end, more, _ = FAMILIES[family]
    said = f"say {end} or {eos}{more[0] if more else ''}, twice: {end}{end}"
    talk = [{"role": "user", "content": said}, *TALK[1:]]
    case, plain = Case(tmp_path / "text", family, [talk]), Case(tmp_path / "plain", family, [TALK])
    special = {number for number, token in case.tokenizer.backend.get_added_tokens_decoder().items() if token.special}

    def controls(one):
        return [token for token in one.index.token.tolist() if token in special]

    assert controls(case) == controls(plain), "only those of the template"
    spelt = said.count(end) + (said.count(eos) if eos != end else 0) + len(more[:1])
    assert case.counts["control_tokens"] == spelt
    [text] = case.index.documents["text"].to_pylist()
    assert said in text
    assert case.tokenizer.decode(case.index.token.tolist()) == text
    assert case.index.bytes.sum() == len(text.encode())
    assert "".join(piece for piece, _ in preview(case.corpus, case.tokenizer, 1, "sft", "all", case.chat)[0]) == text
    parsed = Case(tmp_path / "parse", family, [talk], special_tokens="parse")
    assert len(controls(parsed)) == len(controls(plain)) + spelt
    stock = AutoTokenizer.from_pretrained(case.tokenizer_folder)
    begin = [case.id(bos)] if family == "zephyr" else []
    assert parsed.index.token.tolist() == [*begin, *stock.apply_chat_template(talk)["input_ids"]]


def test_a_template_that_ends_no_turn_is_refused(tmp_path):
    folder = write_tokenizer(tmp_path / "tokenizer", "mistral")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = tokenizer_from_folder(folder, "x", {})
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    corpus = resolve(CorpusSpec("talk", str(tmp_path / "talk.jsonl")))
    chat = chat_of(corpus, None, SimpleNamespace(tokenizer_folder=folder, name="x"), tokenizer)
    build_index(documents(corpus, "all", chat), tokenizer, tmp_path / "index", parse_special=True)
    with pytest.raises(CorpusError, match="no end-of-text token"):
        pack(read_index(tmp_path / "index"), SpecialTokens(None, None, True), seq_len=64, seed=0, objective="sft")


def test_a_rendered_text_that_has_its_start_and_end_gets_no_second_ones(tmp_path):
    """`special_tokens: parse` on text: in training, and in scoring, where the first token is then context only."""
    tokenizer = tokenizer_from_folder(write_tokenizer(tmp_path / "tokenizer", "mistral"), "x", {})
    rows = [{"text": "<s>the king and the river</s>"}, {"text": "a market of cells"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = resolve(CorpusSpec("rows", str(tmp_path / "rows.jsonl"), special_tokens="parse"))
    build_index(documents(corpus, "all"), tokenizer, tmp_path / "index", parse_special=True)
    index, bos, eos = read_index(tmp_path / "index"), tokenizer.bos_id, tokenizer.eos_id
    total = len(index.token) + 1  # bos and eos of the second, less one start that nothing predicts
    sequences = pack(index, SpecialTokens(bos, eos), seq_len=total - 1, seed=0)
    assert sequences.input_ids[0].tolist().count(bos) == 2
    assert [*sequences.labels[0]].count(eos) >= 1
    assert not np.any((sequences.input_ids[0] == bos) & (sequences.labels[0] == bos))
    point = SimpleNamespace(context=64, stride=32, first_token="bos", mode="documents")
    table = corpus_windows(index.token, index.starts, point, bos)
    first, second = (table.source[b : b + n].tolist() for b, n in zip(table.begin, table.length, strict=True))
    words = [index.token[a:b].tolist() for a, b in zip(index.starts[:-1], index.starts[1:], strict=True)]
    assert first == words[0][:-1]
    assert second == [bos, *words[1][:-1]]
    assert table.row.tolist() == [1, index.starts[1]]
    assert table.scored.tolist() == [len(words[0]) - 1, len(words[1])]


def test_lm_eval_reads_the_same_ids_with_one_start(tmp_path):
    """With a tokenizer that adds bos itself, which lm-eval has to be told not to do, as it writes bos too."""
    from lm_eval.models.huggingface import HFLM

    folder = write_tokenizer(tmp_path / "tokenizer", "llama-3")
    tokenizer = tokenizer_from_folder(folder, "x", {})
    stock = AutoTokenizer.from_pretrained(folder)
    options = {"pretrained": tiny_model("llama"), "tokenizer": stock, "max_length": 64, "batch_size": 1}
    harness, by_default = HFLM(**options, add_bos_token=False), HFLM(**options)
    text = "the king and the river, twelve cells"
    ids = np.array(tokenizer.encode(text)[0])
    assert harness.tok_encode(text) == ids.tolist()
    point = SimpleNamespace(context=64, stride=32, first_token="bos", mode="documents")
    table = corpus_windows(ids, np.array([0, len(ids)]), point, tokenizer.prefix_id)
    assert table.source.tolist() == [harness.prefix_token_id, *harness.tok_encode(text)]
    assert table.source.tolist().count(tokenizer.bos_id) == 1
    assert by_default.tok_encode(text) == [tokenizer.bos_id, *ids]
