"""Conversations under a chat template: transformers' own text, and every word of the assistant's."""

import json

import pytest

from peftodyssey import assets
from peftodyssey.corpora.chat import PLAIN_TEMPLATE, Chat, render_messages
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.index import build_index, read_index
from peftodyssey.corpora.newlines import with_newlines
from peftodyssey.corpora.source import check_objective, resolve
from peftodyssey.errors import CorpusError
from peftodyssey.recipe.cell import CorpusSpec

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi\n\nthere"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "It\nis 4 🎉."},
]
SPECIAL = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKED = (
    "{{ bos_token }}{%- for m in messages %}[{{ m.role }}] {% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content | trim }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}\n{% endfor %}"
)


@pytest.mark.parametrize("template", [CHATML, MARKED, PLAIN_TEMPLATE], ids=["chatml", "marked", "plain"])
def test_text_is_transformers_own_and_every_answer_is_a_span(template):
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, marks = render_jinja_template(
        [TALK], chat_template=template, return_assistant_tokens_mask=True, **SPECIAL
    )
    text, spans, _ = render_messages(TALK, Chat(template, SPECIAL), "x:1")
    assert text == rendered[0]
    if "generation" in template.replace("add_generation_prompt", ""):
        assert list(spans) == marks[0]
    answers = [text[start:end] for start, end in spans]
    end = "<|im_end|>\n" if template is CHATML else "<|endoftext|>"
    assert answers == ["Hello!" + end, "It\nis 4 🎉." + end]


@pytest.mark.parametrize("template", [MARKED, PLAIN_TEMPLATE], ids=["marked", "plain"])
def test_trained_tokens_are_transformers_mask_of_the_assistants(template, tmp_path):
    from transformers import PreTrainedTokenizerFast

    stock = PreTrainedTokenizerFast(tokenizer_file=str(assets.model_files("odyssey-3m") / "tokenizer.json"), **SPECIAL)
    theirs = stock.apply_chat_template(
        TALK, chat_template=template, return_dict=True, return_assistant_tokens_mask=True
    )

    class Ours:
        backend = stock.backend_tokenizer

    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    corpus = resolve(CorpusSpec("x", str(tmp_path / "a.jsonl")))
    build_index(documents(corpus, "all", Chat(template, SPECIAL)), Ours(), tmp_path / "index", parse_special=True)
    index = read_index(tmp_path / "index")
    assert index.token.tolist() == theirs["input_ids"]
    assert index.trained.astype(int).tolist() == theirs["assistant_masks"]
    assert 0 < index.trained.sum() < len(index.trained)


def test_answers_stay_answers_under_every_newline_policy(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": TALK}) + "\n")
    [document] = documents(resolve(CorpusSpec("x", str(tmp_path / "a.jsonl"))), "all", Chat(MARKED, SPECIAL))
    for policy, words in (("keep", "It\nis 4 🎉."), ("strip", "Itis 4 🎉."), ("collapse", "It\nis 4 🎉.")):
        changed = with_newlines(document, policy)
        assert [changed.text[a:b] for a, b in changed.answers] == ["Hello!<|endoftext|>", words + "<|endoftext|>"]
    assert "Hi\nthere" in changed.text


def test_prompts_and_completions_may_be_messages_themselves(tmp_path):
    row = {"prompt": TALK[:4], "completion": TALK[4:]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    corpus = resolve(CorpusSpec("x", str(tmp_path / "a.jsonl")))
    check_objective(corpus, "sft")
    [document] = documents(corpus, "all", Chat(MARKED, SPECIAL))
    assert [document.text[a:b] for a, b in document.answers] == ["It\nis 4 🎉.<|endoftext|>"]


REFUSED = [
    (TALK[:2], MARKED, "end with 'user'"),
    ([], MARKED, "end with 'nothing'"),
    ([{"role": "user"}], MARKED, "role and content"),
    (TALK, "{{ raise_exception('no') }}", "refuses this conversation: no"),
    (TALK, "{{ messages.append(1) }}", "refuses this conversation"),
    (TALK, "{{ messages | length }}", "differently once the answer follows"),
    (TALK, "{% generation %}{% endgeneration %}{{ messages | length }}", "marks no word of this conversation"),
]


@pytest.mark.parametrize(("messages", "template", "message"), REFUSED)
def test_conversations_that_cannot_be_rendered(messages, template, message):
    with pytest.raises(CorpusError, match=f"x:1: .*{message}"):
        render_messages(messages, Chat(template, SPECIAL), "x:1")


def test_a_conversation_without_a_template_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"x:1: the model has no chat template.*\n.*chat_template: plain"):
        render_messages(TALK, None, "x:1")


@pytest.mark.parametrize(
    "row", [{"messages": TALK}, {"prompt": TALK[:4], "completion": TALK[4:]}], ids=["messages", "dialogue"]
)
def test_a_hub_data_set_of_conversations(row, tmp_path):
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    corpus = resolve(CorpusSpec("x", f"hub:{tmp_path}"))
    assert corpus.row_schema.is_chat
    [document] = documents(corpus, "all", Chat(MARKED, SPECIAL))
    assert document.text[slice(*document.answers[-1])] == "It\nis 4 🎉.<|endoftext|>"
