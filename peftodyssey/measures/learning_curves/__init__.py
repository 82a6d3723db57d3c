"""Losses on held-out text during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftodyssey.measures.learning_curves.spec import SPEC
from peftodyssey.measures.measure import Measure
from peftodyssey.store import layout, tables
from peftodyssey.store.collected import Collected, Row

if TYPE_CHECKING:
    from peftodyssey.store.stored_run import StoredRun


class LearningCurves(Measure):
    """The evaluations of a training, and its end."""

    spec = SPEC
    tables = {layout.LEARNING_CURVES: tables.LEARNING_CURVES}
    views = {layout.LEARNING_CURVES: "losses on held-out text during training"}
    examples = ("select cell, step, corpus, split, nll_nats from learning_curves order by cell, step",)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.learning_curves import collect

        return Collected({layout.LEARNING_CURVES: collect.rows(run)})
