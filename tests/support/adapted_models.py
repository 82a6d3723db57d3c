"""Tiny models, their anatomies read off the module tree, and two steps of plain SGD: what the tests of `methods` stand
on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from support.tiny import FAMILIES, WITHOUT_BIASES
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from peftodyssey.methods.attached import AttachedMethod
from peftodyssey.model_shape import LinearShape, ModelShape
from peftodyssey.models.shapes import named_configs
from peftodyssey.recipe.cell import MethodSpec

IDS = torch.arange(1, 25).reshape(2, 12)


def tiny_model(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> PreTrainedModel:
    """A random model of `family`, the same at each call, frozen, without dropout; vectors moved off 0 and 1 so that
    mistakes in them show.
    """
    given = {**named_configs()[f"tiny-{family}"], **changes}
    dropout_off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout"), 0.0)
    config = AutoConfig.for_model(**{**given, **dropout_off})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.to(dtype).requires_grad_(False).train()


def shape_of(model: PreTrainedModel) -> ModelShape:
    """The sizes of `model` counted on its modules."""
    config, linears = model.config, []
    sizes = {"embedding": 0, "head": 0, "norm": 0, "norm0": 0}
    for name, module in model.named_modules():
        numbers = [int(part) for part in name.split(".") if part.isdigit()]
        own = sum(p.numel() for p in module.parameters(recurse=False))
        if isinstance(module, torch.nn.Linear | Conv1D) and numbers:
            shape = tuple(module.weight.shape)
            out, into = shape[::-1] if isinstance(module, Conv1D) else shape
            linears.append(LinearShape(name, out, into, module.bias is not None, numbers[0]))
        elif isinstance(module, torch.nn.Linear):
            sizes["head"] += 0 if config.tie_word_embeddings else own
        elif isinstance(module, torch.nn.Embedding):
            sizes["embedding"] += own
        else:
            sizes["norm"] += own
            sizes["norm0"] += own if numbers[:1] == [0] else 0
    heads = config.num_attention_heads
    return ModelShape(
        family=config.model_type,
        vocabulary=config.vocab_size,
        hidden=config.hidden_size,
        layers=config.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", heads),
        head_dim=config.hidden_size // heads,
        intermediate=0,
        positions=config.max_position_embeddings,
        tied=config.tie_word_embeddings,
        gated=False,
        linears=tuple(linears),
        embedding_parameters=sizes["embedding"],
        head_parameters=sizes["head"],
        norm_parameters=sizes["norm"],
        norm_parameters_by_layer=sizes["norm0"],
    )


def logits(model: torch.nn.Module) -> torch.Tensor:
    """Logits of IDS in evaluation mode, float32; the model's modes are left as they were."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        result = model(input_ids=IDS).logits.float()
    for module, mode in modes.items():
        module.training = mode
    return result


def train(attached: AttachedMethod, steps: int = 2, lr: float = 0.5) -> None:
    """Plain SGD on IDS."""
    optimizer = torch.optim.SGD(attached.trainable.values(), lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        attached.model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()


def max_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    """Largest absolute difference."""
    return float((left - right).abs().max())


def frozen_digest(model: torch.nn.Module, trainable: Collection[str] = ()) -> str:
    """SHA-256 over the bytes of all parameters and persistent buffers not in `trainable`, quantised storage included.

    Another name of a trainable parameter (a tied head) counts as trainable too.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    trained = {id(parameters[name]) for name in trainable}
    skipped = {name for name, parameter in parameters.items() if id(parameter) in trained}
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name in skipped or not isinstance(tensor, torch.Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def method_spec(method: str, **given: Any) -> MethodSpec:
    """A point; low-rank methods at rank 4, alpha 8 unless given."""
    if method in ("lora", "qlora"):
        given = {"rank": 4, "alpha": 8.0, "targets": "all-linear"} | given
    return MethodSpec(method, given.pop("label", method), **given)


def saved_model(model: PreTrainedModel, folder: Path) -> Path:
    """`model` as a folder."""
    model.save_pretrained(folder)
    return folder


SPECS = {
    "full": method_spec("full"),
    "lora": method_spec("lora"),
    "lora-two-targets": method_spec("lora", targets=None),  # filled per family below
    "gaussian": method_spec("lora", options={"init": "gaussian"}),
    "rslora-dora": method_spec("lora", options={"rslora": True, "dora": True}),
    "orthogonal": method_spec("lora", options={"init": "orthogonal"}),
    "mica": method_spec("lora", options={"init": "mica"}),
    "pissa": method_spec("lora", options={"init": "pissa"}),
    "pissa_niter_4-rslora": method_spec("lora", options={"init": "pissa_niter_4", "rslora": True}),
    "olora": method_spec("lora", options={"init": "olora"}),
    "bitfit": method_spec("bitfit"),
    "last_layers": method_spec("last_layers", options={"layers": 1}),
    "ia3": method_spec("ia3"),
    "vera": method_spec("peft", options={"peft_type": "VERA", "config": {"target_modules": "all-linear"}}),
    "ln_tuning": method_spec("peft", options={"peft_type": "LN_TUNING"}),
}
MOVED_STARTS = ("orthogonal", "pissa", "pissa_niter_4-rslora", "olora")  # not exactly zero: 1e-3 by the law
CASES = [
    (family, name)
    for family in FAMILIES
    for name in SPECS
    if not (name == "bitfit" and family in WITHOUT_BIASES)
    and not (
        family == "gpt2" and name in ("olora", "vera")
    )  # olora: refused; vera: PEFT shares one size among all targets
    and not (name == "vera" and family != "llama")
    and not (name == "ln_tuning" and family == "olmo")  # its norms have no parameters
]


def spec_of(name, model):
    given = SPECS[name]
    if name != "lora-two-targets":
        return given
    leaves = sorted({m.leaf for m in shape_of(model).linears})
    return method_spec("lora", targets=(leaves[0], leaves[-1]))


def quantised_model(folder):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=config, device_map={"": "cpu"})
    return model.requires_grad_(False).train()
