"""The packed sequences that training steps on: documents joined end to end and cut to one length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from peftodyssey.corpora.index import Index
from peftodyssey.corpora.sft_packing import IGNORE_INDEX, SpecialTokens, pack_examples
from peftodyssey.errors import CorpusError


@dataclass(frozen=True)
class PackedSequences:
    """Training text, int32 [sequences, seq_len] each. Documents of one sequence do not see each other."""

    input_ids: np.ndarray
    labels: np.ndarray  # already shifted: labels[s, i] is the target at position i; -100 where not trained
    position_ids: np.ndarray  # from 0 in each piece of a document
    segment_ids: np.ndarray  # number of the piece within its sequence, from 0
    replayed: int = 0  # how many of the sequences, the last ones, are replayed general text

    ARRAYS: ClassVar = ("input_ids", "labels", "position_ids", "segment_ids")

    @property
    def target_sequences(self) -> int:
        """Sequences of the text that is adapted to."""
        return len(self.labels) - self.replayed

    @property
    def trained_tokens(self) -> int:
        """Number of labels that are trained."""
        return int(np.count_nonzero(self.labels != IGNORE_INDEX))


def pack(
    index: Index,
    special: SpecialTokens,
    *,
    seq_len: int,
    seed: int,
    objective: str = "text",
    too_long: str = "error",
) -> PackedSequences:
    """Documents in an order shuffled by `seed`, each as bos + tokens with eos as its last target, cut every `seq_len`.

    A document that does not end in its sequence continues in the next one as a new piece; the rest that fills no
    sequence is dropped. Every token is a target. Under `sft` see `pack_examples`, which reads `too_long`.
    Raises CorpusError where there is less than one sequence.
    """
    if objective == "sft":
        return PackedSequences(*pack_examples(index, special, seq_len=seq_len, too_long=too_long))
    stream, position, lengths = _stream(index, special, seed)
    has_target = position < np.repeat(lengths, lengths) - 1
    sequences, tokens = divmod(int(np.count_nonzero(has_target)), seq_len)
    if sequences == 0:
        raise CorpusError(
            f"{len(lengths):,} training documents have {tokens:,} tokens, less than one sequence of {seq_len:,}",
            "add text, or set train.seq_len lower",
        )

    def cut(values: np.ndarray) -> np.ndarray:
        return values[: sequences * seq_len].reshape(sequences, seq_len)

    document = cut(np.repeat(np.arange(len(lengths)), lengths)[has_target])
    segment_ids, position_ids = _pieces(document, cut(position[has_target]))
    return PackedSequences(
        input_ids=cut(stream[has_target]).astype(np.int32),
        labels=cut(stream[position > 0]).astype(np.int32),
        position_ids=position_ids.astype(np.int32),
        segment_ids=segment_ids.astype(np.int32),
    )


def epoch_permutation(num_sequences: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [num_sequences]: the order in which one epoch visits the sequences."""
    return np.random.default_rng([seed, epoch]).permutation(num_sequences)


def _stream(index: Index, special: SpecialTokens, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All documents with bos and eos, end to end: tokens, positions in the document; lengths of the documents.

    One that has its bos or eos as a token already (`special_tokens: parse`) gets no second one.
    """
    shuffled = np.random.default_rng(seed).permutation(len(index.starts) - 1)
    tokens, first, last = np.diff(index.starts)[shuffled], index.starts[:-1][shuffled], index.starts[1:][shuffled] - 1
    front, back = _lacks(special.bos, index.token[first]), _lacks(special.eos, index.token[last])
    lengths = tokens + front + back
    position = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_bos = position < np.repeat(front, lengths)
    is_eos = position >= np.repeat(tokens + front, lengths)
    row = np.repeat(first - front, lengths) + position
    row = np.where(is_bos | is_eos, 0, row)
    stream = np.where(is_bos, special.bos or 0, np.where(is_eos, special.eos or 0, index.token[row]))
    return stream, position, lengths


def _lacks(special: int | None, token: np.ndarray) -> np.ndarray:
    """int [documents]: 1 where `special` has to be put beside `token`, 0 where it is that token or there is none."""
    return np.zeros(len(token), np.int64) if special is None else (token != special).astype(np.int64)


def _pieces(document: np.ndarray, position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(segment_ids, position_ids), each [sequences, seq_len]: both restart with a document and with a sequence."""
    changes = np.diff(document, axis=1, prepend=document[:, :1]) != 0
    segment_ids = np.cumsum(changes, axis=1)
    return segment_ids, np.where(segment_ids == 0, position - position[:, :1], position)
