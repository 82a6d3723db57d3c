"""Checkpoint of a training between two steps: exact to the bit, and whole whenever the process is killed.

Tensors (trained parameters, optimizer moments, random states, the log) go to `state-<hash>.safetensors`, numbers to
`state.json`, which names that file and is replaced last: until then the previous checkpoint counts.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from peftodyssey.errors import TrainingError
from peftodyssey.memory_settings import MemorySettings
from peftodyssey.store.atomic import atomic_write, io_errors_as_store_error, sha256, write_text
from peftodyssey.training.settings import LOG_FIELDS, STATE_FILE, StepRecord

STATE_VERSION = 3


@dataclass(frozen=True)
class StemCheckpoint:
    """Where the state of a stem is (`training.stem`), and whether a larger budget will start from this training's."""

    folder: Path
    continues: bool


@dataclass(frozen=True)
class CheckpointSettings:
    """Where a training saves its state, and every how many seconds; None: only where it stops before its end."""

    folder: Path
    every_s: float | None = None
    stem: StemCheckpoint | None = None


@dataclass(frozen=True)
class SavedState:
    """A training after `step` steps. `tensors` are on the CPU."""

    step: int
    memory_settings: MemorySettings  # of its last step
    out_of_memory: tuple[str, ...]  # how often memory ran out before
    resume_digest: str  # of `loop.resume_digest`: settings, sequences and trained parameters
    scaler: dict[str, Any]  # GradScaler's state, empty without one
    log: tuple[StepRecord, ...]
    tensors: dict[str, Tensor]


def save(folder: Path, state: SavedState) -> None:
    """Replaces the state in `folder` by `state`. Raises StoreError where it cannot be written."""
    incoming = folder / "state.safetensors"
    tensors = {**state.tensors, "log": _log_tensor(state.log)}
    with io_errors_as_store_error(incoming):
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(incoming) as temporary:
            _write_tensors(tensors, temporary)
        digest = sha256(incoming)
        final = folder / f"state-{digest[:16]}.safetensors"
        os.replace(incoming, final)
    numbers = {
        "version": STATE_VERSION,
        "file": final.name,
        "sha256": digest,
        "step": state.step,
        "memory_settings": asdict(state.memory_settings),
        "out_of_memory": state.out_of_memory,
        "resume_digest": state.resume_digest,
        "scaler": state.scaler,
    }
    write_text(folder / STATE_FILE, json.dumps(numbers, indent=1))
    _remove_others(folder, keep=final.name)


def read(folder: Path | None, resume_digest: str) -> tuple[SavedState | None, str]:
    """The state in `folder`, or None with the reason why it cannot be used ("" where there is none).

    Raises TrainingError where the state is intact but belongs to another training.
    """
    if folder is None or not (folder / STATE_FILE).exists():
        return None, ""
    try:
        state = _read(folder)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        return None, f"the saved state in {folder} is damaged ({error}); training starts from step 0"
    if state.resume_digest != resume_digest:
        raise TrainingError(
            f"the saved state in {folder} (step {state.step}) belongs to other settings, text or weights",
            "give this training a folder of its own, or delete that one to start from step 0",
        )
    return state, ""


def saved_digest(folder: Path) -> str | None:
    """The `resume_digest` of the state in `folder`; None where there is none, or its numbers are damaged."""
    try:
        return str(json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["resume_digest"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Torch's random states as byte tensors: the CPU's, and the device's where it has its own."""
    states = {"rng.cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["rng.cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_random_state(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Puts back what `random_state` took."""
    torch.set_rng_state(states["rng.cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["rng.cuda"], device)


def _read(folder: Path) -> SavedState:
    numbers = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))
    if numbers["version"] != STATE_VERSION:
        raise ValueError(f"version {numbers['version']}, this program reads {STATE_VERSION}")
    path = folder / Path(numbers["file"]).name
    if sha256(path) != numbers["sha256"]:
        raise ValueError(f"{path.name} is not what was written")
    tensors = load_file(path)
    log = _log_records(tensors.pop("log"))
    if len(log) != numbers["step"]:
        raise ValueError(f"{len(log)} logged steps for step {numbers['step']}")
    return SavedState(
        numbers["step"],
        MemorySettings(**numbers["memory_settings"]),
        tuple(numbers["out_of_memory"]),
        numbers["resume_digest"],
        numbers["scaler"],
        log,
        tensors,
    )


def _write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Raises OSError also where safetensors reports a full disk by an error of its own."""
    try:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{error}") from error


def _log_tensor(log: tuple[StepRecord, ...]) -> Tensor:
    return torch.tensor([astuple(record) for record in log], dtype=torch.float64).reshape(len(log), len(LOG_FIELDS))


def _log_records(rows: Tensor) -> tuple[StepRecord, ...]:
    return tuple(StepRecord(int(step), int(tokens), *rest) for step, tokens, *rest in rows.tolist())


def _remove_others(folder: Path, keep: str) -> None:
    for path in (*folder.glob("state*.safetensors"), *folder.glob(".state*.tmp")):
        if path.name != keep:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
