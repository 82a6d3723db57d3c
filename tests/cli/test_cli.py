"""The command line: its verbs and options are frozen, mistakes are messages, planning starts without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from support import micro

from peftodyssey.cli.main import app

OPTIONS = {
    "run": {
        "--out",
        "--set",
        "--only",
        "--memory",
        "--stop-after",
        "--keep",
        "--refresh",
        "--checkpoint-every",
        "--device",
        "--allow-oom",
        "--checkpoint-disk",
        "--selfcheck",
        "--verbose",
    },
    "check": {"--set", "--show", "--memory", "--device", "--repair"},
    "plan": {
        "--set",
        "--model",
        "--gpu",
        "--max-position-embeddings",
        "--method",
        "--rank",
        "--seq-len",
        "--micro-batch",
        "--gradient-checkpointing",
        "--optimizer",
        "--engine",
        "--offload",
        "--accumulate",
        "--master-weights",
        "--memory",
        "--device",
        "--probe",
        "--json",
    },
    "status": set(),
    "report": {"--out", "--no-text", "--zip", "--watch", "--scoring"},
    "query": {"--csv", "--json", "--parquet", "--columns", "--scoring", "--timeout"},
    "score": {
        "--adapter",
        "--out",
        "--revision",
        "--split",
        "--context",
        "--stride",
        "--tokens",
        "--first-token",
        "--mode",
        "--quant",
        "--field",
        "--chat-template",
        "--device",
    },
    "export": {"--to", "--merge", "--into", "--max-drift", "--force", "--push", "--scoring", "--device"},
    "schema": set(),
    "doctor": {"--adapter", "--base", "--revision", "--device", "--laws"},
    "ladder list": set(),
    "ladder train": {"--out", "--set", "--stop-after", "--checkpoint-every", "--device"},
    "recipes list": set(),
    "recipes show": set(),
    "recipes copy": set(),
    "recipes new": {"--model", "--domain"},
}


def commands(group: object, prefix: str = "") -> dict[str, set[str]]:
    options: dict[str, set[str]] = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            options |= commands(command, f"{prefix}{name} ")
        else:
            options[prefix + name] = {o for p in command.params for o in p.opts if o.startswith("--")} - {"--help"}
    return options


def test_verbs_and_options_are_the_promised_ones() -> None:
    assert commands(typer.main.get_command(app)) == OPTIONS


def peftodyssey(*arguments: object) -> subprocess.CompletedProcess[str]:
    return micro.invoke(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("check", "quickstart"),
        ("plan", "quickstart"),
        ("recipes", "list"),
        ("schema",),
        ("status", "RUN"),
        ("plan", "--model", "random/llama-7b", "--method", "qlora", "--rank", "16", "--json", "--memory", "24GiB"),
    ],
)
def test_planning_imports_no_torch(arguments: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/a.json").write_text('{"created": "2026", "recipe": "a", "measure": [], "cells": []}')
    arguments = tuple(str(tmp_path) if argument == "RUN" else argument for argument in arguments)
    code = (
        "import sys; sys.argv[0] = 'peftodyssey'\n"
        "from peftodyssey.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "names = {'torch', 'transformers', 'peft', 'datasets', 'trl', 'bitsandbytes', 'duckdb', 'altair'}\n"
        "heavy = names & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    ended = micro.command(*arguments, code=code)
    assert ended.returncode == 0, ended.stderr + ended.stdout


def test_only_that_matches_nothing_names_the_values(tmp_path: Path) -> None:
    ended = peftodyssey("run", "ranks-quick", "--only", "rank=5", "--out", tmp_path)
    assert ended.returncode == 2
    assert "1, 16, 4, 64" in ended.stderr
    assert not list(tmp_path.iterdir())


def test_ten_mistakes_are_ten_problems_with_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "version: 1\n"
        "name: bad\n"
        "seeds: [0]\n"
        "model: {name: bundled/odyssey-3m, revision: [annealed-64M]}\n"  # 1 unknown key
        "domains: [bundled/wiki_history_event]\n"  # 2 unknown text
        "methods:\n"
        "  - {method: lorra, rank: 2}\n"  # 3 unknown method
        "  - {method: lora, rank: 0}\n"  # 4 rank
        "  - {method: full, lr: 0}\n"  # 5 lr
        "train:\n"
        "  budget: 200k tokns\n"  # 6 budget
        "  warmup: 300%\n"  # 7 share
        "  schedule: cosin\n"  # 8 choice
        "score: {context: 64, stride: 128, tokens: -1}\n"  # 9 tokens, 10 stride
        "measure: [degradation, forgeting]\n"  # 11
    )
    ended = peftodyssey("check", path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    lines = {int(line.split(":")[1]) for line in ended.stderr.splitlines() if line.startswith(str(path))}
    assert {4, 7, 8, 9, 11, 12, 13, 14, 15} <= lines
    assert sum(line.startswith(str(path)) for line in ended.stderr.splitlines()) >= 10


def test_plan_of_one_step_as_json(tmp_path: Path) -> None:
    ended = peftodyssey(
        "plan",
        "--model",
        "random/llama-7b",
        "--method",
        "qlora",
        "--rank",
        "16",
        "--seq-len",
        "512",
        "--memory",
        "8GiB",
        "--json",
    )
    answer = json.loads(ended.stdout)
    assert set(answer) >= {"peak_allocated_bytes", "peak_reserved_bytes", "terms", "fits", "advice"}
    assert answer["fits"] is True
    full = peftodyssey("plan", "--model", "random/llama-7b", "--method", "full", "--memory", "8GiB", "--json")
    assert full.returncode == 3
    assert json.loads(full.stdout)["fits"] is False


BAD = {
    "unknown domain": ("domains: [bundled/arxiv_cs.CL]", "domains: [bundled/arxiv_nothing]", "arxiv_nothing"),
    "rank above the layer": (
        "rank: 2, lr: 1e-2}\n  - {method: qlora",
        "rank: 5000, lr: 1e-2}\n  - {method: qlora",
        "5000",
    ),
    "lr 0": ("lr: {tune: [1e-4, 1e-3]}", "lr: 0", "lr"),
    "tokens -1": ("tokens: 1k", "tokens: -1", "tokens"),
    "block too long": ("seq_len: 64, batch_tokens: 256", "seq_len: 4096, batch_tokens: 4096", "positions"),
    "missing text": ("domains: [bundled/arxiv_cs.CL]", "domains: [nowhere/*.txt]", "nowhere"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_input_is_a_sentence_and_exit_2(case: str, tmp_path: Path) -> None:
    old, new, word = BAD[case]
    assert old in micro.RECIPE
    ended = peftodyssey("check", micro.write(tmp_path, micro.RECIPE.replace(old, new)))
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert word in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("empty.txt", b"", "empty"),
        ("latin.txt", b"caf\xe9 " * 100, "UTF-8"),
        ("one.txt", b"a", "1 document"),
        ("small.txt", b"Two sentences. Nothing more.\n\nAnd one.", "1 document"),
        ("bad.jsonl", b'{"text": "fine"}\n{"text": \n', "bad.jsonl"),
        ("fields.jsonl", b'{"title": "2+2?", "n": "4"}\n' * 50, "no field 'text'"),
    ],
)
def test_wrong_text_is_a_sentence_and_nothing_is_lost(name: str, content: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    recipe = micro.write(tmp_path, micro.RECIPE.replace("bundled/arxiv_cs.CL", f"{{name: mine, path: {name}}}"))
    ended = peftodyssey("run", recipe, "--out", tmp_path / "out")
    assert ended.returncode in (1, 2), ended.stdout + ended.stderr
    assert word in ended.stderr + ended.stdout
    assert "Traceback" not in ended.stderr + ended.stdout


def test_score_prints_before_and_after_an_adapter_of_plain_peft(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from peftodyssey import assets

    base = AutoModelForCausalLM.from_pretrained(assets.unpack_model("odyssey-3m"), dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    ended = peftodyssey(
        "score",
        "bundled/odyssey-3m",
        "bundled/arxiv_cs.CL",
        "--adapter",
        tmp_path / "adapter",
        "--tokens",
        "12k",
        "--context",
        "128",
    )
    assert ended.returncode == 0, ended.stderr
    rows = {line.split()[0]: line.split() for line in ended.stdout.splitlines() if line}
    before, after = float(rows["odyssey-3m"][1]), rows["adapter"]
    assert float(after[4]) == pytest.approx(float(after[1]) - before, abs=2e-5)
    assert float(after[5]) < float(after[4]) < float(after[7])


def test_sql_longer_than_any_file_name_is_sql(tmp_path: Path) -> None:
    (tmp_path / "plans").mkdir()
    done = peftodyssey("query", "--csv", tmp_path, f"select count(*) as n from cells where folder <> '{'x' * 300}'")
    assert (done.returncode, done.stdout.split()) == (0, ['"n"', "0"]), done.stderr


def test_a_directory_without_write_permission(tmp_path: Path) -> None:
    import os

    if os.geteuid() == 0:
        place = Path("/proc/nothing-can-be-written-here")
    else:
        place = tmp_path / "locked"
        place.mkdir(mode=0o500)
    ended = peftodyssey("run", micro.write(tmp_path), "--out", place / "out")
    assert ended.returncode == 2
    assert "cannot write" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_help_of_the_module_names_every_verb() -> None:
    out = subprocess.run([sys.executable, "-m", "peftodyssey", "--help"], capture_output=True, text=True).stdout
    for verb in OPTIONS:
        assert verb.split()[0] in out
