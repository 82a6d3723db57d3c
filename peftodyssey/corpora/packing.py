"""The blocks that training steps on: documents packed end to end and cut to one length. Called by jobs and both
engines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from peftodyssey.corpora.sft_packing import IGNORE_INDEX, pack_examples
from peftodyssey.errors import CorpusError

if TYPE_CHECKING:
    from peftodyssey.corpora.index import Index


@dataclass(frozen=True)
class PackedSequences:
    """Training text, int32 [blocks, seq_len] each. Documents of one block do not see each other (`segments`)."""

    input_ids: np.ndarray
    labels: np.ndarray  # already shifted: labels[b, i] is the target at position i; -100 where not trained
    position_ids: np.ndarray  # from 0 in each piece of a document
    segment_ids: np.ndarray  # number of the piece within its block, from 0
    replayed: int = 0  # how many of the blocks, the last ones, are general text beside the text that is adapted to

    ARRAYS: ClassVar = ("input_ids", "labels", "position_ids", "segment_ids")

    @property
    def target_sequences(self) -> int:
        """Blocks of the text that is adapted to."""
        return len(self.labels) - self.replayed

    @property
    def trained_tokens(self) -> int:
        """Labels that are trained."""
        return int(np.count_nonzero(self.labels != IGNORE_INDEX))


def pack(
    index: Index,
    *,
    seq_len: int,
    bos: int | None,
    eos: int | None,
    seed: int,
    objective: str = "text",
    too_long: str = "error",
    framed: bool = False,
) -> PackedSequences:
    """Documents in an order shuffled by `seed`, each as bos + tokens with eos as its last target, cut every `seq_len`.

    A document that does not end in its block goes on in the next one as a new piece; what is left at the very end and
    fills no block is dropped. Every token is a target. Under `sft` see `examples.pack_examples`, to which `too_long`
    and `framed` belong. Raises CorpusError where there is less than one block.
    """
    if objective == "sft":
        return PackedSequences(
            *pack_examples(index, seq_len=seq_len, bos=bos, eos=eos, too_long=too_long, framed=framed)
        )
    stream, within, lengths = _stream(index, bos, eos, seed)
    has_target = within < np.repeat(lengths, lengths) - 1
    is_target = within > 0
    blocks, tokens = divmod(int(np.count_nonzero(has_target)), seq_len)
    if blocks == 0:
        raise CorpusError(
            f"the training text has {tokens:,} tokens in {len(lengths):,} documents, less than one block of {seq_len:,}",
            "add text, or set train.seq_len lower",
        )

    def cut(values: np.ndarray) -> np.ndarray:
        return values[: blocks * seq_len].reshape(blocks, seq_len)

    labels = cut(stream[is_target])
    segments, positions = _pieces(cut(np.repeat(np.arange(len(lengths)), lengths)[has_target]), cut(within[has_target]))
    return PackedSequences(*(a.astype(np.int32) for a in (cut(stream[has_target]), labels, positions, segments)))


def epoch_permutation(num_sequences: int, seed: int, epoch: int) -> np.ndarray:
    """int64 [num_sequences]: the order in which one epoch visits the sequences."""
    return np.random.default_rng([seed, epoch]).permutation(num_sequences)


def _stream(index: Index, bos: int | None, eos: int | None, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All documents framed and end to end: tokens, place in the document; framed lengths."""
    front, back = int(bos is not None), int(eos is not None)
    shuffled = np.random.default_rng(seed).permutation(len(index.starts) - 1)
    tokens = np.diff(index.starts)[shuffled]
    lengths = tokens + front + back
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_bos = (within < front) if front else np.zeros(len(within), dtype=bool)
    is_eos = within >= np.repeat(tokens + front, lengths)
    row = np.repeat(index.starts[:-1][shuffled], lengths) + within - front
    row = np.where(is_bos | is_eos, 0, row)
    return np.where(is_bos, bos or 0, np.where(is_eos, eos or 0, index.token[row])), within, lengths


def _pieces(document: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(segments, positions), each [blocks, seq_len]: both begin anew with a document and with a block."""
    changes = np.diff(document, axis=1, prepend=document[:, :1]) != 0
    segments = np.cumsum(changes, axis=1)
    return segments, np.where(segments == 0, within - within[:, :1], within)
