"""What people read: escaping, sentences, figures, and that deleting it breaks nothing."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from html.parser import HTMLParser

import pytest
from support.demo_store import Fit, demo_fits, texts, write_run

from peftodyssey.display import caveats, result_text
from peftodyssey.display.chart_style import inline
from peftodyssey.display.section import Section
from peftodyssey.display.token_text import visible
from peftodyssey.measures.registry import MEASURES
from peftodyssey.recipe.lr_scale import next_lr
from peftodyssey.report import console_table, page, summary
from peftodyssey.report.build import build
from peftodyssey.store import parquet

NASTY = '<script>alert("x")</script> &amp; <img src=x onerror=alert(1)> '


class Reader(HTMLParser):
    """Tags, attributes and text of a page, as a browser would understand them."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def parse(path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    return reader


def with_failures(domain: str, rung: int) -> list[Fit]:
    return [
        *demo_fits(domain, rung),
        Fit("lora <b>r=4</b>", "lora", 1e-3, 0, 0, status="failed"),
        Fit("ia3", "ia3", 1e-3, 0, 0, status="pending"),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    nasty = [NASTY * 20 + text for text in texts("nasty", 35, 12)]
    folder = tmp_path_factory.mktemp("run")
    write_run(
        folder,
        fits=with_failures,
        domains=("notes<i>", "arxiv_cs.CL"),
        documents=35,
        test_texts={"notes<i>": nasty},
    )
    build(folder, measures=MEASURES)
    return folder


@pytest.fixture(scope="module")
def rows(run):
    return parquet.read(run / "results.parquet").to_pylist()


def test_words_of_documents_are_text(run):
    page = parse(run / "report/index.html")
    names = {tag for tag, _ in page.tags}
    assert not names & {"img", "iframe", "object"}
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    scripts = re.findall(r"<script>(.*?)</script>", (run / "report/index.html").read_text(encoding="utf-8"), re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts}
    assert hashes == allowed
    assert [a.get("type") for tag, a in page.tags if tag == "script"].count("application/json") == 1
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    [data] = [text for text in page.text if text.startswith('{"cells":')]
    assert "<" not in data
    assert any(NASTY[:20] in "".join(one["pieces"]) for text in json.loads(data)["texts"] for one in text["documents"])
    assert "lora <b>r=4</b>" in "".join(page.text)


def test_the_page_needs_no_network(run):
    page = parse(run / "report/index.html")
    assert not any(name in attributes for _, attributes in page.tags for name in ("src", "srcset", "data"))
    links = [a["href"] for tag, a in page.tags for key in ("href",) if key in a]
    files = [link for link in links if not link.startswith("#")]
    assert files
    assert all((run / "report" / link).is_file() for link in files)
    style = re.search(r"<style>(.*?)</style>", (run / "report/index.html").read_text(encoding="utf-8"), re.DOTALL)
    assert not re.search(r"@import|url\((?!#)", style.group(1))


def test_ids_of_the_page_are_unique_and_links_arrive(run):
    page = parse(run / "report/index.html")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = {a["href"] for tag, a in page.tags if tag == "a" and "href" in a}
    assert {link[1:] for link in links if link.startswith("#")} <= set(ids)


def test_tables_have_captions_and_figures_have_words(run):
    page = parse(run / "report/index.html")
    count = [tag for tag, _ in page.tags].count
    assert count("table") == count("caption") > 2
    pictures = [a for tag, a in page.tags if a.get("role") == "img" and a.get("class") == "panel"]
    assert len(pictures) == len(list((run / "report/figures").glob("*.svg"))) >= 7
    assert all(len(a["aria-label"]) > 30 for a in pictures)


def test_figures_lie_there_as_svg_png_and_csv(run):
    names = {path.name for path in (run / "report/figures").iterdir()}
    assert names == {
        f"{n}.{kind}"
        for n in (
            "tradeoff",
            "change",
            "frontier",
            "before_after",
            "learning_curves",
            "token_classes",
            "concentration",
            "token_types",
            "ladder",
            "slopes",
        )
        for kind in ("svg", "png", "csv")
    }
    assert (run / "report/figures/change.png").read_bytes().startswith(b"\x89PNG")


def test_deleting_the_report_breaks_nothing(run):
    """Law 10."""
    before = {name: (run / "report" / name).read_bytes() for name in ("summary.md", "index.html", "figures/change.svg")}
    results = (run / "results.parquet").read_bytes()
    shutil.rmtree(run / "report")
    build(run, measures=MEASURES)
    assert {name: (run / "report" / name).read_bytes() for name in before} == before
    assert (run / "results.parquet").read_bytes() == results


def test_sentences_state_numbers_whichever_way_they_fall(rows):
    said = " ".join(result_text.statements(rows))
    assert re.search(
        r"Full fine-tuning .* on arxiv_cs.CL \(annealed-64M\) by -0\.340 nats/token \[-0\.\d+, -0\.\d+\]: better\.",
        said,
    )
    limits = " ".join(caveats.caveats(rows))
    assert "one seed per setting" in limits
    assert "3e-3 (edge: try 1e-2)" in limits
    assert "failed: loss is not finite at step 3" in limits
    assert "4 of 32 cells are not finished" in limits


def row(**changes):
    base = {
        "label": "lora r=8",
        "method": "lora",
        "status": "done",
        "selected": True,
        "lr": 1e-3,
        "lr_edge": None,
        "seed": 0,
        "domain": "d",
        "model": "m",
        "revision": None,
        "newline": "keep",
        "objective": "text",
        "context": 256,
        "delta_nll": 0.02,
        "delta_lo": 0.01,
        "delta_hi": 0.03,
        "forgetting": None,
        "peak_memory_bytes": 3 << 30,
        "reason": None,
        "versions": None,
    }
    return {**base, **changes}


@pytest.mark.parametrize(
    ("changes", "ending"),
    [
        ({}, "by +0.020 nats/token [+0.010, +0.030]: worse."),
        (
            {"delta_nll": -0.02, "delta_lo": -0.03, "delta_hi": -0.01},
            "by -0.020 nats/token [-0.030, -0.010]: better.",
        ),
        ({"delta_lo": -0.01}, "[-0.010, +0.030]: no clear change."),
        (
            {"delta_lo": None, "delta_hi": None},
            "by +0.020 nats/token [no interval]: no interval, so no verdict.",
        ),
    ],
)
def test_verdicts(changes, ending):
    [said] = result_text.statements([row(**changes)])
    assert said.startswith("LoRA r=8 changed test NLL on d by")
    assert said.endswith(ending)


def test_seeds_give_a_noise_floor():
    rows = [row(seed=0, delta_nll=0.02), row(seed=1, delta_nll=0.04, delta_lo=0.03, delta_hi=0.05)]
    two = "+0.030 nats/token [-0.097, +0.157] (mean of 2 seeds; interval over documents and seeds): no clear change"
    assert two in result_text.statements(rows)[0]
    assert "0.0141" in " ".join(caveats.caveats(rows))


@pytest.mark.parametrize(
    ("lr", "edge", "beyond"),
    [(1e-3, "high", 3e-3), (3e-3, "high", 1e-2), (1e-4, "low", 3e-5), (3e-4, "low", 1e-4)],
)
def test_beyond_the_edge(lr, edge, beyond):
    assert next_lr(lr, edge) == pytest.approx(beyond)


def test_numbers_are_written_plainly():
    assert result_text.signed(-0.0001) == "0.000"
    assert result_text.signed(0.1234) == "+0.123"
    assert result_text.format_lr(0.003) == "3e-3"
    assert result_text.format_lr(2.5e-4) == "2.5e-4"
    assert visible(" a\n") == "·a⏎"


def test_the_last_table_fits_80_columns(rows):
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=80).print(console_table.table(rows))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "edge: try 3e-3" in text
    assert "annealed-1024M " in text
    assert re.search(r"\[-0\.\d{3},-0\.\d{3}\]", text)
    assert "…" not in text


def test_runs_are_compared_in_one_page(run, tmp_path):
    other = write_run(
        tmp_path / "other",
        fits=lambda d, r: [Fit("full", "full", 1e-3, -0.1, 0.0)],
        domains=("arxiv_cs.CL",),
        rungs=(64,),
    )
    page = build([run, other], tmp_path / "both", measures=MEASURES)
    text = "".join(parse(page).text)
    assert page == tmp_path / "both/index.html"
    assert "runs compared" in text
    assert "other" in text


def test_a_run_without_finished_cells_has_a_page(tmp_path):
    run = write_run(
        tmp_path,
        fits=lambda d, r: [Fit("full", "full", 1e-3, 0, 0, status="pending")],
        domains=("notes",),
        rungs=(64,),
    )
    text = "".join(parse(build(run, measures=MEASURES)).text)
    assert "No cell is finished yet" in text


def test_notes_and_places_of_sections(rows):
    """Sections follow the table of cells, those at the end last; of one that says nothing only the notes are shown."""
    late = Section("late", "Late?", ["said late"], notes=["a note of late"], place="end", link="Short")
    sections = [
        late,
        Section("empty", "Empty?", [], notes=["a note of empty"]),
        Section("early", "Early?", ["said early"]),
    ]
    data = page.ReportData(rows, sections, [])
    text, said = page.html(data), summary.markdown(data)
    marks = ('<section id="cells"', '<section id="early"', '<section id="late"', '<section id="cost"', "a note of late")
    places = [text.index(mark) for mark in (*marks, page.NLL_IS_NO_TASK, "a note of empty")]
    assert places == sorted(places)
    assert said.index("said early") < said.index("said late") < said.index("a note of empty")
    assert '<a href="#late">Short</a>' in text
    assert "Empty?" not in text + said


def test_ids_of_a_drawing_carry_its_name():
    svg = '<svg ><clipPath role="img" id="a"/><g clip-path="url(#a)"/><use xlink:href="#a"/></svg>'
    assert (
        inline(svg, "n")
        == '<svg aria-hidden="true" ><clipPath id="n-a"/><g clip-path="url(#n-a)"/><use xlink:href="#n-a"/></svg>'
    )
