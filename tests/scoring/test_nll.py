"""Law 1: each token is scored once, whatever the batches, equal to transformers' own logits and ranks."""

import numpy as np
import pytest
import torch
from support.scorings import PREFIX, index, plain_logits, plain_nll, point, tiny_model
from support.tiny import FAMILIES

from peftodyssey.errors import DoesNotFit, InputError, TrainingError
from peftodyssey.models import host_memory
from peftodyssey.scoring import nll as scoring
from peftodyssey.scoring.nll import mean_nats, score_index
from peftodyssey.scoring.settings import ScoreSettings

LENGTHS = (70, 1, 33, 3, 130, 32, 17, 64, 5, 90, 2, 31, 48, 7, 23, 11)
SPEC = point(32, 16)


def _score(model, texts, spec=SPEC, prefix=PREFIX, on_progress=None, **options):
    return score_index(model, texts, spec, ScoreSettings(**options), prefix=prefix, on_progress=on_progress)


def _texts(texts):
    return [texts.token[a:b].tolist() for a, b in zip(texts.starts[:-1], texts.starts[1:], strict=True)]


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_do_not_depend_on_batch_size_padding_or_packing(family):
    model, texts = tiny_model(family), index(*LENGTHS)
    plain = np.concatenate([plain_nll(model, text, 32, 16) for text in _texts(texts)])
    for tokens in (1, 16 * 32):
        for layout in ("padded", "packed"):
            got = _score(model, texts, batch_tokens=tokens, layout=layout)
            assert np.abs(got.nll_nats - plain).max() < 2e-5
            assert abs(mean_nats(got.nll_nats) - plain.mean(dtype=np.float64)) < 1e-6
            assert got.facts["tokens"] == len(texts.token) == np.isfinite(got.nll_nats).sum()


@pytest.mark.parametrize("family", ["gemma2", "gemma3_text"])
def test_windows_longer_than_the_sliding_attention_of_the_model(family):
    model, texts = tiny_model(family, sliding_window=8), index(*LENGTHS)
    plain = np.concatenate([plain_nll(model, text, 32, 16) for text in _texts(texts)])
    assert (
        np.abs(plain - np.concatenate([plain_nll(tiny_model(family), t, 32, 16) for t in _texts(texts)])).max() > 1e-3
    )
    for layout in ("padded", "packed"):
        got = _score(model, texts, layout=layout)
        assert np.abs(got.nll_nats - plain).max() < 2e-5
        assert abs(mean_nats(got.nll_nats) - plain.mean(dtype=np.float64)) < 1e-6


def test_ranks_are_those_of_a_full_sort():
    model, texts = tiny_model("llama"), index(40, 9)
    logits = torch.cat([plain_logits(model, text, 32, 16) for text in _texts(texts)]).numpy()
    order = np.argsort(-logits, axis=1, kind="stable")
    place = (order == texts.token[:, None]).argmax(1) + 1
    np.testing.assert_array_equal(_score(model, texts).rank, place)


def test_tied_logits_share_the_best_rank():
    nll, rank = scoring.nll_and_rank(torch.tensor([[1.0, 3.0, 1.0, 0.0]]).repeat(4, 1), torch.arange(4))
    assert rank.tolist() == [2, 1, 2, 4]
    assert nll.numpy() == pytest.approx(np.log(np.exp([1, 3, 1, 0]).sum()) - np.array([1, 3, 1, 0]), rel=1e-6)


@pytest.mark.parametrize(("mode", "unscored"), [("documents", [0, 40, 49, 50]), ("stream", [0])])
def test_skip_leaves_only_the_first_token_of_each_text_unscored(mode, unscored):
    texts = index(40, 9, 1, 33)
    got = _score(tiny_model("llama"), texts, point(16, 4, "skip", mode))
    assert np.flatnonzero(np.isnan(got.nll_nats)).tolist() == np.flatnonzero(got.rank == -1).tolist() == unscored
    assert mean_nats(got.nll_nats) == pytest.approx(np.nanmean(got.nll_nats.astype(np.float64)))


def test_skip_reads_no_prefix():
    model, texts = tiny_model("llama"), index(20)
    text = texts.token.tolist()
    logits = model.eval()(input_ids=torch.tensor([text])).logits[0, :-1]
    plain = torch.nn.functional.cross_entropy(logits, torch.tensor(text[1:]), reduction="none").detach().numpy()
    got = _score(model, texts, point(64, 64, "skip"), prefix=None)
    assert np.abs(got.nll_nats[1:] - plain).max() < 1e-5


def test_stream_joins_the_documents_and_scores_disjoint_windows():
    model, texts = tiny_model("llama"), index(40, 9, 21)
    plain = plain_nll(model, texts.token.tolist(), 16, 16)
    assert np.abs(_score(model, texts, point(16, 4, mode="stream")).nll_nats - plain).max() < 2e-5


def test_training_flags_and_gradients_survive_a_scoring_pass():
    model, texts = tiny_model("llama").train(), index(40, 9)
    model.model.layers[0].eval()
    flags = [module.training for module in model.modules()]
    _score(model, texts)
    assert [module.training for module in model.modules()] == flags
    model(input_ids=torch.tensor([_texts(texts)[0]]), use_cache=False).logits.sum().backward()


def test_dropout_is_off_while_scoring():
    texts = index(40, 9)
    noisy = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5, attn_pdrop=0.5).train()
    np.testing.assert_array_equal(_score(noisy, texts).nll_nats, _score(tiny_model("gpt2"), texts).nll_nats)


def test_a_batch_that_does_not_fit_is_halved_and_recorded(monkeypatch):
    model, texts = tiny_model("llama"), index(*LENGTHS)
    whole, real = _score(model, texts), scoring._score_batch

    def small_gpu(model, parts, current, *rest):
        if current.input_ids_bt.size > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(model, parts, current, *rest)

    monkeypatch.setattr(scoring, "_score_batch", small_gpu)
    got = _score(model, texts, batch_tokens=1000)
    assert np.abs(got.nll_nats - whole.nll_nats).max() < 2e-5
    assert got.facts["out_of_memory"] >= 3
    assert got.facts["batch_tokens"] <= 200
    monkeypatch.setattr(scoring, "_score_batch", lambda *a: (_ for _ in ()).throw(torch.OutOfMemoryError("no")))
    with pytest.raises(DoesNotFit, match="one window of 32 tokens"):
        _score(model, texts)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_host_memory_halves_batches_and_other_errors_do_not(monkeypatch, error):
    model, texts, real = tiny_model("llama"), index(*LENGTHS), scoring._score_batch
    whole = _score(model, texts, batch_tokens=1000)

    def small_host(model, parts, current, *rest):
        if current.input_ids_bt.size > 500:
            raise error
        return real(model, parts, current, *rest)

    monkeypatch.setattr(scoring, "_score_batch", small_host)
    got = _score(model, texts, batch_tokens=1000)
    assert np.abs(got.nll_nats - whole.nll_nats).max() < 2e-5
    assert (whole.facts["out_of_memory"], got.facts["out_of_memory"]) == (0, 1)
    monkeypatch.setattr(scoring, "_score_batch", lambda *a: (_ for _ in ()).throw(RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        _score(model, texts)


def test_a_memory_budget_is_kept_on_the_cpu():
    """Resident memory is measured for real, and 16384 tokens at a time exceed the budget."""
    model, texts = tiny_model("llama", intermediate_size=4096), index(*[64] * 256)
    whole = _score(model, texts, point(64, 32))
    host_memory.release_memory(torch.device("cpu"))
    got = _score(
        model, texts, point(64, 32), batch_tokens=16384, budget_bytes=host_memory.resident_bytes() + (192 << 20)
    )
    assert got.facts["out_of_memory"] >= 1
    assert 64 < got.facts["batch_tokens"] <= 8192
    assert np.abs(got.nll_nats - whole.nll_nats).max() < 2e-5
    with pytest.raises(DoesNotFit, match=r"one window of 64 tokens does not fit 0\.0\d+ GiB: .* resident") as raised:
        _score(model, texts, point(64, 32), budget_bytes=16 << 20)
    assert "--memory" in raised.value.next_step


def test_a_diverged_model_and_a_context_too_long_are_errors():
    model = tiny_model("llama")
    with pytest.raises(InputError, match=r"score\.context"):
        _score(model, index(5), point(model.config.max_position_embeddings + 1, 1))
    torch.nn.init.constant_(model.model.norm.weight, float("nan"))
    with pytest.raises(TrainingError, match="no finite likelihood to 5 of 5"):
        _score(model, index(5))


def test_progress_counts_up_to_every_token():
    seen = []
    _score(tiny_model("llama"), index(*LENGTHS), batch_tokens=64, on_progress=lambda *pair: seen.append(pair))
    assert seen[-1] == (sum(LENGTHS), sum(LENGTHS))
    assert seen == sorted(seen)
    assert len(seen) > 5


def test_an_empty_index_is_an_empty_column():
    got = _score(tiny_model("llama"), index())
    assert got.nll_nats.shape == got.rank.shape == (0,)
    assert np.isnan(mean_nats(got.nll_nats))
