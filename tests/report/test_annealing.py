"""Two arms of a ladder side by side, from planted columns to the sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.demo_store import Fit, write_run
from support.plans import collect

from peftodyssey.measures.noise.table import SHIFTS, SHIFTS_FILE
from peftodyssey.measures.sensitivity import annealing
from peftodyssey.measures.sensitivity.table import ANNEALING_TABLE
from peftodyssey.store import manifest, parquet, plans

RATES = {"annealed": (1e-3, 3e-3, 9e-3), "trunk": (2e-3, 4e-3, 8e-3)}


def fits(domain: str, rung: int) -> list[Fit]:
    """Full fine-tuning forgets 0.1 on annealed bases and 0.04 on constant-rate ones, at the rate in the middle of its
    grid, which is the best on validation; LoRA only ran on the first, at one rate.
    """
    trunk = {"arm": "trunk", "revision": f"trunk-{64 if rung == 0 else 1024}M"}
    full = [
        Fit("full", "full", lr, -0.2, forgetting, valid=-0.2 if place == 1 else -0.1, group=arm, extra=extra)
        for arm, forgetting, extra in (("annealed", 0.1, {}), ("trunk", 0.04, trunk))
        for place, lr in enumerate(RATES[arm])
    ]
    return [*full, Fit("lora r=8", "lora", 3e-3, -0.1, 0.03)]


def write_noise(folder: Path, arm: str, tokens: int, cost: float) -> dict[str, Any]:
    """A base of 40 documents to which noise adds `cost` nats a token, unevenly over pairs and documents; its entry in
    the plan.
    """
    rows = []
    for kind, pair, sign in (
        ("base", None, None),
        *(("gaussian", pair, sign) for pair in range(3) for sign in (1, -1)),
    ):
        for document in range(40):
            rise = (
                0.0 if kind == "base" else cost * (1 + 0.1 * (pair - 1)) * (1 + 0.2 * (document % 2 - 0.5)) + 0.5 * sign
            )
            rows.append(
                {
                    "kind": kind,
                    "gamma": None if kind == "base" else 0.4,
                    "pair": pair,
                    "sign": sign,
                    "norm": 1.0,
                    "relative": 0.1,
                    "document": document,
                    "tokens": 100,
                    "nll_sum_nats": 100 * (3.0 + rise),
                }
            )
    entry = {
        "folder": f"noise/{arm}-{tokens}",
        "model": "bundled/odyssey-3m",
        "revision": f"{arm}-{tokens}M",
        "pretrain_tokens": tokens * 10**6,
        "arm": arm,
        "corpus": "wiki",
        "scale": "initializer",
        "tensors": "blocks",
    }
    place = manifest.prepare_dir(folder / entry["folder"])
    parquet.write_rows(place / SHIFTS_FILE, rows, SHIFTS)
    manifest.commit(place, {"kind": "noise", "facts": {"sigma": 0.02}})
    return entry


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("arms")
    write_run(folder, fits=fits, domains=("law",), seeds=(0, 1, 2), measure=("degradation", "forgetting"))
    entries = [
        write_noise(folder, arm, tokens, cost)
        for arm, cost in (("annealed", 0.05), ("trunk", 0.02))
        for tokens in (64, 1024)
    ]
    plans.write(
        folder,
        "demo",
        "1" * 8,
        {
            "recipe": "demo",
            "created": "2026-01-02T00:00:00",
            "measure": [],
            "cells": [],
            "measures": {"noise": entries},
        },
    )
    collect(folder)
    return parquet.read(folder / ANNEALING_TABLE).to_pylist()


def test_the_same_method_on_the_same_pretraining_is_compared_between_arms(rows: list[dict]) -> None:
    forgot = [row for row in rows if row["quantity"] == "forgetting"]
    assert [(row["arm"], row["minus"], row["intervention"], row["pretrain_tokens"]) for row in forgot] == [
        ("annealed", "trunk", "full", 64_000_000),
        ("annealed", "trunk", "full", 1_024_000_000),
    ]
    for row in forgot:
        assert row["change"] == pytest.approx(0.06, abs=1e-5)
        assert row["lo"] < 0.06 < row["hi"]
        assert (row["verdict"], row["repetitions"], row["covers"]) == ("more", 3, "clusters and seeds")
    assert all(row["change"] == pytest.approx(0, abs=1e-5) for row in rows if row["quantity"] == "learning")


def test_the_section_says_which_arm_pays(rows: list[dict]) -> None:
    of_noise, said = sorted(annealing.section(rows).statements, key=lambda text: "forgets" in text)
    assert of_noise.startswith("wiki, annealed minus trunk: noise, gaussian with gamma 0.4 costs +0.0300 [")
    assert of_noise.endswith("Verdict on annealed: more at 64M tokens, more at 1.02B tokens.")
    assert said.startswith("law, annealed minus trunk: full forgets +0.0600 [")
    assert said.endswith("Verdict on annealed: more at 64M tokens, more at 1.02B tokens.")
