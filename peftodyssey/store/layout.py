"""Where everything lies below an output directory. Called by whoever reads or writes one."""

from __future__ import annotations

import re
from pathlib import Path

RECIPE = "recipe.yaml"
RESOLVED = "resolved.yaml"
RESULTS = "results.parquet"
LEARNING_CURVES = "learning_curves.parquet"
TOKEN_BREAKDOWN = "token_breakdown.parquet"
CONCENTRATION = "concentration.parquet"
TERMS = "terms.parquet"
TOKEN_RANKS = "token_ranks.parquet"
TRANSFER = "transfer.parquet"
TASKS = "tasks.parquet"
WISE_FT = "wise_ft.parquet"
NOISE_TABLE = "noise.parquet"
SHARPNESS = "sharpness.parquet"
SENSITIVITY = "sensitivity.parquet"
ANNEALING = "annealing.parquet"
GEOMETRY = "geometry.parquet"
SIMILARITY = "similarity.parquet"
CORRELATION = "correlation.parquet"
PLANS = "plans"
CELLS = "cells"
SCORES = "scores"
CORPORA = "corpora"
NOISE = "noise"
GEOMETRY_DIR = "geometry"  # how far each cell moved its base
STATES = "states"  # mean hidden states of chunks of a text
REPORT = "report"
LOCK = ".lock"

MANIFEST = "manifest.json"
FAILURE = "failure.json"
ADAPTER = "adapter"
WEIGHTS = "weights"
CHECKPOINT = "checkpoint"
STOPPED = "stopped.json"  # beside a checkpoint: when and why the cell was stopped early
MULTI_LORA_FILE = "multi_lora.json"  # inside a checkpoint: with whom the cell trained
LOG = "log.parquet"
NLL = "nll.parquet"
CHOICES = "choices.parquet"
SHIFTS = "shifts.parquet"
STATES_FILE = "states.safetensors"
INDEX = "index.parquet"
DOCUMENTS = "documents.parquet"

SLUG_LIMIT = 72  # characters; keeps paths usable on file systems with 255-byte names


def slug(*parts: object) -> str:
    """A readable, file-system-safe name made of the parts that are not None."""
    text = "-".join(str(p) for p in parts if p is not None)
    return re.sub(r"[^A-Za-z0-9._]+", "-", text).strip("-.")[:SLUG_LIMIT].rstrip("-.")


def folder_name(name: str, digest: str) -> str:
    """`<slug>-<hash8>`: readable first, unique by the first eight hex digits of the identity."""
    return f"{slug(name)}-{digest[:8]}"


def is_store(folder: Path) -> bool:
    """Whether an output directory of this tool lies there."""
    return (folder / PLANS).is_dir()
