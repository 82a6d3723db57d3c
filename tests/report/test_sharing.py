"""Reports to pass on: without text, packed, and kept current; figures for notebooks."""

from __future__ import annotations

import zipfile

import pytest
from support.demo_store import WORDS, Fit, write_run

import peftodyssey
from peftodyssey.errors import InputError
from peftodyssey.measures.registry import MEASURES
from peftodyssey.report import watch
from peftodyssey.report.build import build
from peftodyssey.report.publish import publish
from peftodyssey.store import manifest

PLANTED = ("zyzzyva", "quokkamere")


def fits(domain: str, rung: int) -> list[Fit]:
    return [Fit("full", "full", 1e-3, -0.25, 0.1), Fit("lora r=8", "lora", 1e-3, -0.2, 0.05)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "mine"
    secret = [f"{' '.join(WORDS[i : i + 9])} {PLANTED[i % 2]} {PLANTED[1]}." for i in range(35)]
    texts = {"notes": secret, "wiki_general": secret}
    write_run(folder, fits=fits, domains=("notes",), rungs=(64,), documents=35, test_texts=texts)
    return folder


def test_without_text_no_word_of_a_document_is_in_the_report_or_the_pack(run, tmp_path):
    packed = tmp_path / "mine.zip"
    page = publish([run], tmp_path / "report", measures=MEASURES, zip=packed, with_text=False)
    with zipfile.ZipFile(packed) as opened:
        names = opened.namelist()
        contents = b"".join(opened.read(name) for name in names)
    assert {"report/index.html", "results.parquet", "contrast.parquet"} <= set(names)
    assert any(name.startswith("plans/") for name in names)
    assert any(name.endswith("manifest.json") for name in names)
    assert not [name for name in names if name.endswith(("documents.parquet", "index.parquet", "nll.parquet"))]
    text = page.read_text(encoding="utf-8")
    assert '<section id="cells"' in text
    for word in PLANTED:
        assert word not in text
        assert word.encode() not in contents
    assert not (tmp_path / "report/figures/token_types.svg").exists()


def test_with_text_the_words_are_there_and_the_pack_is_the_same_bytes(run, tmp_path):
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    page = publish([run], tmp_path / "report", measures=MEASURES, zip=first)
    publish([run], tmp_path / "report", measures=MEASURES, zip=second)
    assert PLANTED[0] in page.read_text(encoding="utf-8")
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as opened:
        assert "words.parquet" in opened.namelist()


def test_a_watched_report_follows_results_and_ends_with_the_run(tmp_path):
    """Pages are made when a result is added; the last one does not load itself again."""
    pending = [Fit("full", "full", 1e-3, -0.25, 0.1), Fit("ia3", "ia3", 1e-3, 0, 0, status="pending")]
    folder = write_run(tmp_path / "run", fits=lambda d, r: pending, domains=("notes",), rungs=(64,))
    built, waited = [], []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            [cell] = [one for one in peftodyssey.open(folder).cells if one["status"] == "pending"]
            (folder / cell["folder"]).mkdir(parents=True, exist_ok=True)
            manifest.fail(folder / cell["folder"], "stopped by the test", "train")

    def make(seconds: int | None):
        built.append(seconds)
        return build(folder, measures=MEASURES, refresh_s=seconds)

    page = watch.watch([folder], make, wait)
    assert built == [watch.INTERVAL_S, None]
    assert len(waited) == 3
    assert 'http-equiv="refresh"' not in page.read_text(encoding="utf-8")
    assert 'http-equiv="refresh"' in make(20).read_text(encoding="utf-8")


def test_an_opened_run_draws_its_figures(run):
    build(run, measures=MEASURES)
    opened = peftodyssey.open(run)
    names = {path.stem for path in (run / "report/figures").glob("*.svg")}
    assert set(opened.draw(None)) == names
    assert opened.figure("tradeoff").to_dict()["data"]["values"]
    with pytest.raises(InputError, match="tradeoff, change, frontier"):
        opened.figure("nothing")
