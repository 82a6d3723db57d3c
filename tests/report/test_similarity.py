"""Correlations and sections from planted rows: who belongs together, what is said, and what is drawn."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from scipy import stats

from peftodyssey.measures.similarity import collect_correlation
from peftodyssey.measures.similarity import section as similarity
from peftodyssey.measures.similarity.compute import CORRELATED

TEXTS = [f"{kind}_{n}" for kind, count in (("wiki", 4), ("arxiv", 3), ("code", 1)) for n in range(count)]
BASE = {"recipe": "r", "model": "m", "revision": "v", "newline": "keep"}


def similar_rows(distance: list[float]) -> list[dict]:
    texts = [
        {
            **BASE,
            "kind": "text",
            "domain": name,
            "group": name.split("_")[0],
            "chunks": 200,
            "chunk_tokens": 64,
            "layer": -1,
            "documents": 90,
            "mmd2": d,
            "mmd_p": 0.001,
            "bandwidth": 3.0,
            "frechet": 10 + d,
            "frechet_bias": 1.0,
            "js_bits": d / 2,
            "ngram_overlap": 0.3 - d / 10,
            "near_duplicate_share": 0.0,
            "base_bpb": 2.0 - d,
        }
        for name, d in zip(TEXTS, distance, strict=True)
    ]
    return [
        *texts,
        {
            **texts[0],
            "kind": "floor",
            "domain": "sample",
            "mmd2": 0.0001,
            "mmd_p": 0.4,
            "group": None,
            "base_bpb": None,
        },
    ]


def result(name: str, change: float, **more: object) -> dict:
    return {
        **BASE,
        "status": "done",
        "selected": True,
        "label": "lora r=4",
        "method": "lora",
        "domain": name,
        "lr": 1e-3,
        "seed": 0,
        "delta_nll": change,
        "delta_lo": change - 0.01,
        "delta_hi": change + 0.01,
        **more,
    }


DISTANCE = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9]
FALLING = [result(name, 0.5 - d) for name, d in zip(TEXTS, DISTANCE, strict=True)]


def of(rows: list[dict], measure: str, statistic: str, scope: str, label: str = "lora r=4") -> dict:
    [found] = [
        r for r in rows if (r["measure"], r["statistic"], r["scope"], r["label"]) == (measure, statistic, scope, label)
    ]
    return found


def test_a_planted_relation_is_found_with_its_sign_and_held_against_its_family() -> None:
    found = collect_correlation.rows(FALLING, similar_rows(DISTANCE))
    assert len(found) == 4 * len(CORRELATED)
    assert not {"frechet", "base_bpb"} & {row["measure"] for row in found}
    pooled, within = (of(found, "mmd2", "pearson", scope) for scope in ("pooled", "within"))
    assert (pooled["r"], pooled["domains"], pooled["groups"]) == (pytest.approx(-1), 8, 1)
    assert (within["r"], within["domains"], within["groups"]) == (pytest.approx(-1), 7, 2), (
        "a group of one says nothing"
    )
    assert of(found, "ngram_overlap", "spearman", "pooled")["r"] == pytest.approx(1)
    near = of(found, "near_duplicate_share", "spearman", "pooled")
    assert (near["r"], near["p_holm"]) == (None, None)
    assert "does not vary" in near["note"]
    assert pooled["p_holm"] == pytest.approx(3 * pooled["p"]), "the measure that does not vary is not of the family"
    primary = of(found, "mmd2", "spearman", "pooled")
    assert primary["p_holm"] == primary["p"], "named in advance, so it is not corrected"
    other = of(found, "js_bits", "spearman", "pooled")
    assert other["p_holm"] == pytest.approx(2 * other["p"])


def test_six_texts_can_say_something_by_the_test_that_was_named_in_advance() -> None:
    """Corrected over six measures, which they were, six texts could not unless a coefficient was 1."""
    changes = [0.5, 0.4, 0.35, 0.2, 0.25, 0.1]  # one neighbouring pair out of order
    results = [result(name, change) for name, change in zip(TEXTS, changes, strict=False)]
    primary = of(collect_correlation.rows(results, similar_rows(DISTANCE)), "mmd2", "spearman", "pooled")
    assert primary["domains"] == 6
    assert primary["r"] > -1
    assert primary["p_holm"] < 0.05


def test_a_change_that_is_noise_in_the_base_is_correlated_with_its_loss_but_with_no_measure_that_is_used() -> None:
    """The loss before is part of the change: if before and after are independent, the change falls with it."""
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2, 400, 6))
    coupled = [stats.pearsonr(b, a - b).statistic for b, a in zip(before, after, strict=True)]
    assert np.mean(coupled) < -0.6
    assert "base_bpb" not in CORRELATED


def test_sentences_say_what_the_numbers_do() -> None:
    similar = similar_rows(DISTANCE)
    alike, grows = similarity.questions(similar, collect_correlation.rows(FALLING, similar), FALLING)
    [said] = alike.statements
    assert "wiki_0 (MMD² 0.1000, p = 0.001) and the least similar is code_0" in said
    assert "differ by 0.0001 (p = 0.400)" in said
    assert len(alike.table) == 9
    assert "sample (floor)" in alike.table[-1]
    [said] = grows.statements
    assert "8 texts" in said
    assert "-1.00 [-1.00, -1.00]" in said
    assert "degradation grows with similarity." in said
    assert re.search(
        r"Also significant, pooled: .*Pearson\), degradation grows with similarity\.", said
    )  # measures that grow with the distance and a share that falls with it say the same
    assert all(len(line) == len(section.headings) for section in (alike, grows) for line in section.table)
    rising = [result(name, d) for name, d in zip(TEXTS, DISTANCE, strict=True)]
    assert (
        "degradation falls with similarity."
        in similarity.questions(similar, collect_correlation.rows(rising, similar), rising)[1].statements[0]
    )
    mixed = [result(name, d) for name, d in zip(TEXTS, [3, 1, 4, 1, 5, 9, 2, 6], strict=True)]
    assert (
        "no significant relation."
        in similarity.questions(similar, collect_correlation.rows(mixed, similar), mixed)[1].statements[0]
    )
    few = similarity.questions(similar, collect_correlation.rows(FALLING[:3], similar), FALLING[:3])[1].statements[0]
    assert "too few texts (3)" in few


def test_seeds_are_one_point_and_methods_rates_and_bases_are_kept_apart() -> None:
    seeds = [
        result(name, change + s * 0.01, seed=s) for name, change in zip(TEXTS, range(8), strict=True) for s in (0, 1)
    ]
    rates = [
        result(name, change * lr, lr=lr, label="full", method="full")
        for name, change in zip(TEXTS, range(8), strict=True)
        for lr in (1.0, -1.0)
    ]
    tuned = [
        result(name, change, lr=10.0**-n, label="qlora", method="qlora")
        for n, (name, change) in enumerate(zip(TEXTS, range(8), strict=True))
    ]
    other = [result(name, -1.0, revision="w") for name in TEXTS]
    found = collect_correlation.rows(
        [*seeds, *rates, *tuned, *other, result("wiki_0", 9.0, selected=False)], similar_rows(DISTANCE)
    )
    assert {(row["label"], row["revision"]) for row in found} == {
        (label, "v") for label in ("lora r=4", "full lr=1e0", "full lr=-1e0", "qlora")
    }
    for label, r in (("lora r=4", 1), ("full lr=1e0", 1), ("full lr=-1e0", -1), ("qlora", 1)):
        row = of(found, "mmd2", "spearman", "pooled", label)
        assert (row["domains"], row["r"]) == (8, pytest.approx(r))


def test_figures_hold_a_panel_a_measure_a_point_a_text_and_lines_within_groups() -> None:
    [figure] = similarity.figures(FALLING, similar_rows(DISTANCE))
    spec = json.loads(figure.chart.to_json())
    assert len(spec["concat"]) == 3, "a measure that does not vary has no panel"
    text = json.dumps(spec, ensure_ascii=False)
    assert "MMD²" in text
    assert "less similar" in text
    assert "code" in text
    lines = similarity_lines()
    assert {line["group"] for line in lines} == {"wiki", "arxiv"}
    slopes = np.diff([line["y"] for line in lines])[::2] / np.diff([line["x"] for line in lines])[::2]
    assert slopes == pytest.approx([-1, -1])
    assert similarity.figures(FALLING[:2], similar_rows(DISTANCE)) == []


def similarity_lines() -> list[dict]:
    from peftodyssey.measures.similarity import chart as similarity_chart

    [points] = collect_correlation.families(FALLING, similar_rows(DISTANCE)).values()
    return similarity_chart.line_ends("mmd2", points)


def test_what_was_not_measured_is_said() -> None:
    [only] = similarity.questions([], [], [])
    assert only.statements == [similarity.UNMEASURED]
    assert "Not measured" in similarity.questions(similar_rows(DISTANCE), [], [])[1].statements[0]
