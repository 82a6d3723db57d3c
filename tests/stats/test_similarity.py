"""Distances against closed forms, brute force and the uniform law of p-values; chunks against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, spatial, stats

from peftodyssey.measures.similarity import chunk_sampling, overlap
from peftodyssey.measures.similarity.compute import Sample, reference, state_distances, token_overlap
from peftodyssey.measures.similarity.frechet import frechet, shrinkage
from peftodyssey.measures.similarity.mmd import median_distance, mmd, squared_distances

SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def gaussian_mmd2(shift: float, width: int, bandwidth: float) -> float:
    """Of N(0, I) and N(a, I) with |a| = shift: expectations of a Gaussian kernel over Gaussian differences."""
    b = bandwidth**2
    alike = (b / (b + 2)) ** (width / 2)
    return 2 * alike * (1 - np.exp(-(shift**2) / (2 * (b + 2))))


def test_mmd_of_gaussians_is_the_closed_form() -> None:
    rng = np.random.default_rng(0)
    width, bandwidth, n = 8, 4.0, 60
    for shift in (0.0, 0.5, 2.0):
        move = np.full(width, shift / np.sqrt(width))
        found = [
            mmd(rng.normal(size=(n, width)), rng.normal(size=(n, width)) + move, bandwidth, permutations=1).estimate
            for _ in range(150)
        ]
        error = np.std(found) / np.sqrt(len(found))
        assert abs(np.mean(found) - gaussian_mmd2(shift, width, bandwidth)) < 4 * error
    assert min(found) > 0


def test_mmd_is_the_double_sum_and_the_median_heuristic_scipys() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(7, 3)) + 1
    assert squared_distances(x, y) == pytest.approx(spatial.distance.cdist(x, y, "sqeuclidean"), abs=1e-12)
    assert median_distance(x) == pytest.approx(np.median(spatial.distance.pdist(x)), abs=1e-12)
    k = {
        name: np.exp(-spatial.distance.cdist(a, b, "sqeuclidean") / 8)
        for name, a, b in (("xx", x, x), ("yy", y, y), ("xy", x, y))
    }
    by_hand = (k["xx"].sum() - 9) / 72 + (k["yy"].sum() - 7) / 42 - 2 * k["xy"].mean()
    assert mmd(x, y, 2.0).estimate == pytest.approx(by_hand, abs=1e-12)


def test_halves_of_one_sample_are_not_told_apart() -> None:
    rng = np.random.default_rng(2)
    pool = rng.standard_t(4, size=(160, 12)) @ rng.normal(size=(12, 12))
    p = []
    for split in range(100):
        order = rng.permutation(len(pool))
        x, y = pool[order[:80]], pool[order[80:]]
        p.append(mmd(x, y, median_distance(pool), permutations=199, seed=split).p_value)
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_documents_are_permuted_whole() -> None:
    """Chunks of a document are alike: as if they were independent, halves by documents would be told apart."""
    rng = np.random.default_rng(3)
    whole, single = [], []
    for split in range(60):
        means = np.repeat(rng.normal(size=(24, 6)), 5, axis=0)
        points, document = means + 0.3 * rng.normal(size=means.shape), np.repeat(np.arange(24), 5)
        x, y = points[:60], points[60:]
        whole.append(mmd(x, y, 3.0, x_document=document[:60], y_document=document[60:], permutations=99, seed=split))
        single.append(mmd(x, y, 3.0, permutations=99, seed=split))
    assert stats.kstest([m.p_value for m in whole], "uniform").pvalue > 0.01
    assert np.mean([m.p_value <= 0.05 for m in single]) > 0.5
    values = np.array([m.estimate for m in whole])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values)), "unbiased, pairs within a document left out"
    assert np.mean([m.estimate for m in single]) > 0


def test_too_few_documents_have_no_p() -> None:
    x = np.random.default_rng(4).normal(size=(20, 2))
    assert mmd(x, x, 1.0, x_document=np.repeat(range(4), 5)).p_value is None


def covariance(seed: int, width: int) -> np.ndarray:
    made = np.random.default_rng(seed).normal(size=(width, width))
    return made @ made.T / width + 0.2 * np.eye(width)


def test_frechet_of_gaussians_is_the_closed_form_within_the_bias_of_its_halves() -> None:
    rng, width, n = np.random.default_rng(5), 6, 400
    a, b, shift = covariance(1, width), covariance(2, width), np.full(width, 0.5)
    truth = shift @ shift + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    found, bias = [], []
    for _ in range(20):
        x, y, again = (rng.multivariate_normal(m, c, n) for m, c in ((0 * shift, a), (shift, b), (0 * shift, a)))
        found.append(frechet(x, y))
        bias.append(frechet(x, again))
    assert truth - 0.1 < np.mean(found) < truth + np.mean(bias) + 0.1
    assert 0 < np.mean(bias) < 0.1 * truth


@pytest.mark.parametrize(("n", "width"), [(30, 8), (12, 40)])
def test_frechet_is_the_formula_on_shrunk_covariances(n: int, width: int) -> None:
    """In the span of the samples alone the same as in the whole space, which is looked at here."""
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(n, width)), 2 * rng.normal(size=(n + 3, width)) + 1
    shrunk = []
    for sample in (x, y):
        s, m = np.cov(sample.T, bias=True), len(sample)
        squared, trace = np.trace(s @ s), np.trace(s)
        weight = min(1, ((1 - 2 / width) * squared + trace**2) / ((m + 1 - 2 / width) * (squared - trace**2 / width)))
        assert shrinkage(sample - sample.mean(0)) == pytest.approx(weight, rel=1e-9)
        shrunk.append((1 - weight) * s + weight * trace / width * np.eye(width))
    by_hand = np.square(x.mean(0) - y.mean(0)).sum() + np.trace(
        shrunk[0] + shrunk[1] - 2 * linalg.sqrtm(shrunk[0] @ shrunk[1]).real
    )
    assert frechet(x, y) == pytest.approx(by_hand, rel=1e-6)
    assert frechet(x, x) == pytest.approx(0, abs=1e-6)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=2, max_size=9))
def test_jensen_shannon_is_scipys(pairs) -> None:
    p, q = np.array(pairs).T
    if p.sum() and q.sum():
        assert overlap.js_bits(p, q) == pytest.approx(spatial.distance.jensenshannon(p, q, 2) ** 2, abs=1e-9)


def windows(token: list[int], starts: list[int], kept: list[bool], length: int) -> list[set]:
    """Every window of the reference, as a set of n-grams."""
    made = []
    for document, keep in enumerate(kept):
        own = token[starts[document] : starts[document + 1]]
        for begin in range(0, len(own), length // 2) if keep else ():
            piece = own[begin : begin + length]
            made.append({tuple(piece[i : i + overlap.N]) for i in range(len(piece) - overlap.N + 1)})
    return made


@settings(max_examples=60, deadline=None)
@given(st.data(), SIZES)
def test_ngrams_and_near_copies_are_those_of_sets(data, sizes) -> None:
    length = 10
    starts = [0, *np.cumsum(sizes).tolist()]
    kept = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    token = data.draw(st.lists(st.integers(0, 2), min_size=starts[-1], max_size=starts[-1]))
    chunk = data.draw(st.lists(st.integers(0, 2), min_size=length, max_size=length))
    held = overlap.ngrams(np.array(token), np.array(starts), np.array(kept))
    pieces = windows(token, starts, kept, length)
    documents = [token[a:b] for a, b, keep in zip(starts, starts[1:], kept, strict=False) if keep]
    all_grams = {tuple(own[i : i + overlap.N]) for own in documents for i in range(len(own) - overlap.N + 1)}
    own = [tuple(chunk[i : i + overlap.N]) for i in range(length - overlap.N + 1)]
    assert overlap.ngram_overlap(np.array([chunk]), held) == pytest.approx(np.mean([gram in all_grams for gram in own]))
    by_hand = max((len(piece & {*own}) / len(piece | {*own}) for piece in pieces), default=0.0)
    found = overlap.max_jaccard(np.array(chunk), held)
    assert found == pytest.approx(by_hand if by_hand >= overlap.NEAR_DUPLICATE else found)
    assert (found >= overlap.NEAR_DUPLICATE) == (by_hand >= overlap.NEAR_DUPLICATE)


def test_a_shifted_copy_is_near_and_new_text_is_not() -> None:
    rng = np.random.default_rng(7)
    text = rng.integers(0, 1000, 5000)
    held = overlap.ngrams(text, np.array([0, 5000]), np.array([True]))
    copies = np.stack([text[at : at + 64] for at in range(100, 2000, 77)])
    assert overlap.near_duplicate_share(copies, held) == 1
    assert overlap.near_duplicate_share(rng.integers(0, 1000, (20, 64)), held) == 0
    altered = copies.copy()
    altered[:, ::16] = 0
    assert overlap.near_duplicate_share(altered, held) < 0.5


@settings(deadline=None)
@given(SIZES, st.integers(1, 8), st.integers(0, 3))
def test_chunks_lie_whole_within_documents_and_never_on_each_other(sizes, length, seed) -> None:
    starts = np.concatenate([[0], np.cumsum(sizes)])
    rows = chunk_sampling.sample_chunks(starts, length, 10**6, seed)
    document = np.searchsorted(starts, rows, side="right") - 1
    assert len(rows) == sum(size // length for size in sizes)
    assert (rows + length <= starts[document + 1]).all()
    assert len(np.unique(rows[:, None] + np.arange(length))) == length * len(rows)
    assert chunk_sampling.sample_chunks(starts, length, 3, seed).tolist() == rows[:3].tolist(), (
        "the first few of more are a sample too"
    )
    half = chunk_sampling.random_half(starts, seed)
    kept = chunk_sampling.sample_chunks(starts, length, 10**6, seed, half)
    assert {*kept.tolist()} == {int(row) for row, number in zip(rows, document, strict=True) if half[number]}
    if len(sizes) > 1:
        assert half.any()
        assert not half.all()


def test_all_measures_agree_on_what_is_nearer() -> None:
    rng = np.random.default_rng(8)
    token = rng.zipf(1.3, 40_000) % 500
    starts = np.arange(0, 40_001, 200)

    def sample(shift: int, seed: int) -> Sample:
        rows = chunk_sampling.sample_chunks(starts, 32, 120, seed)
        ids = (chunk_sampling.chunk_ids(token, rows, 32) + shift) % 1000
        return Sample(
            np.stack([np.bincount(row, minlength=1000)[:60] for row in ids]).astype(np.float32),
            ids,
            np.arange(len(rows)),
        )

    held, all_grams = reference(sample(0, 0), sample(0, 1)), overlap.ngrams(token, starts, np.ones(200, bool))
    near, far = (
        state_distances(text, held) | token_overlap(text.token, held.sample.token, all_grams)
        for text in (sample(0, 2), sample(30, 2))
    )
    assert (near["mmd_p"] > 0.01, far["mmd_p"]) == (True, 0.001)
    assert near["mmd2"] < far["mmd2"]
    assert near["frechet"] < 2 * near["frechet_bias"] < far["frechet"]
    assert near["js_bits"] < far["js_bits"] <= 1
    assert near["ngram_overlap"] == near["near_duplicate_share"] == 1
    assert far["near_duplicate_share"] == 0
