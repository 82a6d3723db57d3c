"""Rungs of public ladders that do not hold what their names say, each with the public thread that reports it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class KnownProblem:
    """What is reported of some rungs of a repository."""

    repository: str  # Hub id
    rungs: frozenset[str]
    what: str
    thread: str

    def names(self, rungs: Sequence[str]) -> list[str]:
        """Those of `rungs` that the report is about."""
        return [rung for rung in rungs if rung in self.rungs]


def _steps(*steps: int) -> frozenset[str]:
    return frozenset(f"step{step}" for step in steps)


PYTHIA_28B_LAST = (
    *(0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 53_001, 1000), 55_000, 60_000, 65_000, 70_000, 80_000),
    *(90_000, 100_000, 103_000, 110_000, 120_000, 130_000, 140_000),
)
PYTHIA_28B_SECOND = (54_000, *range(56_000, 60_000, 1000), *range(61_000, 65_000, 1000), 143_000)

KNOWN: tuple[KnownProblem, ...] = (
    KnownProblem(
        "allenai/OLMo-2-1124-7B",
        frozenset(("stage1-step101000-tokens424B", "stage1-step175000-tokens735B", "stage1-step300000-tokens1259B")),
        "hold the same weights",
        "https://github.com/allenai/OLMo/issues/915",
    ),
    KnownProblem(
        "EleutherAI/pythia-2.8b",
        _steps(*PYTHIA_28B_LAST, *PYTHIA_28B_SECOND),
        "hold weights of the end of the training, not of their steps",
        "https://github.com/EleutherAI/pythia/issues/205",
    ),
    KnownProblem(
        "EleutherAI/pythia-12b",
        _steps(50_000, 58_000),
        "have the first shard of the last rung, step143000",
        "https://github.com/EleutherAI/pythia/issues/206",
    ),
    *(
        KnownProblem(
            f"EleutherAI/pythia-410m-seed{seed}",
            _steps(step),
            "had no weights",
            "https://github.com/EleutherAI/pythia/issues/202",
        )
        for seed, step in ((9, 40_000), (6, 88_000), (2, 111_000))
    ),
)


def known_problems(repository: str, rungs: Sequence[str]) -> Iterator[str]:
    """A sentence for each report about some of `rungs` of a Hub repository."""
    for problem in KNOWN:
        if re.fullmatch(re.escape(problem.repository), repository, re.IGNORECASE) and (names := problem.names(rungs)):
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            yield f"{', '.join(names[:4])}{more}: reported that they {problem.what}: {problem.thread}"
