"""What a measure is: how it is asked for, its tables, its tasks, its rows and its sections.

A measure is one folder of `measures` and one line in `registry`. `__init__.py` has one subclass of `Measure`, which
names its word, tables and columns. Every other file is there where it is needed, and stands on a floor of its own:

| file | floor | what it holds |
|---|---|---|
| `spec.py` | recipe | `SPEC`: its options, and what is checked against the rest of a recipe |
| `table.py` | store | names and columns of tables that several of its files need |
| `plan.py` | plan | `plan(options, context)`: its tasks, without torch |
| `job.py` | jobs | `run(task, handle, context)`: one task: read the inputs, compute, commit the folder |
| `compute.py`, and others by name | stats | arithmetic |
| `collect.py` | display | `collect(run, tables)`: from the files of a run to rows |
| `section.py` | display | `sections(sources)`: sentences, figures and a table of the report |

`Measure` calls the functions of these files, which it loads when they are called. A measure that is short enough
overrides the methods of the same names instead.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
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
    from peftodyssey.store.views import View


class Measure:
    """One measure; a subclass says what it is called and what it makes, the files of its folder do the work."""

    spec: ClassVar[MeasureSpec]
    reads: ClassVar[tuple[str, ...]] = ()  # measures whose tables `collect` is given, and `store.collected.RESULTS`
    shows: ClassVar[tuple[str, ...]] = ()  # further measures whose tables its sections show
    tables: ClassVar[Mapping[str, Columns]] = {}  # in the output directory, by file name
    files: ClassVar[Mapping[str, Columns]] = {}  # in the folders of its tasks, by file name
    columns: ClassVar[Columns] = {}  # that it adds to results.parquet
    views: ClassVar[Mapping[str, str]] = {}  # a sentence for each table, for `query`
    computed: ClassVar[Mapping[str, View]] = {}  # further views, by SQL over its tables
    examples: ClassVar[Sequence[str]] = ()  # SQL that `query` offers

    @property
    def name(self) -> str:
        """Its name in recipes, folders and manifests."""
        return self.spec.name

    def plan(self, options: Any, context: PlanContext) -> MeasurePlan:
        """Its tasks for what a recipe asks. Imports no torch; raises InputError where they cannot be done."""
        from peftodyssey.plan.measure import MeasurePlan

        file = self._file("plan")
        planned: MeasurePlan = file.plan(options, context) if file else MeasurePlan()
        return planned

    def run(self, task: MeasureTask, handle: Handle, context: JobContext) -> None:
        """Does one of its tasks and commits its folder."""
        file = self._file("job")
        assert file, f"{self.name} has no tasks"
        file.run(task, handle, context)

    def collect(self, run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
        """Its rows from the files of a run; `tables` are those of the measures that it reads, by file name."""
        file = self._file("collect")
        collected: Collected = file.collect(run, tables) if file else Collected()
        return collected

    def sections(self, sources: ReportSources) -> Sequence[Section]:
        """Its sections of the report, from collected tables; none where there is nothing to say."""
        file = self._file("section")
        return [section for section in file.sections(sources) if section] if file else []

    def _file(self, name: str) -> Any:
        """A file of its folder, loaded; None where the folder has no such file."""
        package = type(self).__module__
        is_folder = hasattr(sys.modules[package], "__path__")
        return import_module(f"{package}.{name}") if is_folder and find_spec(f"{package}.{name}") else None
