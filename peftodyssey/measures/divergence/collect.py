"""Collects the columns of the results; general texts are pooled over their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftodyssey.store import manifest
from peftodyssey.store.collected import Collected, Row
from peftodyssey.store.stored_run import StoredRun


def collect(run: StoredRun, tables: Mapping[str, Sequence[Row]]) -> Collected:
    """The columns of every finished cell that was measured."""
    return Collected(columns={cell["number"]: _of_cell(run, entry) for cell, entry in run.done_entries("divergence")})


def _of_cell(run: StoredRun, entry: Mapping[str, Any]) -> Row:
    read = (manifest.read(run.folder / folder) for folder in (entry["target"], *entry["general"]))
    target, *general = ({} if written is None else written["facts"] for written in read)
    row = {"kl_target": target["kl_nats"], "changed_guesses_target": target["changed"]} if target else {}
    if general and all(general):
        names = {"kl_general": "kl_nats", "changed_guesses_general": "changed"}
        names |= {"forgetting_slope": "slope", "forgetting_curvature": "curvature"}
        tokens = sum(facts["tokens"] for facts in general)
        for column, fact in names.items():
            if all(fact in facts for facts in general):
                row[column] = sum(facts["tokens"] * facts[fact] for facts in general) / tokens
    return row
