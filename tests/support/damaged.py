"""Copies of a model folder with other tensors, config or files beside them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Tensors = dict[str, Any]


def variant(folder: Path, target: Path, weights: Callable[[Tensors], Tensors] | None = None, **config: Any) -> Path:
    """A copy of the model in `folder` with changed tensors, and with keys of config.json set to the given values."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder, target)
    if weights is not None:
        tensors = {k: v.contiguous() for k, v in weights(load_file(folder / "model.safetensors")).items()}
        os.unlink(target / "model.safetensors")
        save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    if config:
        content = json.loads((target / "config.json").read_text())
        (target / "config.json").write_text(json.dumps(content | config))
    return target
