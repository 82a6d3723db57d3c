"""What a measure is: how it is asked for, its tables, its tasks, its rows and its sections.

A measure is one folder of `measures` and one line in `registry`. Its files stand on floors of their own:

| file | floor | what it holds |
|---|---|---|
| `spec.py` | recipe | how a recipe asks for it, its options |
| `table.py` | store | its tables, and the columns that it adds to the results |
| `plan.py` | plan | its tasks, without torch |
| `compute.py`, and others by name | stats | arithmetic |
| `collect.py` | stats | from the files of a run to rows |
| `job.py` | jobs | one task: read the inputs, compute, commit the folder |
| `section.py` | display | sentences, figures and a table of the report |
| `__init__.py` | measures | one `Measure` that names these |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from peftodyssey.recipe.measure_spec import MeasureSpec
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.columns import Columns

if TYPE_CHECKING:
    from peftodyssey.display.section import Section
    from peftodyssey.display.sources import ReportSources
    from peftodyssey.jobs.context import JobContext
    from peftodyssey.jobs.handle import Handle
    from peftodyssey.plan.measure import MeasurePlan, PlanContext
    from peftodyssey.plan.tasks import MeasureTask
    from peftodyssey.store.stored_run import StoredRun


class Measure:
    """One measure; a subclass names its parts and overrides what it does."""

    spec: ClassVar[MeasureSpec]
    reads: ClassVar[tuple[str, ...]] = ()  # measures whose tables `collect` is given, and `store.collected.RESULTS`
    shows: ClassVar[tuple[str, ...]] = ()  # further measures whose tables its sections show
    tables: ClassVar[Mapping[str, Columns]] = {}  # in the output directory, by file name
    files: ClassVar[Mapping[str, Columns]] = {}  # in the folders of its tasks, by file name
    columns: ClassVar[Columns] = {}  # that it adds to results.parquet
    views: ClassVar[Mapping[str, str]] = {}  # a sentence for each table, for `query`
    examples: ClassVar[Sequence[str]] = ()  # SQL that `query` offers

    @property
    def name(self) -> str:
        """Its name in recipes, folders and manifests."""
        return self.spec.name

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        """Its tasks for what a recipe asks. Imports no torch; raises InputError where they cannot be done."""
        from peftodyssey.plan.measure import MeasurePlan

        return MeasurePlan()

    def run(self, task: MeasureTask, handle: Handle, context: JobContext) -> None:
        """Does one of its tasks and commits its folder."""
        raise AssertionError(f"{self.name} has no tasks")

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        """Its rows from the files of a run; `tables` are those of the measures that it reads, by file name."""
        return Collected()

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        """Its sections of the report, from collected tables; none where there is nothing to say."""
        return ()
