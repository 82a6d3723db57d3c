"""How alike a text is to a sample of the pretraining text, on equal counts of chunks. Called by
`report.collect_similarity`.

The sample is parted into two random halves by documents. The first is the reference for every text; the second is
measured like a text of its own, and says what each number is where there is nothing to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from peftodyssey.stats import overlap
from peftodyssey.stats.frechet import frechet
from peftodyssey.stats.mmd import median_distance, mmd


class Measure(NamedTuple):
    """How a column of `similarity.parquet` is called, its unit, and whether more of it is more alike (1) or less (-1)."""

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


@dataclass(frozen=True)
class Sample:
    """Chunks of one text, in random order: their mean hidden states, ids and documents."""

    hidden: np.ndarray  # float32 [chunks, width]
    token: np.ndarray  # int [chunks, chunk_tokens]
    document: np.ndarray  # int [chunks]

    def __len__(self) -> int:
        return len(self.token)

    def first(self, chunks: int) -> Sample:
        """The first few, which are a sample as well."""
        return Sample(self.hidden[:chunks], self.token[:chunks], self.document[:chunks])


@dataclass(frozen=True)
class Reference:
    """What every text is compared with: the first half of the sample, with a kernel made of it alone."""

    sample: Sample
    bandwidth: float  # of the kernel: the same for all texts of a model, so that they can be compared
    frechet_bias: float  # distance of the two halves, which should be 0


def reference(first: Sample, second: Sample) -> Reference:
    """The reference of both halves, which hold as many chunks."""
    assert len(first) == len(second)
    return Reference(first, median_distance(first.hidden), frechet(first.hidden, second.hidden))


def state_distances(
    text: Sample, held: Reference, *, seed: int = 0, permutations: int = 999
) -> dict[str, float | int | None]:
    """Distances of hidden states; `text` holds as many chunks as the reference. Keys are columns of
    `similarity.parquet`.
    """
    assert text.token.shape == held.sample.token.shape, "texts are compared on equal counts of chunks"
    found = mmd(
        text.hidden,
        held.sample.hidden,
        held.bandwidth,
        x_document=text.document,
        y_document=held.sample.document,
        permutations=permutations,
        seed=seed,
    )
    return {
        "mmd2": found.estimate,
        "mmd_p": found.p_value,
        "bandwidth": held.bandwidth,
        "frechet": frechet(text.hidden, held.sample.hidden),
        "frechet_bias": held.frechet_bias,
    }


def token_overlap(token_ct: np.ndarray, other_ct: np.ndarray, grams: overlap.NGrams) -> dict[str, float]:
    """What the text's chunks share with as many of the reference's, and with all n-grams of its half; [chunks, tokens]
    ids.
    """
    assert token_ct.shape == other_ct.shape, "texts are compared on equal counts of chunks"
    return {
        "js_bits": overlap.js_bits(*overlap.token_counts(token_ct, other_ct)),
        "ngram_overlap": overlap.ngram_overlap(token_ct, grams),
        "near_duplicate_share": overlap.near_duplicate_share(token_ct, grams),
    }
