"""Names of the files and folders of an output directory."""

from __future__ import annotations

import re
from pathlib import Path

from peftodyssey.constants import DOCUMENTS_FILE, INDEX_FILE

RECIPE = "recipe.yaml"
RESOLVED = "resolved.yaml"
RESULTS = "results.parquet"
LEARNING_CURVES = "learning_curves.parquet"
TEXT_OVERLAP = "text_overlap.parquet"
PLANS = "plans"
CELLS = "cells"
SCORES = "scores"
CORPORA = "corpora"
REPORT = "report"
SCORINGS = "scorings"  # tables and report of other ways of scoring than the newest
LOCK = ".lock"
RUN_LOG = "run.log"  # which task, in which folder, began and ended when; every note
TIMES = "times.json"  # the work of every task, and the rates at which finished ones were done

MANIFEST = "manifest.json"
LADDER = "ladder.json"  # beside the rungs of a ladder
FAILURE = "failure.json"
ADAPTER = "adapter"
WEIGHTS = "weights"
CHECKPOINT = "checkpoint"
STEMS = "stems"  # states from which larger budgets start, until the largest is done
STOPPED = "stopped.json"  # beside a checkpoint: when and why the cell was stopped early
MULTI_LORA_FILE = "multi_lora.json"  # inside a checkpoint: the cells that were trained together
LOG = "log.parquet"
NLL = "nll.parquet"
INDEX = INDEX_FILE
DOCUMENTS = DOCUMENTS_FILE

SLUG_LIMIT = 72  # characters; keeps paths usable on file systems with 255-byte names


def page(root: Path) -> Path:
    """The page of the report of a run."""
    return root / REPORT / "index.html"


def slug(*parts: object) -> str:
    """A readable, file-system-safe name made of the parts that are not None."""
    text = "-".join(str(p) for p in parts if p is not None)
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:SLUG_LIMIT].rstrip("-.")


def folder_name(name: str, digest: str) -> str:
    """`<slug>-<hash8>`: a readable name, made unique by the first eight hex digits of the identity."""
    return f"{slug(name)}-{digest[:8]}"


def tables_folder(folder: Path, scoring: str | None) -> Path:
    """Where the tables of a scoring lie: in the output directory itself for the newest (None)."""
    return folder if scoring is None else folder / SCORINGS / scoring


def is_store(folder: Path) -> bool:
    """Whether `folder` is an output directory of this tool."""
    return (folder / PLANS).is_dir()
