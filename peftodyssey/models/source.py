"""Resolving a model name without torch: bundled, a local folder, the Hub, or random weights of a known shape.

`resolve` identifies a model; `weights_folder` unpacks, downloads or converts its weights when they are needed.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from peftodyssey import assets
from peftodyssey.errors import ModelError
from peftodyssey.models import bin_conversion, hub, hub_refs, local_model, shapes, stored_tensors, weight_files
from peftodyssey.models.ladder_file import LADDER_FILE, read_rungs
from peftodyssey.models.rung_names import parse_rung
from peftodyssey.models.stated_family import check_stated_family
from peftodyssey.models.stored_quant import check_parts, stored_quant
from peftodyssey.models.stored_quant import note as quantised_note
from peftodyssey.recipe.cell import QuantSpec

BUNDLED_TOKENIZER = "odyssey-3m"
RANDOM_SEED = 0


@dataclasses.dataclass(frozen=True)
class ModelSource:
    """One base model, identified but not loaded."""

    name: str  # as the user wrote it
    revision: str | None  # rung, Hub revision, or None
    kind: str  # bundled | local | hub | random
    folder: Path | None  # where config.json lies; None for random
    config: dict[str, Any]  # config.json
    fingerprint: str  # of the weights: content hash, commit, or hash of config and seed
    tokenizer_folder: Path | None
    pretrain_tokens: int | None  # tokens seen in pretraining, where a ladder says so
    arm: str | None  # arm of the ladder: init, trunk, annealed
    default_dtype: str  # type the weights are stored in: float32, bfloat16, float16
    weight_bytes_on_disk: int  # bytes of the weight files (to download, unpack or read); 0 for random
    pickled: bool = False  # the weights are .bin files, which `weights_folder` converts to safetensors
    weight_file: Path | None = None  # <rung>.safetensors, where the ladder's folder has one file for each rung
    weight_sha256: tuple[tuple[str, str], ...] = ()  # (weight file, hash) as the Hub states them; else empty
    notes: tuple[str, ...] = ()  # what is known before loading and must be said: renamed tensors, an adapter beside

    @property
    def stored_quant(self) -> QuantSpec | None:
        """How bitsandbytes quantised the stored weights; None where they are not quantised."""
        return stored_quant(self.name, self.config)


def resolve(
    name: str, revision: str | None = None, max_position_embeddings: int | None = None, weights: str = "safetensors"
) -> ModelSource:
    """The model that `name` means: `bundled/<model>`, `random/<shape>`, a local folder, or a Hub id.

    `max_position_embeddings` (tokens) overrides the shape's, for random models only. `weights: bin` takes pickled
    weights where there are no safetensors. Raises ModelError for what is missing, unknown, pickled, truncated or not a
    causal language model.
    """
    if max_position_embeddings is not None and not name.startswith("random/"):
        raise ModelError(
            f"max_position_embeddings applies to random/<shape> models; {name} has trained positions of its own",
            "remove max_position_embeddings, or try the length with a random/<shape> model",
        )
    if name.startswith("bundled/"):
        source = _bundled(name, revision)
    elif name.startswith("random/"):
        source = _random(name, revision, max_position_embeddings)
    elif local_model.looks_local(name):
        source = _local(name, revision, weights)
    else:
        source = _hub(name, revision, weights)
    source = dataclasses.replace(source, notes=(*source.notes, *_check_causal(source.name, source.config)))
    return source if source.stored_quant is None else _quantised_base(source, source.stored_quant)


def planned_config(name: str, max_position_embeddings: int | None = None) -> dict[str, Any]:
    """config.json of the model `name`, whose weights are not looked for; ModelError where it cannot be read or used."""
    if name.startswith(("bundled/", "random/")) or max_position_embeddings is not None:
        return resolve(name, None, max_position_embeddings).config
    root = Path(name).expanduser()
    if not local_model.looks_local(name):
        config = local_model.read_config(hub.download_config(name, None))
    elif hub_refs.is_cache_folder(root):
        config = local_model.read_config(hub_refs.snapshot_folder(root, None))
    else:
        config = local_model.read_config(local_model.find_rung_folder(root, None)[0])
    _check_causal(name, config)
    return config


def without_weights(name: str, revision: str | None) -> ModelSource:
    """A local model folder of which only config and tokenizer are there, for planning; ModelError where they are not.

    Without tokenizer files it has the bundled model's tokenizer, as random models do.
    """
    root = Path(name).expanduser()
    folder, rung = local_model.find_rung_folder(root, revision)
    config = local_model.read_config(folder)
    _check_causal(name, config)
    tokenizer, note = local_model.find_tokenizer_folder(folder, root), "it has no weights here and is planned by config"
    if not any((tokenizer / file).is_file() for file in local_model.TOKENIZER_FILES):
        tokenizer, note = assets.model_files(BUNDLED_TOKENIZER), f"{note} and the tokenizer of {BUNDLED_TOKENIZER}"
    return ModelSource(
        name=name,
        revision=revision,
        kind="local",
        folder=folder,
        config=config,
        fingerprint=weight_files.fingerprint(config, ()),
        tokenizer_folder=tokenizer,
        pretrain_tokens=rung.tokens if rung else None,
        arm=rung.arm if rung else None,
        default_dtype=_config_dtype(config),
        weight_bytes_on_disk=0,
        notes=(note,),
    )


def _quantised_base(source: ModelSource, quant: QuantSpec) -> ModelSource:
    """A base that is stored quantised, with its note; most of its bytes do not tell the type of its other weights."""
    return dataclasses.replace(
        source, notes=(*source.notes, quantised_note(quant)), default_dtype=_config_dtype(source.config)
    )


def read_rung_config(name: str, revision: str) -> dict[str, Any]:
    """config.json of one rung; its weights are not checked. Raises ModelError where there is none."""
    root = Path(name).expanduser()
    if name.startswith("bundled/"):
        return local_model.read_config(bundled_folder(name))
    if not local_model.looks_local(name):
        return local_model.read_config(hub.download_config(name, revision))
    if hub_refs.is_cache_folder(root):
        return local_model.read_config(hub_refs.snapshot_folder(root, revision))
    return local_model.read_config(root / revision if (root / revision).is_dir() else root)


def weights_folder(source: ModelSource) -> Path:
    """Folder with config.json and safetensors of `source`, which are unpacked, downloaded or converted as needed."""
    if source.kind == "bundled":
        return assets.unpack_model(source.name.removeprefix("bundled/"), source.revision)
    if source.kind == "hub":
        folder = hub.download_weights(source.name, source.fingerprint, source.pickled)
        return bin_conversion.convert_to_safetensors(folder, source.fingerprint) if source.pickled else folder
    assert source.folder is not None, "a random model has no weights on disk"
    if source.pickled:
        return bin_conversion.convert_to_safetensors(source.folder, source.fingerprint)
    if source.weight_file is not None:
        return local_model.link_as_model_folder(source.folder, source.weight_file, source.fingerprint)
    weight_files.check_weights(source.folder)
    return source.folder


def bundled_folder(name: str) -> Path:
    """The folder with config, tokenizer and ladder of `bundled/<model>`, without weights."""
    model = name.removeprefix("bundled/")
    if model not in assets.models():
        raise ModelError(f"no bundled model {model!r}", did_you_mean(model, assets.models(), "bundled models"))
    return assets.model_files(model)


def _bundled(name: str, revision: str | None) -> ModelSource:
    model, folder = name.removeprefix("bundled/"), bundled_folder(name)
    rungs = {rung.name: rung for rung in read_rungs(folder / LADDER_FILE)}
    rung = rungs.get(revision or assets.DEFAULT_RUNG)
    if rung is None:
        raise ModelError(f"{name} has no rung {revision!r}", did_you_mean(str(revision), rungs, "rungs"))
    return ModelSource(
        name=name,
        revision=rung.name,
        kind="bundled",
        folder=folder,
        config=local_model.read_config(folder),
        fingerprint=assets.model_sha256(model, rung.name),
        tokenizer_folder=folder,
        pretrain_tokens=rung.tokens,
        arm=rung.arm,
        default_dtype="bfloat16",
        weight_bytes_on_disk=assets.model_bytes(model, rung.name),
    )


def _random(name: str, revision: str | None, max_position_embeddings: int | None) -> ModelSource:
    shape, known = name.removeprefix("random/"), shapes.named_configs()
    if shape not in known:
        raise ModelError(f"no shape {shape!r} is known", did_you_mean(shape, known, "shapes"))
    if revision is not None:
        raise ModelError(f"{name} has no revisions, got {revision!r}", "remove the revision: random weights have one")
    config = known[shape]
    if max_position_embeddings is not None:
        key = "n_positions" if "n_positions" in config else "max_position_embeddings"
        config[key] = max_position_embeddings
    facts = json.dumps({"config": config, "seed": RANDOM_SEED}, sort_keys=True, separators=(",", ":"))
    return ModelSource(
        name=name,
        revision=None,
        kind="random",
        folder=None,
        config=config,
        fingerprint=hashlib.sha256(facts.encode()).hexdigest(),
        tokenizer_folder=assets.model_files(BUNDLED_TOKENIZER),
        pretrain_tokens=0,
        arm=None,
        default_dtype="float32",
        weight_bytes_on_disk=0,
    )


def _local(name: str, revision: str | None, weights: str) -> ModelSource:
    root = Path(name).expanduser()
    if hub_refs.is_cache_folder(root):
        folder = hub_refs.snapshot_folder(root, revision)
        rung = parse_rung(hub_refs.repository_id(root), revision or "main")
    else:
        folder, rung = local_model.find_rung_folder(root, revision)
    config = local_model.read_config(folder)
    rung_file = root / f"{revision}.safetensors" if revision and folder == root else None
    bins = bin_conversion.bin_files(folder) if weights == "bin" and not any(folder.glob("*.safetensors")) else []
    files = bins or ([rung_file] if rung_file else weight_files.check_weights(folder))
    headers = {} if bins else stored_tensors.tensors(files)
    stored_tensors.check_stored_numbers(name, config, headers)
    check_parts(name, headers)
    return ModelSource(
        name=name,
        revision=revision,
        kind="local",
        folder=folder,
        config=config,
        fingerprint=weight_files.fingerprint(config, files),
        tokenizer_folder=local_model.find_tokenizer_folder(folder, root),
        pretrain_tokens=rung.tokens if rung else None,
        arm=rung.arm if rung else None,
        default_dtype=_config_dtype(config) if bins else weight_files.stored_dtype(files),
        weight_bytes_on_disk=sum(file.stat().st_size for file in files),
        pickled=bool(bins),
        weight_file=rung_file,
        notes=(
            *weight_files.notes(folder),
            *adapter_notes(folder),
            *stored_tensors.key_mapping(headers, stored_tensors.is_text(config))[1],
        ),
    )


def adapter_notes(folder: Path) -> list[str]:
    """A note where an adapter lies beside the weights, which are loaded without it."""
    if not (folder / local_model.ADAPTER_FILE).is_file():
        return []
    return [f"an adapter lies in {folder} beside the base and is not used: --adapter or `method: saved` scores it"]


def _config_dtype(config: Mapping[str, Any]) -> str:
    """The dtype of the weights that config.json states."""
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _hub(name: str, revision: str | None, weights: str) -> ModelSource:
    commit = hub.find_commit(name, revision, weights)
    config = local_model.read_config(commit.folder)
    rung = parse_rung(name, revision) if revision else None
    return ModelSource(
        name=name,
        revision=revision,
        kind="hub",
        folder=commit.folder,
        config=config,
        fingerprint=commit.commit,
        tokenizer_folder=commit.folder,
        pretrain_tokens=rung.tokens if rung else None,
        arm=rung.arm if rung else None,
        default_dtype=_config_dtype(config),
        weight_bytes_on_disk=commit.weight_bytes,
        pickled=commit.pickled,
        weight_sha256=commit.weight_sha256,
    )


def _check_causal(name: str, config: Mapping[str, Any]) -> list[str]:
    """Notes about the family; ModelError for encoders, encoder-decoders, unknown quantised formats, two families."""
    heads = config.get("architectures") or []
    if config.get("is_encoder_decoder") or any(head.endswith("MaskedLM") for head in heads):
        raise ModelError(
            f"{name} is not a causal language model (architectures: {', '.join(heads) or config.get('model_type')})",
            "choose a decoder that predicts the next token: Llama, GPT-2, GPT-NeoX, OLMo, Qwen, Gemma, ...",
        )
    stored_quant(name, config)
    return check_stated_family(name, config)


def did_you_mean(got: str, allowed: Iterable[str], what: str) -> str:
    """A next step for a name that does not exist: the nearest one, then all of them."""
    names = list(allowed)
    near = difflib.get_close_matches(got, names, n=1, cutoff=0.4)
    return (f"did you mean {near[0]!r}? " if near else "") + f"{what}: {', '.join(names)}"
