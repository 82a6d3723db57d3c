"""Exports: merged models measured against plain transformers, refusals, killed exports, and cards that run."""

from __future__ import annotations

import html
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from support import micro
from support.damaged import variant
from support.peft_adapters import lora_folder
from support.scorings import plain_nll
from transformers import AutoModelForCausalLM

from peftodyssey import api, assets
from peftodyssey.corpora.index import read_index, whole_documents
from peftodyssey.errors import InputError, StoreError
from peftodyssey.execution.export import Exported
from peftodyssey.execution.export_base import PlainBase, plain_base
from peftodyssey.execution.export_card import CardFacts, card
from peftodyssey.execution.merge import DRIFT_TOKENS, MergeDrift, MergeOptions
from peftodyssey.methods.tied_head import UNTIED
from peftodyssey.models.source import resolve
from peftodyssey.stats.bootstrap import Interval
from peftodyssey.store import plans

CONTEXT, STRIDE = 64, 48
RECIPE = micro.RECIPE.replace("tokens: 1k", "tokens: 16k").replace("general: [bundled/wiki_general]\n", "")
METHODS = "methods=[{method: lora, rank: 2, lr: 1e-2}, {method: qlora, rank: 2, lr: 1e-2}, {method: full, lr: 1e-3}]"
DIE = (
    "import os, signal, peftodyssey.execution.export as export\n"
    "export.card = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
    "from peftodyssey.cli.main import main\nmain()\n"
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    ran = micro.invoke("run", micro.write(folder, RECIPE), "--out", folder / "out", "--keep", "all", "--set", METHODS)
    assert ran.returncode == 0, ran.stderr
    return folder / "out"


def saved_run(folder: Path, model: Path, *methods: str) -> Path:
    """A run of one or more methods on the bundled text with another base."""
    text = micro.RECIPE.split("methods:")[0].replace("general: [bundled/wiki_general]\n", "")
    text = re.sub("model: .*", f"model: {{name: {model}}}", text) + "methods:\n"
    text += "".join(f"  - {method}\n" for method in methods) + "train:" + micro.RECIPE.split("train:")[1]
    api.run(micro.write(folder, text), folder / "out", console=Console(quiet=True))
    return folder / "out"


def bundled(folder: Path) -> Path:
    """The bundled model as a folder of one's own, in float32; its head is tied."""
    base = variant(assets.unpack_model("odyssey-3m"), folder / "model", lambda s: {k: v.float() for k, v in s.items()})
    (base / "ladder.json").unlink()
    return base


def nll_in_plain_transformers(run: Path, exported: Path) -> float:
    """Mean NLL of the folder on what the card speaks of: transformers and log_softmax alone."""
    model = AutoModelForCausalLM.from_pretrained(exported, dtype="auto")
    index = whole_documents(read_index(run / api.open(run).cells[0]["scores"]["test"]["index"]), DRIFT_TOKENS)
    edges = zip(index.starts[:-1], index.starts[1:], strict=True)
    losses = [plain_nll(model, index.token[a:b].tolist(), CONTEXT, STRIDE) for a, b in edges]
    return float(np.concatenate(losses).astype(np.float64).mean())


def card_nll(exported: Path) -> float:
    found = re.search(r"NLL of the merged model \| ([\d.]+)", (exported / "README.md").read_text(encoding="utf-8"))
    assert found
    return float(found[1])


SLOW = pytest.mark.slow


@pytest.mark.parametrize("into", [None, pytest.param("dequantised", marks=SLOW), pytest.param("original", marks=SLOW)])
def test_the_merged_folder_has_the_nll_of_its_card(out: Path, tmp_path: Path, into: str | None) -> None:
    method, options = ("lora", []) if into is None else ("qlora", ["--into", into])
    ended = micro.invoke("export", out, f"method={method}", "--merge", *options, "--to", tmp_path / "m", "--force")
    assert ended.returncode == 0, ended.stderr
    assert nll_in_plain_transformers(out, tmp_path / "m") == pytest.approx(card_nll(tmp_path / "m"), abs=1e-4)
    text = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    words = {None: "the base's weights", "dequantised": "the dequantised base", "original": "the original base"}[into]
    assert f"Merged into {words}" in text
    assert f"Merged into {words}" in ended.stdout
    assert "Drift: NLL(merged) - NLL(adapter on its base)" in ended.stdout
    assert "95 % interval" in ended.stdout
    assert "convert_hf_to_gguf.py" in text


def test_a_quantised_base_is_dequantised_by_default_and_keeps_the_model(out: Path, tmp_path: Path) -> None:
    kept = api.export(out, "method=qlora", to=tmp_path / "kept", merge=True)
    other = api.export(out, "method=qlora", to=tmp_path / "other", merge=MergeOptions("original", force=True))
    assert kept.merged
    assert other.merged
    assert kept.merged.into.startswith("Merged into the dequantised base")
    assert abs(kept.merged.drift.change.estimate) < 1e-5
    assert kept.merged.drift.kl < 1e-5 < other.merged.drift.kl
    assert kept.merged.drift.adapter_nll == pytest.approx(other.merged.drift.adapter_nll, abs=1e-6)
    assert kept.merged.drift.documents >= 30
    assert kept.merged.drift.tokens < DRIFT_TOKENS + 5000


@pytest.mark.slow
def test_a_drift_above_the_accepted_one_leaves_nothing_behind(out: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "merged"
    options = ("export", out, "method=lora", "--merge", "--max-drift", 0, "--to", target)  # rounding is more than that
    refused = micro.invoke(*options)
    assert refused.returncode == 2
    assert "the merged model is not the adapter on its base" in refused.stderr
    assert not target.parent.exists()
    ended = micro.invoke(*options, "--force")
    assert ended.returncode == 0, ended.stderr
    assert "written with --force" in ended.stdout
    assert "written with --force" in (target / "README.md").read_text(encoding="utf-8")


def test_without_an_interval_the_estimate_decides() -> None:
    drift = MergeDrift(3, 100, 2.0, 2.02, Interval(0.02, None, None, 3, "too few documents (3)"), 0.1)
    assert drift.upper == 0.02
    assert "too few documents (3) for an interval: the estimate decides" in str(drift)


def test_options_that_cannot_be_are_refused(out: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not quantised"):
        api.export(out, "method=lora", to=tmp_path / "m", merge=MergeOptions("dequantised"))
    with pytest.raises(InputError, match="allowed are dequantised, original"):
        MergeOptions("elsewhere")
    with pytest.raises(InputError, match="from 0 on"):
        MergeOptions(max_drift=-1.0)
    for options in (("--into", "original"), ("--force",), ("--max-drift", "1")):
        assert micro.invoke("export", out, "best", *options).returncode == 2
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_model_with_small_norms_is_merged_as_it_was_measured(tmp_path: Path) -> None:
    """Norms 30 times smaller and matrices 30 times larger: rounding that such a base magnifies shows in the drift."""
    scaled = variant(
        bundled(tmp_path),
        tmp_path / "norms-small",
        lambda s: {k: v / 30 if v.dim() == 1 else v * 30 if "proj" in k else v for k, v in s.items()},
    )
    run = saved_run(tmp_path, scaled, "{method: qlora, rank: 2, lr: 1e-2}")
    for into in ("dequantised", "original"):
        options = MergeOptions(into, force=True)
        merged = api.export(run, "method=qlora", to=tmp_path / into, merge=options).merged
        assert merged
        assert "the estimate decides" in str(merged.drift)
        assert nll_in_plain_transformers(run, tmp_path / into) == pytest.approx(card_nll(tmp_path / into), abs=1e-4)
        assert (merged.drift.kl < 1e-5) == (into == "dequantised")


@pytest.mark.slow
def test_a_parted_head_is_untied_and_said_so(tmp_path: Path) -> None:
    base = bundled(tmp_path)
    adapter = lora_folder(base, tmp_path / "apart", modules_to_save=["embed_tokens", "lm_head"])
    run = saved_run(tmp_path, base, f"{{method: saved, path: {adapter}}}")
    exported = api.export(run, "method=saved", to=tmp_path / "merged", merge=True)
    assert exported.merged
    assert abs(exported.merged.drift.change.estimate) < 1e-4
    assert UNTIED in exported.notes
    assert UNTIED in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["tie_word_embeddings"] is False
    assert nll_in_plain_transformers(run, tmp_path / "merged") == pytest.approx(card_nll(tmp_path / "merged"), abs=1e-4)
    run_snippet(api.export(run, "method=saved", to=tmp_path / "adapter"))
    (adapter / "adapter_config.json").write_text(
        (adapter / "adapter_config.json").read_text().replace('"lora_alpha": 8', '"lora_alpha": 9')
    )
    with pytest.raises(StoreError, match="not there as it was scored"):
        api.export(run, "method=saved", to=tmp_path / "changed")


def run_snippet(exported: Exported) -> None:
    """Runs the Python of the card in a process of its own, in the exported folder."""
    text = (exported.folder / "README.md").read_text(encoding="utf-8")
    [source] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ended = subprocess.run(
        [sys.executable, "-c", source],
        cwd=exported.folder,
        env=micro.environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("The")


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["method=lora", "method=qlora", "method=full", "method=lora --merge"])
def test_the_lines_of_the_card_run_as_they_stand(out: Path, tmp_path: Path, cell: str) -> None:
    name, _, merge = cell.partition(" ")
    run_snippet(api.export(out, name, to=tmp_path / "exported", merge=bool(merge)))


@pytest.mark.slow
def test_the_chat_template_of_the_training_is_exported(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello there!"}]
    rows = [{"messages": [{"role": "user", "content": f"Hi {n}"}, talk[1]]} for n in range(60)]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = micro.RECIPE.replace("bundled/arxiv_cs.CL", f"{{name: talk, path: {tmp_path / 'talk.jsonl'}}}")
    text = text.replace("eval_at: [50%, 100%]", "objective: sft, chat_template: plain")
    text = re.sub(r"methods:\n(  - .*\n)+", "methods: [{method: lora, rank: 2, lr: 1e-2}]\n", text)
    api.run(micro.write(tmp_path, text), tmp_path / "out", console=Console(quiet=True))
    exported = api.export(tmp_path / "out", "best", to=tmp_path / "to", device="cpu")
    assert any("chat_template.jinja" in note for note in exported.notes)
    ids = AutoTokenizer.from_pretrained(exported.folder).apply_chat_template(talk)["input_ids"]
    assert ids[0] == ids[-1] == 0
    assert ids.count(0) == 2
    trained = read_index(tmp_path / "out" / plans.cells(tmp_path / "out")[0]["train_index"])
    first = trained.token[: trained.starts[1]].tolist()
    own = [{"role": "user", "content": trained.documents["text"][0].as_py().split("user: ")[1].split("\n")[0]}, talk[1]]
    assert first == AutoTokenizer.from_pretrained(exported.folder).apply_chat_template(own)["input_ids"]


def test_a_killed_export_leaves_no_target_and_the_next_one_sweeps(out: Path, tmp_path: Path) -> None:
    target = tmp_path / "adapter"
    ended = micro.command("export", out, "method=lora", "--to", target, code=DIE)
    assert ended.returncode == -signal.SIGKILL
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1
    api.export(out, "method=lora", to=target)
    assert list(tmp_path.iterdir()) == [target]


def test_a_base_that_plain_transformers_cannot_read_is_written_out(tmp_path: Path) -> None:
    base = bundled(tmp_path)
    assert plain_base(resolve(str(base)), tmp_path / "a") == PlainBase(str(base), None, None)
    prefixed = variant(base, tmp_path / "prefixed", lambda s: {f"_orig_mod.{k}": v for k, v in s.items()})
    assert plain_base(resolve(str(prefixed)), tmp_path / "b").name is None
    models = [AutoModelForCausalLM.from_pretrained(path) for path in (base, tmp_path / "b" / "base")]
    ids = torch.arange(1, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(*(model(ids).logits for model in models))


@pytest.mark.parametrize(
    "name", ["my: models/x", "[x", "a #b", "<script>", "`x` | *y*", "two\nlines", "{a", "- b", "@c"]
)
def test_the_card_is_valid_for_any_name(out: Path, name: str) -> None:
    [row] = [row for row in api.open(out).results.to_pylist() if row["method"] == "lora"]
    facts = CardFacts(True, PlainBase(name, name, None), None, None, False, None)
    text = card({**row, "model": name, "label": name, "domain": name, "revision": name}, facts)
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == name
    assert "<script>" not in body.split("```")[0].replace("`<script>`", "")
    heading = html.unescape(re.sub(r"\\(.)", r"\1", next(line for line in body.splitlines() if line.startswith("# "))))
    assert heading == "# {0} on {0}".format(name.replace("\n", " "))
    [source] = re.findall(r"^````*python\n(.*?)^````*$", text, re.MULTILINE | re.DOTALL)
    compile(source, "card", "exec")


def test_the_card_of_an_upload_names_the_repository_and_no_folder(out: Path) -> None:
    [row] = [row for row in api.open(out).results.to_pylist() if row["method"] == "lora"]
    text = card(row, CardFacts(True, PlainBase(None, None, None), None, None, False, "me/adapter"))
    assert "base_model" not in yaml.safe_load(text.split("---\n")[1])
    assert 'folder = snapshot_download("me/adapter")' in text
