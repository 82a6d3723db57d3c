"""What every test runs under: short spins of idle threads, no network, no rates that other runs measured."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does, before torch is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("ours", deadline=None)  # an example's time says nothing of a machine that does other work too
settings.load_profile("ours")


@pytest.fixture(autouse=True)
def no_rates_of_other_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run takes is not estimated by what the user of this machine ran before, nor by other tests."""
    from peftodyssey.execution import rate_cache

    monkeypatch.setattr(rate_cache, "path", lambda device: tmp_path / "rates" / f"{device}.json")
