"""Packed sequences of `objective: sft`: each example, prompt and answer, lies whole in one sequence.

An answer that began a sequence without its prompt would be trained without context, so no example is split.
Sequences are filled best fit first, the longest example first; free positions are padding that no token sees. Which
examples share a sequence does not depend on the seed, the order of the sequences does.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftodyssey.corpora.index import Index
from peftodyssey.corpora.token_classes import SPECIAL
from peftodyssey.errors import CorpusError

IGNORE_INDEX = -100
MAX_NAMED = 3  # examples that a message names
Example = tuple[np.ndarray, np.ndarray]  # tokens with bos and eos [t + 1]; whether each is trained [t + 1]


@dataclass(frozen=True)
class SpecialTokens:
    """The tokens to add around every document."""

    bos: int | None
    eos: int | None
    from_template: bool = False  # the chat template has written all special tokens into the text; bos and eos are None


def pack_examples(
    index: Index, special: SpecialTokens, *, seq_len: int, too_long: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """input_ids, labels, position_ids and segment_ids, int32 [sequences, seq_len] each, of every example of `index`.

    An example is bos + tokens + eos (either left out where the text has it), trained where the index says so and at
    the eos. `too_long` is what to do with more than `seq_len` predictions: error, truncate (at the end) or drop.
    Raises CorpusError naming examples of which nothing is trained, which do not end, or which are too long.
    """
    assert too_long in ("error", "truncate", "drop"), too_long
    examples = [_example(index, number, special) for number in range(len(index.starts) - 1)]
    _refuse(
        index,
        [number for number, (_, trained) in enumerate(examples) if not trained[1:].any()],
        "no trainable token",
        "look at them with `peftodyssey check RECIPE --show 3`; give them an answer, or remove them",
    )
    _require_ends(index, special)
    fitting = _fit(index, examples, seq_len, too_long)
    return _fill(fitting, best_fit_decreasing([len(tokens) - 1 for tokens, _ in fitting], seq_len), seq_len)


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Which items share a bin of `capacity`: each goes where the least room is left, the longest first."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (positions left, bin), ascending
    for item in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        fit = bisect_left(room, (lengths[item], -1))
        left, number = room.pop(fit) if fit < len(room) else (capacity, len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(item)
        if left > lengths[item]:
            insort(room, (left - lengths[item], number))
    return bins


def _example(index: Index, number: int, special: SpecialTokens) -> Example:
    rows = slice(int(index.starts[number]), int(index.starts[number + 1]))
    tokens, trained = index.token[rows], index.trained[rows]
    front = [] if special.bos is None or (len(tokens) and tokens[0] == special.bos) else [special.bos]
    back = [] if special.eos is None or (len(tokens) and tokens[-1] == special.eos) else [special.eos]
    return (
        np.concatenate([front, tokens, back]).astype(np.int32),
        np.concatenate([np.zeros(len(front), bool), trained, np.full(len(back), trained.any())]),
    )


def _require_ends(index: Index, special: SpecialTokens) -> None:
    """Refuses answers without a trained end: the tokenizer's eos, or a special token that the template writes."""
    everything = range(len(index.starts) - 1)
    if special.from_template:
        next_step = (
            "let the chat template write eos_token, or another special token, inside {% generation %} after an answer"
        )
        endless = [number for number in everything if not _has_end(index, number)]
        _refuse(index, endless, "no end-of-text token at the end of the trained tokens", next_step)
    elif special.eos is None:
        next_step = "set eos_token in tokenizer_config.json: without one to add, an adapted model would not stop"
        _refuse(index, everything, "no end-of-text token", next_step)


def _has_end(index: Index, number: int) -> bool:
    """Whether a special token is trained at the end of the last answer, up to two tokens of white space after it."""
    rows = slice(int(index.starts[number]), int(index.starts[number + 1]))
    trained = np.flatnonzero(index.trained[rows])
    return bool(np.any(index.token_class[rows][trained[-3:]] == SPECIAL))


def _fit(index: Index, examples: Sequence[Example], seq_len: int, too_long: str) -> list[Example]:
    """The examples that fit a sequence, truncated or dropped as `too_long` says."""
    longer = [number for number, (tokens, _) in enumerate(examples) if len(tokens) - 1 > seq_len]
    advice = _advice(examples, len(longer))
    if too_long == "drop":
        fitting = [example for example in examples if len(example[0]) - 1 <= seq_len]
        if not fitting:
            raise CorpusError(f"not one of {len(examples):,} examples fits a sequence of {seq_len:,} tokens", advice)
        return fitting
    if too_long == "error":
        what = f"more tokens than train.seq_len, {seq_len:,}, so that their answers would be truncated"
        _refuse(index, longer, what, advice)
    unanswered = [number for number in longer if not examples[number][1][1 : seq_len + 1].any()]
    _refuse(index, unanswered, f"prompts that leave nothing of the answer within {seq_len:,} tokens", advice)
    return [(tokens[: seq_len + 1], trained[: seq_len + 1]) for tokens, trained in examples]


def _advice(examples: Sequence[Example], longer: int) -> str:
    longest = max(len(tokens) - 1 for tokens, _ in examples)
    return (
        f"set train.seq_len to {longest:,} or more to fit all of them; or set train.too_long: drop removes "
        f"{longer / len(examples):.1%} of the examples, truncate cuts their ends"
    )


def _refuse(index: Index, numbers: Sequence[int], what: str, next_step: str) -> None:
    """Raises CorpusError that names the first of the examples `numbers`, where there are any."""
    if not numbers:
        return
    named = list(numbers)[:MAX_NAMED]
    in_memory = index.folder is None
    ids = [f"example {n}" if in_memory else index.documents["id"][n].as_py() for n in named]
    more = f" and {len(numbers) - MAX_NAMED:,} more" if len(numbers) > MAX_NAMED else ""
    total = len(index.starts) - 1
    raise CorpusError(f"{len(numbers):,} of {total:,} examples have {what}: {', '.join(ids)}{more}", next_step)


def _fill(
    examples: Sequence[Example], bins: Sequence[Sequence[int]], seq_len: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    input_ids, position_ids, segment_ids = np.zeros((3, len(bins), seq_len), np.int32)
    labels = np.full((len(bins), seq_len), IGNORE_INDEX, np.int32)
    for row, numbers in enumerate(bins):
        begin = 0
        for segment, number in enumerate(numbers):
            tokens, trained = examples[number]
            here = slice(begin, begin + len(tokens) - 1)
            input_ids[row, here] = tokens[:-1]
            position_ids[row, here] = np.arange(len(tokens) - 1)
            segment_ids[row, here] = segment
            labels[row, here] = np.where(trained[1:], tokens[1:], IGNORE_INDEX)
            begin = here.stop
        segment_ids[row, begin:] = len(numbers)  # padding: a segment of its own
        position_ids[row, begin:] = np.arange(seq_len - begin)
    return input_ids, labels, position_ids, segment_ids
