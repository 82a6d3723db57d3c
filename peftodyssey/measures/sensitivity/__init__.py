"""How noise, forgetting and learning depend on the pretraining: on its length, and on the arm of the ladder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from peftodyssey.measures.measure import Measure
from peftodyssey.measures.sensitivity import table
from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.store import layout
from peftodyssey.store.collected import RESULTS, Collected, Row

if TYPE_CHECKING:
    from peftodyssey.store.stored_run import StoredRun


class Sensitivity(Measure):
    """Slopes along a ladder of pretraining checkpoints, and differences between its arms."""

    spec = MeasureSpec(
        "sensitivity",
        asked_by=lambda recipe: len(recipe.model) > 1 or any(model.revisions is not None for model in recipe.model),
    )
    reads = ("noise", RESULTS)
    tables = {table.TABLE: table.SENSITIVITY, table.ANNEALING_TABLE: table.ANNEALING}
    views = {
        table.TABLE: "slopes along a ladder of pretraining checkpoints",
        table.ANNEALING_TABLE: "differences between arms of a ladder",
    }

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        from peftodyssey.measures.sensitivity import collect

        return collect.collected(run, tables[layout.RESULTS])
