"""The text of a ladder as one row of tokens, and its tokenizer: made once, then read from disk."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from peftodyssey.corpora import newlines
from peftodyssey.corpora.documents import documents
from peftodyssey.corpora.source import Corpus
from peftodyssey.errors import CorpusError
from peftodyssey.models.tokenizer import TextTokenizer, tokenizer_from_folder, train_bpe
from peftodyssey.plan.ladder import LadderPlan
from peftodyssey.recipe.identity import digest
from peftodyssey.store import atomic, manifest

TOKENIZER, STREAM = "tokenizer", "text"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
)
BATCH_DOCUMENTS = 256
HELD_OUT_TOKENS = 200_000  # of each held-out text


@dataclass(frozen=True)
class Text:
    """What a ladder is trained and evaluated on, in tokens."""

    tokenizer: TextTokenizer
    tokens: np.ndarray  # int32 [n], each document after the token that begins one
    documents: int
    held_out: dict[str, np.ndarray]  # by the text's name


def text_of(plan: LadderPlan, root: Path) -> Text:
    """Tokenizer and tokens of the plan's texts, from `root` where an earlier start has finished them."""
    tokenizer = _tokenizer(plan, root / TOKENIZER)
    identity = {"identity": plan.identity["text"], "seed": plan.recipe.seed, "tokenizer": tokenizer.fingerprint}
    written = manifest.read(root / STREAM)
    if written is None or written.get("made_of") != digest(identity):
        written = _write_stream(plan, tokenizer, manifest.prepare_dir(root / STREAM), digest(identity))
    from safetensors.numpy import load_file

    tokens = load_file(root / STREAM / "tokens.safetensors")["tokens"].astype(np.int32)
    if len(tokens) <= plan.recipe.train.seq_len:
        raise CorpusError(
            f"the text has {len(tokens):,} tokens, less than one sequence of {plan.recipe.train.seq_len:,}",
            "add text, or set train.seq_len lower",
        )
    held_out = {corpus.name: _held_out(corpus, tokenizer) for corpus in plan.held_out}
    short = [name for name, row in held_out.items() if len(row) <= plan.recipe.train.seq_len]
    if short:
        raise CorpusError(f"the held-out text {short[0]} has less than one sequence of tokens", "name a longer one")
    return Text(tokenizer, tokens, int(written["documents"]), held_out)


def _tokenizer(plan: LadderPlan, folder: Path) -> TextTokenizer:
    """The tokenizer in `folder`, which is trained or copied there if need be."""
    if manifest.read(folder) is None:
        manifest.prepare_dir(folder)
        if plan.tokenizer is None:
            texts = (text for corpus in plan.texts for text in _texts(corpus, training_split(corpus)))
            size = train_bpe(texts, plan.recipe.model.vocabulary, folder, plan.recipe.model.positions)
        else:
            size = plan.recipe.model.vocabulary
            assert plan.tokenizer.tokenizer_folder is not None
            for file in (plan.tokenizer.tokenizer_folder / name for name in TOKENIZER_FILES):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
        manifest.commit(folder, {"kind": "tokenizer", "tokens": size, "from": plan.recipe.tokenizer})
    return tokenizer_from_folder(folder, plan.recipe.name, plan.config)


def training_split(corpus: Corpus) -> str:
    """`train` where the source or the recipe splits the text; else all of it."""
    return "train" if corpus.spec.split or set(corpus.source_splits) - {"train"} else "all"


def held_out_split(corpus: Corpus) -> str:
    """`test` where there is such a split; else all of the text."""
    return "test" if "test" in corpus.source_splits or "test" in corpus.spec.split else "all"


def _texts(corpus: Corpus, split: str) -> Iterator[str]:
    policy = newlines.policy_of(corpus.spec.newline, "train" if split == "all" else split)
    return (newlines.apply(document.text, policy) for document in documents(corpus, split))


def _encoded(texts: Iterable[str], tokenizer: TextTokenizer) -> Iterator[np.ndarray]:
    """int32 tokens of each document, after the token that begins one where the tokenizer has it."""
    first = [] if tokenizer.prefix_id is None else [tokenizer.prefix_id]
    remaining = iter(texts)
    while batch := list(islice(remaining, BATCH_DOCUMENTS)):
        for encoding in tokenizer.backend.encode_batch(batch, add_special_tokens=False):
            yield np.array([*first, *encoding.ids], dtype=np.int32)


def _write_stream(plan: LadderPlan, tokenizer: TextTokenizer, folder: Path, made_of: str) -> dict[str, Any]:
    """Writes every document of every text end to end, shuffled by the seed."""
    from safetensors.numpy import save_file

    rows = [row for corpus in plan.texts for row in _encoded(_texts(corpus, training_split(corpus)), tokenizer)]
    if not rows:
        raise CorpusError("the text has no documents", "name a text that has some")
    shuffled = np.random.default_rng(plan.recipe.seed).permutation(len(rows))
    tokens = np.concatenate([rows[number] for number in shuffled])
    dtype = np.uint16 if plan.recipe.model.vocabulary <= 1 << 16 else np.int32
    with atomic.atomic_write(folder / "tokens.safetensors") as temporary:
        save_file({"tokens": tokens.astype(dtype)}, temporary)
    return manifest.commit(
        folder, {"kind": "stream", "made_of": made_of, "documents": len(rows), "tokens": len(tokens)}
    )


def _held_out(corpus: Corpus, tokenizer: TextTokenizer) -> np.ndarray:
    """The first documents of a held-out text, at least `HELD_OUT_TOKENS` tokens where it has so many."""
    rows: list[np.ndarray] = []
    for row in _encoded(_texts(corpus, held_out_split(corpus)), tokenizer):
        rows.append(row)
        if sum(map(len, rows)) >= HELD_OUT_TOKENS:
            break
    return np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)


def copy_tokenizer(root: Path, folder: Path) -> None:
    """Copies the ladder's tokenizer to the folder of a rung."""
    for file in (root / TOKENIZER / name for name in TOKENIZER_FILES):
        if file.is_file():
            shutil.copyfile(file, folder / file.name)


def special_ids(tokenizer: TextTokenizer) -> dict[str, int]:
    """bos, eos and pad for config.json, those that the tokenizer has."""
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    return {name: int(token) for name, token in ids.items() if token is not None}
