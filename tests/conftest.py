"""What every test runs under: short spins of idle threads, no network, no rates that other runs measured."""

from __future__ import annotations

import getpass
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from peftodyssey.memory import cpu_bf16

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as the command line does, before torch is imported
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

cache = Path(tempfile.gettempdir()) / f"peftodyssey-tests-{getpass.getuser()}"
os.environ.setdefault("PEFTODYSSEY_CACHE", str(cache))
cpu_bf16.keep(cpu_bf16.Measurement("the tests", 1.0, 1.0))  # `precision: auto` is fp32 on every CPU

settings.register_profile("ours", deadline=None)  # an example's time says nothing of a machine that does other work too
settings.load_profile("ours")


@pytest.fixture(autouse=True, scope="module")
def no_rates_of_other_modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a run takes is not estimated by what the user of this machine ran before; for fixtures of a module."""
    with pytest.MonkeyPatch.context() as patch:
        _rates_in(tmp_path_factory.mktemp("rates"), patch)
        yield


@pytest.fixture(autouse=True)
def no_rates_of_other_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for what other tests and the module's fixtures ran."""
    _rates_in(tmp_path / "rates", monkeypatch)


def _rates_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    from peftodyssey.execution import rate_cache

    patch.setattr(rate_cache, "path", lambda device: folder / f"{device}.json")
