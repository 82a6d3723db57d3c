"""The rungs of ladders in a recipe: those without weights are left out, those that are the same bytes are named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from peftodyssey.models.equal_rungs import equal_groups, hash_notes
from peftodyssey.models.known_rungs import known_problems
from peftodyssey.models.rung_hashes import Hashes, rung_files, weight_files_in, with_whole_files
from peftodyssey.models.source import ModelSource
from peftodyssey.recipe.cell import ModelSpec

Models = Mapping[ModelSpec, ModelSource]


def is_one_of_several(model: ModelSpec, all_models: Mapping[ModelSpec, object]) -> bool:
    """Whether the recipe names other revisions of this model too."""
    return any(other.name == model.name and other != model for other in all_models)


def without_equal_tokens(models: Models, keep: frozenset[str]) -> tuple[dict[ModelSpec, ModelSource], list[str]]:
    """(models, warnings): rungs that hold the same bytes lose their pretraining tokens, so that no slope has them.

    Which of them is what its name says is not known. `keep` are the names of models whose rungs keep their tokens.
    """
    changed, warnings = dict(models), []
    for name in dict.fromkeys(model.name for model in models):
        specs = {str(model.revision): model for model in models if model.name == name and model.revision}
        if len(specs) < 2:
            continue
        warnings += [f"{name}: {note}" for note in known_problems(name, list(specs))]
        hashes = _hashes({revision: models[spec] for revision, spec in specs.items()})
        equal = [rung for group in equal_groups(hashes) for rung in group]
        warnings += [f"{name}: {note}" for note in hash_notes(hashes)]
        if equal and name not in keep:
            warnings.append(
                f"{name}: {', '.join(equal)} stay out of what depends on pretraining tokens; "
                "`model: {equal_rungs: keep}` takes them in"
            )
            changed |= {specs[rung]: replace(models[specs[rung]], pretrain_tokens=None) for rung in equal}
    return changed, warnings


def _hashes(sources: Mapping[str, ModelSource]) -> dict[str, Hashes | None]:
    """Hashes of the weight files by revision; bundled rungs are the fingerprints that they were packed with."""
    if all(source.kind == "local" for source in sources.values()):
        return with_whole_files({revision: _files(source) for revision, source in sources.items()})
    return {
        revision: {"model.safetensors": source.fingerprint}
        if source.kind == "bundled"
        else dict(source.weight_sha256) or None
        for revision, source in sources.items()
    }


def _files(source: ModelSource) -> list[Path] | None:
    assert source.folder is not None
    if source.weight_file is not None:
        return rung_files(source.folder, source.weight_file.stem)
    return weight_files_in(source.folder)
