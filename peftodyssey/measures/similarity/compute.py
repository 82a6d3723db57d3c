"""How similar a text is to a sample of the pretraining text, on equal numbers of chunks.

The sample is divided by documents into two random halves. The first is the reference for every text. The second is
compared with it like any other text, which gives each measure's floor: its value without a difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from peftodyssey.measures.similarity import overlap
from peftodyssey.measures.similarity.frechet import frechet
from peftodyssey.measures.similarity.mmd import median_distance, mmd


class Measure(NamedTuple):
    """Name and unit of a column of `similarity.parquet`; `sign` is 1 if larger means more similar, -1 if less."""

    name: str
    unit: str
    sign: int


MEASURES: dict[str, Measure] = {
    "mmd2": Measure("MMD²", "", -1),
    "frechet": Measure("Fréchet distance", "squared units of the states", -1),
    "js_bits": Measure("Jensen-Shannon divergence", "bits", -1),
    "ngram_overlap": Measure("n-gram overlap", "share", 1),
    "near_duplicate_share": Measure("near duplicates", "share", 1),
    "base_bpb": Measure("NLL of the base", "bits per byte", -1),
}

# Those that are correlated with degradation. Not the Fréchet distance, which is biased by the number of documents, and
# not the base's loss, of which the change is a part: noise in it alone would correlate the two.
CORRELATED = ("mmd2", "js_bits", "ngram_overlap", "near_duplicate_share")
PRIMARY = ("mmd2", "spearman", "pooled")  # measure, statistic and scope of the test that was named in advance


@dataclass(frozen=True)
class Sample:
    """Chunks of one text, in random order: their mean hidden states, token ids and documents."""

    hidden: np.ndarray  # float32 [chunks, width]
    token: np.ndarray  # int [chunks, chunk_tokens]
    document: np.ndarray  # int [chunks]

    def __len__(self) -> int:
        return len(self.token)

    def first(self, chunks: int) -> Sample:
        """The first few chunks, which are a sample as well."""
        return Sample(self.hidden[:chunks], self.token[:chunks], self.document[:chunks])


@dataclass(frozen=True)
class Reference:
    """The first half of the pretraining sample, with a kernel that depends on it alone."""

    sample: Sample
    bandwidth: float  # of the kernel: the same for all texts of a model, so that they can be compared
    frechet_bias: float  # distance of the two halves, which would be 0 without bias


def reference(first: Sample, second: Sample) -> Reference:
    """The reference from both halves, which have equally many chunks."""
    assert len(first) == len(second)
    return Reference(first, median_distance(first.hidden), frechet(first.hidden, second.hidden))


def state_distances(text: Sample, reference: Reference, *, permutations: int = 999) -> dict[str, float | int | None]:
    """Distances of hidden states by column of `similarity.parquet`; both have equally many chunks."""
    assert text.token.shape == reference.sample.token.shape, "texts are compared on equal numbers of chunks"
    discrepancy = mmd(
        text.hidden,
        reference.sample.hidden,
        reference.bandwidth,
        x_document=text.document,
        y_document=reference.sample.document,
        permutations=permutations,
    )
    return {
        "mmd2": discrepancy.estimate,
        "mmd_p": discrepancy.p_value,
        "bandwidth": reference.bandwidth,
        "frechet": frechet(text.hidden, reference.sample.hidden),
        "frechet_bias": reference.frechet_bias,
    }


def token_overlap(token_ct: np.ndarray, other_ct: np.ndarray, ngrams: overlap.NGrams) -> dict[str, float]:
    """Overlap of the text's chunks with the reference's, and with all n-grams of its half; ids [chunks, tokens]."""
    assert token_ct.shape == other_ct.shape, "texts are compared on equal numbers of chunks"
    return {
        "js_bits": overlap.js_bits(*overlap.token_counts(token_ct, other_ct)),
        "ngram_overlap": overlap.ngram_overlap(token_ct, ngrams),
        "near_duplicate_share": overlap.near_duplicate_share(token_ct, ngrams),
    }
