"""Blocks of `objective: sft`: prompts with their answers, each whole in one block. Called by corpora.blocks.

An answer that began a block without its prompt would be learnt as if it came from nowhere, so no example is cut in two.
Blocks are filled best fit first, the longest example first; what stays free is padding that no token sees. Which
examples share a block does not depend on the seed, the order of the blocks does.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftodyssey.corpora.token_classes import SPECIAL
from peftodyssey.errors import CorpusError

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index

IGNORE_INDEX = -100
NAMED = 3  # examples that a message names
TOO_LONG = ("error", "truncate", "drop")
Example = tuple[np.ndarray, np.ndarray]  # framed tokens [t + 1]; whether each is learnt [t + 1]


def pack_examples(
    index: Index, *, seq_len: int, bos: int | None, eos: int | None, too_long: str, framed: bool
) -> tuple[np.ndarray, ...]:
    """input_ids, labels, position_ids and segments, int32 [blocks, seq_len] each, of every example of `index`.

    Each is bos + tokens + eos, each left out where the text has it, learnt where the index says so and at the eos.
    `framed`: the text is a rendered conversation, whose template wrote all special tokens. `too_long`: error | cut (at
    the end) | drop, for examples of more than `seq_len` predictions. Raises CorpusError naming examples of which
    nothing is learnt, which do not end, or which are too long.
    """
    assert too_long in TOO_LONG, too_long
    made = [_example(index, number, bos, eos) for number in range(len(index.starts) - 1)]
    empty = [n for n, (_, learnt) in enumerate(made) if not learnt[1:].any()]
    _refuse(
        index,
        empty,
        "no trainable token",
        "look at them with `peftodyssey check RECIPE --show 3`; give them an answer, or remove them",
    )
    _require_ends(index, eos, framed)
    kept = _whole(index, made, seq_len, too_long)
    return _filled(kept, _bins([len(tokens) - 1 for tokens, _ in kept], seq_len), seq_len)


def _example(index: Index, number: int, bos: int | None, eos: int | None) -> Example:
    rows = slice(int(index.starts[number]), int(index.starts[number + 1]))
    tokens, learnt = index.token[rows], index.trained[rows]
    front = [] if bos is None or (len(tokens) and tokens[0] == bos) else [bos]
    back = [] if eos is None or (len(tokens) and tokens[-1] == eos) else [eos]
    return (
        np.concatenate([front, tokens, back]).astype(np.int32),
        np.concatenate([np.zeros(len(front), bool), learnt, np.full(len(back), learnt.any())]),
    )


def _require_ends(index: Index, eos: int | None, framed: bool) -> None:
    """Every answer must be followed by an end that is learnt: the tokenizer's, or a special token that the template
    writes.
    """
    if not framed and eos is None:
        next_step = "the tokenizer has no eos_token to add, so an adapted model would not stop: name one in tokenizer_config.json"
        _refuse(index, range(len(index.starts) - 1), "no end-of-text token", next_step)
    if framed:
        lacking = [n for n in range(len(index.starts) - 1) if not _ends(index, n)]
        next_step = "let the chat template write eos_token (or another special token) at the end of an answer, inside {% generation %}"
        _refuse(index, lacking, "no end-of-text token at the end of what is learnt", next_step)


def _ends(index: Index, number: int) -> bool:
    """Whether a special token is learnt at the end of the last answer, white space behind it aside."""
    rows = slice(int(index.starts[number]), int(index.starts[number + 1]))
    learnt = np.flatnonzero(index.trained[rows])
    return bool(np.any(index.token_class[rows][learnt[-3:]] == SPECIAL))


def _whole(index: Index, made: Sequence[Example], seq_len: int, too_long: str) -> list[Example]:
    """The examples as they fit a block."""
    long = [n for n, (tokens, _) in enumerate(made) if len(tokens) - 1 > seq_len]
    if not long or too_long == "drop":
        kept = [example for n, example in enumerate(made) if n not in set(long)]
        if not kept:
            raise CorpusError(
                f"not one of {len(made):,} examples fits a block of {seq_len:,} tokens", _longer(made, seq_len)
            )
        return kept
    if too_long == "error":
        _refuse(
            index,
            long,
            f"more tokens than train.seq_len, {seq_len:,}, so that their answers would be cut",
            _longer(made, seq_len),
        )
    eaten = [n for n in long if not made[n][1][1 : seq_len + 1].any()]
    _refuse(index, eaten, f"prompts that leave nothing of the answer within {seq_len:,} tokens", _longer(made, seq_len))
    return [(tokens[: seq_len + 1], learnt[: seq_len + 1]) for tokens, learnt in made]


def _longer(made: Sequence[Example], seq_len: int) -> str:
    longest = max(len(tokens) - 1 for tokens, _ in made)
    share = sum(len(tokens) - 1 > seq_len for tokens, _ in made) / len(made)
    return (
        f"set train.seq_len to {longest:,} or more, which holds all; or train.too_long: drop leaves {share:.1%} of the examples "
        "out, cut takes off their ends"
    )


def _refuse(index: Index, numbers: Sequence[int], what: str, next_step: str) -> None:
    """Raises CorpusError that names the first of the examples `numbers`, where there are any."""
    if len(numbers):
        ids = _names(index, list(numbers)[:NAMED])
        more = f" and {len(numbers) - NAMED:,} more" if len(numbers) > NAMED else ""
        total = len(index.starts) - 1
        raise CorpusError(f"{len(numbers):,} of {total:,} examples have {what}: {', '.join(ids)}{more}", next_step)


def _names(index: Index, numbers: Sequence[int]) -> list[str]:
    if index.folder is None:  # made in memory
        return [f"example {number}" for number in numbers]
    ids = index.documents["id"]
    return [ids[number].as_py() for number in numbers]


def _bins(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which examples share a block: each goes where least stays free, the longest first."""
    bins: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (places left, block), ascending
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        place = bisect_left(free, (lengths[number], -1))
        left, block = free.pop(place) if place < len(free) else (room, len(bins))
        if block == len(bins):
            bins.append([])
        bins[block].append(number)
        if left > lengths[number]:
            insort(free, (left - lengths[number], block))
    return bins


def _filled(examples: Sequence[Example], bins: Sequence[Sequence[int]], seq_len: int) -> tuple[np.ndarray, ...]:
    shape = (len(bins), seq_len)
    ids, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    labels = np.full(shape, IGNORE_INDEX, np.int32)
    for block, numbers in enumerate(bins):
        begin = 0
        for segment, number in enumerate(numbers):
            tokens, learnt = examples[number]
            here = slice(begin, begin + len(tokens) - 1)
            ids[block, here], positions[block, here], segments[block, here] = (
                tokens[:-1],
                np.arange(len(tokens) - 1),
                segment,
            )
            labels[block, here] = np.where(learnt[1:], tokens[1:], IGNORE_INDEX)
            begin = here.stop
        segments[block, begin:] = len(numbers)  # padding: a segment of its own
        positions[block, begin:] = np.arange(seq_len - begin)
    return ids, labels, positions, segments
