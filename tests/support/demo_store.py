"""A small real output directory with planted numbers: written through the store, never by a model."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from peftodyssey.store import layout, manifest, parquet, plans, tables

INDEX = {
    "document": pa.int32(),
    "position": pa.int32(),
    "token": pa.int32(),
    "start": pa.int32(),
    "end": pa.int32(),
    "bytes": pa.int32(),
    "class": pa.int8(),
    "trained": pa.bool_(),
}
WORDS = (  # noqa: SIM905
    "the of and in to a is that for with as by on was from model language token training gradient rank adapter "
    "history empire river treaty parliament century army king trade island results table perplexity attention "
    "corpus layer weights 1848 1914 0.3 12"
).split()
FUNCTION_WORDS = set(WORDS[:15])
MEASURED = ("degradation", "forgetting", "tokens")  # what the recipe of a demo run measures


@dataclass(frozen=True)
class Fit:
    """What one demo cell does: nats per token added on test, valid and general text; None: not done."""

    label: str
    method: str
    lr: float
    delta: float
    forgetting: float
    valid: float | None = None
    status: str = "done"
    group: str = ""
    extra: dict[str, Any] = field(default_factory=dict)


def texts(name: str, count: int, words: int = 60) -> list[str]:
    rng = np.random.default_rng(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    documents = []
    for _ in range(count):
        chosen = [WORDS[i] for i in rng.integers(0, len(WORDS), words)]
        body = " ".join(chosen).replace(" is ", ", ").replace(" was ", ".\n")
        documents.append(body + ".")
    return documents


def own_words(documents: list[str]) -> list[str]:
    """Training text that says `empire` and `adapter` more often than general text does."""
    return [text + " empire adapter" * 12 + "." for text in documents]


def token_class(piece: str) -> int:
    stripped = piece.strip()
    if "\n" in piece:
        return 0
    if not stripped:
        return 1
    if stripped[0].isdigit():
        return 3
    if not stripped[0].isalnum():
        return 2
    return 4 if stripped in FUNCTION_WORDS else (5 if piece[0] == " " else 6)


def write_corpus(folder: Path, documents: list[str], name: str, split: str) -> None:
    manifest.prepare_dir(folder)
    rows: dict[str, list] = {key: [] for key in INDEX}
    ids: dict[str, int] = {}
    per_document = []
    for number, text in enumerate(documents):
        spans = [m.span() for m in re.finditer(r" ?\w+|[^\w\s]| ?\n|\s", text)]
        for position, (start, end) in enumerate(spans):
            piece = text[start:end]
            values = (
                number,
                position,
                ids.setdefault(piece, len(ids)),
                start,
                end,
                len(piece.encode()),
                token_class(piece),
                True,
            )
            for key, value in zip(INDEX, values, strict=True):
                rows[key].append(value)
        per_document.append((len(spans), len(text.encode())))
    pq.write_table(pa.table({k: pa.array(v, INDEX[k]) for k, v in rows.items()}), folder / layout.INDEX)
    pq.write_table(
        pa.table(
            {
                "document": pa.array(range(len(documents)), pa.int32()),
                "id": [f"{name}/{i}" for i in range(len(documents))],
                "sha256": [hashlib.sha256(t.encode()).hexdigest() for t in documents],
                "text": documents,
                "tokens": pa.array([t for t, _ in per_document], pa.int32()),
                "bytes": pa.array([b for _, b in per_document], pa.int64()),
                "cluster": [f"{i}:{name}/{i}" for i in range(len(documents))],
            }
        ),
        folder / layout.DOCUMENTS,
    )
    facts = {
        "documents": len(documents),
        "tokens": len(rows["token"]),
        "bytes": sum(b for _, b in per_document),
        "split": split,
        "name": name,
        "tokenizer": "demo",
    }
    manifest.commit(folder, {"kind": "corpus", "facts": facts})


def write_score(folder: Path, nll: np.ndarray, rank: np.ndarray | None = None) -> None:
    """A scored column with these losses and ranks; without `rank` it grows with the loss."""
    manifest.prepare_dir(folder)
    rank = np.maximum(1, nll * 9) if rank is None else rank
    parquet.write_nll(folder, nll.astype(np.float32), rank.astype(np.int32))
    manifest.commit(folder, {"kind": "score", "facts": {"tokens": len(nll), "nll_nats_mean": float(np.nanmean(nll))}})


def base_column(index: Path, shift: float = 0.0) -> np.ndarray:
    """Base NLL: by token id, plus noise that depends on nothing but the folder's name."""
    table = pq.read_table(index / layout.INDEX)
    rng = np.random.default_rng(len(index.name))
    token = table["token"].to_numpy()
    return 2.0 + shift + (token % 7) * 0.45 + rng.gamma(2.0, 0.4, len(token))


def changed(before: np.ndarray, index: Path, delta: float, *, spread: float, seed: int) -> np.ndarray:
    """`before` with a planted mean change of exactly `delta` (to float32), uneven over documents and classes."""
    table = pq.read_table(index / layout.INDEX)
    document, kind = table["document"].to_numpy(), table["class"].to_numpy()
    rng = np.random.default_rng(seed)
    shape = (
        rng.normal(0, spread, document.max() + 1)[document]
        + np.where(kind == 0, 3 * spread, 0)
        + rng.normal(0, 0.4, len(document))
    )
    shape -= shape.mean()
    return before + delta + shape


def demo_fits(domain: str, rung: int) -> list[Fit]:
    gain = -0.34 if domain.startswith("arxiv") else -0.03
    late = 0.015 * rung
    fits = []
    for label, method, lrs, factor, cost in (
        ("full", "full", (3e-4, 1e-3), 1.0, 0.11),
        ("lora r=8", "lora", (1e-3, 3e-3), 0.8, 0.05),
        ("qlora r=8", "qlora", (1e-3, 3e-3), 0.76, 0.055),
    ):
        for step, lr in enumerate(lrs):
            better = 1.0 if step == 1 else 0.8
            extra = {} if method == "full" else {"rank": 8, "alpha": 16.0, "targets": "all-linear"}
            fits.append(
                Fit(
                    label,
                    method,
                    lr,
                    gain * factor * better + late,
                    (cost + 2 * late) * (0.6 + 0.4 * step),
                    group=label,
                    extra=extra,
                )
            )
    return fits


def write_run(
    folder: Path,
    *,
    fits=demo_fits,
    domains=("wiki_history", "arxiv_cs.CL"),
    rungs=(64, 1024),
    documents: int = 40,
    general: tuple[str, ...] = ("wiki_general",),
    recipe: str = "demo",
    test_texts: dict[str, list[str]] | None = None,
    seeds: tuple[int, ...] = (0,),
    measure: tuple[str, ...] = MEASURED,
) -> Path:
    """Write plan, corpora, scores and cells; returns `folder`."""
    cells = []
    for name in (*domains, *general):
        for split in ("test",) if name in general else ("test", "valid"):
            given = (test_texts or {}).get(name) if split == "test" else None
            write_corpus(folder / f"corpora/{name}-{split}", given or texts(f"{name}{split}", documents), name, split)
    for domain in domains:
        write_corpus(folder / f"corpora/{domain}-train", own_words(texts(f"{domain}train", documents)), domain, "train")
        for rung_number, rung in enumerate(rungs):
            for number, fit in enumerate(fits(domain, rung_number)):
                for seed in seeds:
                    cells.append(_write_cell(folder, domain, rung, general, fit, recipe, seed, number))
    plans.write(
        folder,
        recipe,
        "0" * 8,
        {
            "recipe": recipe,
            "created": "2026-01-01T00:00:00",
            "measure": list(measure),
            "cells": cells,
        },
    )
    return folder


def _write_cell(folder, domain, rung, general, fit: Fit, recipe, seed, number) -> dict[str, Any]:
    key = f"{domain}|{rung}|{fit.label}|{fit.lr}|{seed}" + (f"|{budget}" if (budget := fit.extra.get("budget")) else "")
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    cell_folder = f"cells/{layout.folder_name(key, digest)}"
    quant = fit.method == "qlora"
    deltas = {"test": fit.delta, "valid": fit.delta if fit.valid is None else fit.valid}
    scores: dict[str, Any] = {"general": []}
    valid_before = 0.0
    for split, name in (("test", domain), ("valid", domain), *(("general", g) for g in general)):
        index = f"corpora/{name}-{'test' if split == 'general' else split}"
        paths = {
            "index": index,
            "before": f"scores/{name}-{split}-base{rung}",
            "quantised": None,
            "after": f"scores/{name}-{split}-{digest[:8]}",
        }
        before = base_column(folder / index, shift=1.0 / rung**0.25)
        write_score(folder / paths["before"], before)
        valid_before = float(before.mean()) if split == "valid" else valid_before
        if quant:
            paths["quantised"] = f"scores/{name}-{split}-nf4-{rung}"
            write_score(folder / paths["quantised"], before + 0.02)
        if fit.status == "done":
            amount = fit.forgetting if split == "general" else deltas[split]
            column = changed(before, folder / index, amount, spread=0.02 + 0.05 * abs(amount), seed=number)
            write_score(folder / paths["after"], column)
        if split == "general":
            scores["general"].append({"name": name, **paths})
        else:
            scores[split] = paths
    _write_result(folder / cell_folder, digest, domain, fit, quant, deltas["valid"], valid_before)
    coordinates = {
        "label": fit.label,
        "model": "bundled/odyssey-3m",
        "revision": f"annealed-{rung}M",
        "pretrain_tokens": rung * 10**6,
        "arm": "annealed",
        "method": fit.method,
        "quant": "nf4+dq" if quant else None,
        "precision": "fp32",
        "optimizer": "adamw",
        "lr": fit.lr,
        "domain": domain,
        "newline": "keep",
        "objective": "text",
        "seed": seed,
        "context": 256,
        **fit.extra,
    }
    return {
        "cell": digest,
        "slug": layout.slug(key),
        "coordinates": coordinates,
        "group": f"{domain}|{rung}|{fit.group or fit.label}",
        "folder": cell_folder,
        "scores": scores,
        "method_point": {"method": fit.method, "label": fit.label, "lr": fit.lr, "tuned": bool(fit.group)},
        "train_index": f"corpora/{domain}-train",
    }


def _write_result(
    folder: Path, digest: str, domain: str, fit: Fit, quant: bool, valid_delta: float, valid_before: float
) -> None:
    if fit.status == "pending":
        return
    folder.mkdir(parents=True, exist_ok=True)
    if fit.status == "failed":
        manifest.fail(folder, "loss is not finite at step 3", "train")
        return
    manifest.prepare_dir(folder)
    points = [
        {
            "cell": digest,
            "tokens_seen": int(t),
            "step": int(t // 4096),
            "corpus": domain,
            "split": "valid",
            "nll_nats": valid_before + valid_delta * (t / 65536) ** 0.5,
            "tokens": 3000,
        }
        for t in (16384, 32768, 65536)
    ]
    parquet.write_rows(folder / layout.LEARNING_CURVES, points, tables.LEARNING_CURVES)
    facts = {
        "seconds": 11.5,
        "tokens_per_second": 5700.0,
        "peak_memory_bytes": 700 << 20 if not quant else 640 << 20,
        "planned_memory_bytes": 690 << 20,
        "trainable_params": 3_000_000 if fit.method == "full" else 98_304,
        "steps": 16,
        "tokens": 65536,
        "engine": "native",
        "multi_lora_size": 1,
        "micro_batch_size": 4,
        "precision": "fp32",
        "optimizer": "adamw",
        "versions": {"torch": "2.13.0", "peft": "0.21.2"},
        "device": "cpu",
        "resumed_from": 0,
        "weights": "dropped",
    }
    manifest.commit(
        folder, {"kind": "cell", "hash": digest, "identity": {"lr": fit.lr}, "status": "done", "facts": facts}
    )
