"""What an adapter is, whether it belongs to a base, how large it is by layer, and how far it moves the logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftodyssey.errors import MethodError
from peftodyssey.execution.doctor import PROBLEM
from peftodyssey.memory.device import detect
from peftodyssey.methods import adapter_files
from peftodyssey.methods.adapter_files import AdapterFiles, read_adapter
from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.store import manifest

if TYPE_CHECKING:
    from torch import nn

    from peftodyssey.models.tokenizer import TextTokenizer

LINE = "The results of the experiment agree with the theory, which predicts that energy is conserved."
PREFIX = "base_model.model."
TINY_SHARE = 1e-6  # of the base's weights; a smaller update is lost in bf16


def examine_adapter(folder: Path, base: str, revision: str | None, device: str) -> Iterator[str]:
    """Lines to print, each as soon as it is known; what does not fit begins with PROBLEM. MethodError for no adapter,
    ModelError for a base that cannot be loaded.
    """
    manifest.refuse_damaged(folder)
    adapter = read_adapter(folder)
    yield f"adapter        {folder}: {_described(adapter)}"
    yield f"made for       {adapter.base_name or 'not stated in its config'}; examined on {base}"
    yield from (f"note           {note}" for note in adapter_files.notes(adapter))

    from peftodyssey.methods.adapter_layouts import as_peft_reads_it
    from peftodyssey.methods.registry import METHODS
    from peftodyssey.models.load import load
    from peftodyssey.models.log_filters import quiet
    from peftodyssey.models.source import resolve
    from peftodyssey.models.tokenizer import load_tokenizer

    source, kind = resolve(base, revision), detect(device).kind
    model = load(source, precision="fp32" if kind == "cpu" else "bf16", device=kind)
    modules = dict(model.named_modules())
    readable, notes = as_peft_reads_it(folder, modules)
    yield from (f"note           {note}" for note in notes)
    plain = read_adapter(readable)
    problems = list(_name_problems(plain, modules))
    adapted = {name for name in map(_module, plain.tensors) if name}
    if adapted:
        yield f"modules        {len(adapted & modules.keys())} of {len(adapted)} are modules of the base"
    yield from (f"{PROBLEM}: {problem}" for problem in problems)
    try:
        with quiet():
            attached = METHODS["saved"].load(model, folder)
    except MethodError as error:
        if not problems:
            yield f"{PROBLEM}: {error.message}"
            yield f"repair         {error.next_step}"
        return
    yield from _norms(attached)
    yield _shift(attached, load_tokenizer(source))


def _described(adapter: AdapterFiles) -> str:
    """Type, rank, scale and targets as its config states them."""
    config = adapter.config
    if adapter.is_mlx:
        entry = config.get("lora_parameters") or {}
        return f"{config.get('fine_tune_type', 'lora')} of mlx-lm, rank {entry.get('rank')}, scale {entry.get('scale')}"
    parts = [str(config.get("peft_type", "of no stated type"))]
    parts += [f"rank {config['r']}, alpha {config.get('lora_alpha')}"] if "r" in config else []
    parts += [word for word, key in (("rsLoRA", "use_rslora"), ("DoRA", "use_dora")) if config.get(key)]
    targets = config.get("target_modules")
    parts += [f"on {targets if isinstance(targets, str) else ', '.join(sorted(targets)[:8])}"] if targets else []
    saved = config.get("modules_to_save")
    parts += [f"whole {', '.join(saved)}"] if saved else []
    return ", ".join([*parts, f"{len(adapter.tensors)} tensors"])


def _module(name: str) -> str | None:
    """The base's module that a LoRA tensor in PEFT's layout is about."""
    bare, found, _ = name.removeprefix(PREFIX).partition(".lora_")
    return bare if found else None


def _name_problems(adapter: AdapterFiles, modules: Mapping[str, nn.Module]) -> Iterator[str]:
    """Modules that the base does not have, and matrices of another size, each with what would repair it."""
    adapted = {module: name for name in adapter.tensors if (module := _module(name))}
    if unknown := sorted(module for module in adapted if module not in modules):
        yield (
            f"{len(unknown)} of {len(adapted)} adapted modules are not in the base, first {unknown[0]}; "
            f"{_nearest(unknown[0], modules)}"
        )
    wrong = []
    for name, entry in adapter.tensors.items():
        target = modules.get(_module(name) or "")
        wanted = _wanted(name, target)
        if wanted is not None and entry["shape"][wanted[0]] != wanted[1]:
            wrong.append(f"{name} is {tuple(entry['shape'])}, and the base has {wanted[1]} there")
    if wrong:
        yield f"{len(wrong)} matrices are of another size, first {wrong[0]}: it was made for another size of the model"


def _wanted(name: str, target: Any) -> tuple[int, int] | None:
    """(dimension of a LoRA matrix, its size on this base)."""
    if getattr(target, "in_features", None) is None:
        return None
    if ".lora_A." in name:
        return 1, target.in_features
    return (0, target.out_features) if ".lora_B." in name else None


def _nearest(module: str, modules: Mapping[str, nn.Module]) -> str:
    """What would repair a name that the base does not have."""
    leaf = module.rpartition(".")[2]
    alike = [name for name in modules if name.rpartition(".")[2] == leaf]
    if not alike:
        return f"no module of it is called {leaf}: the adapter is of another family"
    layer = next((int(part) for part in module.split(".") if part.isdigit()), None)
    layers = {int(part) for name in alike for part in name.split(".") if part.isdigit()}
    if layer is not None and layers and layer > max(layers):
        return f"its layers end at {max(layers)}: it was made for a deeper model"
    return f"the base has {alike[0]}: it was made for a model with other names; give that one as the base"


def _norms(attached: AttachedMethod) -> Iterator[str]:
    """Frobenius norms of A, B and their scaled product by decoder layer, and its share of the base weights."""
    import torch
    from peft.tuners.lora import LoraLayer

    from peftodyssey.methods.adapter import ADAPTER_NAME
    from peftodyssey.models.shape_from_meta_model import layer_index

    sums: dict[int | None, list[float]] = {}
    for name, module in attached.model.named_modules():
        layer: Any = module
        if not isinstance(module, LoraLayer) or ADAPTER_NAME not in layer.lora_A:
            continue
        with torch.no_grad():
            weight = layer.get_base_layer().weight
            is_float = weight.is_floating_point()
            parts = [layer.lora_A[ADAPTER_NAME].weight, layer.lora_B[ADAPTER_NAME].weight]
            parts += [layer.get_delta_weight(ADAPTER_NAME), weight if is_float else weight.new_zeros(0)]
            squares = [float(part.detach().double().square().sum()) for part in parts]
        row = sums.setdefault(layer_index(name), [0.0] * 4)
        sums[layer_index(name)] = [total + square for total, square in zip(row, squares, strict=True)]
    for index, squares in sorted(sums.items(), key=lambda item: -1 if item[0] is None else item[0]):
        a, b, update, weight_norm = (square**0.5 for square in squares)
        share = update / weight_norm if weight_norm else 0.0
        where = "outside" if index is None else f"layer {index}"
        small = ": lost in bf16" if 0 < share < TINY_SHARE else ""
        yield f"{where:<14} |A| {a:.4g}, |B| {b:.4g}, |scale BA| {update:.4g}, {share:.2%} of the weights{small}"


def _shift(attached: AttachedMethod, tokenizer: TextTokenizer) -> str:
    """How far the adapter moves the logits of a line of text."""
    import torch

    from peftodyssey.models.scoring_mode import scoring_mode

    prefix = [] if tokenizer.prefix_id is None else [tokenizer.prefix_id]
    device = next(attached.model.parameters()).device
    ids = torch.tensor([prefix + tokenizer.encode(LINE)[0]], device=device)
    with scoring_mode(attached.model):
        after = attached.model(input_ids=ids, use_cache=False).logits[0].double()
        with attached.model.disable_adapter():
            before = attached.model(input_ids=ids, use_cache=False).logits[0].double()
    moved = float((after - before).abs().max())
    divergence = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1).mean()
    moved_text = f"moved by at most {moved:.4g}" if moved else "not moved: it changes nothing"
    return f"logits         {moved_text} on a line of text, KL {float(divergence):.4g} nats a token"
