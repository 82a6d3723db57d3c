"""The page in a browser: it runs from disk without a request, and what a reader does with it.

Without Playwright and a Chromium these tests are skipped; .ci/run installs both, and a skip is a failure there.
"""

from __future__ import annotations

import os
import random
import shutil
from urllib.parse import quote

import pytest
from support.demo_store import Fit, texts, write_run

from peftodyssey.display.result_text import ends, signed
from peftodyssey.measures.registry import MEASURES
from peftodyssey.report.build import build
from peftodyssey.store import parquet
from peftodyssey.store.query import query
from peftodyssey.store.views import views_of

VIEWS = views_of(MEASURES)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SCRIPT = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
NASTY = f"{SCRIPT} \"quoted\" 'single' & مرحبا بالعالم 😀 \x07 \u2028 </script> "


def missing(what: str):
    reason = f"{what} is missing: the page is not tried in a browser"
    if os.environ.get("PEFTODYSSEY_NEEDS_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def browser():
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("Playwright (pip install playwright)")
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        missing("Chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield started
        started.close()


def fits(domain: str, rung: int) -> list[Fit]:
    gain = -0.3 if domain == "notes<i>" else -0.1
    return [
        Fit("full", "full", 1e-3, gain, 0.1, group="full"),
        Fit("full", "full", 3e-4, gain * 0.7, 0.04, group="full"),
        Fit(f"lora {SCRIPT}", "lora", 1e-3, 0.8 * gain, 0.03, group="lora"),
        Fit("ia3", "ia3", 1e-3, 0, 0, status="failed"),
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    nasty = [NASTY + text for text in texts("nasty", 34, 30)] + ["x" * 100_000 + " long"]
    folder = tmp_path_factory.mktemp("run") / "mine & <b>"
    write_run(
        folder,
        fits=fits,
        domains=("notes<i>", "arxiv"),
        rungs=(64,),
        documents=35,
        test_texts={"notes<i>": nasty},
        seeds=(0, 1),
    )
    build(folder, measures=MEASURES)
    return folder


@pytest.fixture(scope="module")
def results(run):
    return parquet.read(run / "results.parquet").to_pylist()


@pytest.fixture
def open_page(browser, run):
    """A function: the page at an address, with a list of everything that went wrong or was asked of a network."""
    contexts = []

    def opened(fragment: str = "", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.faults = []
        page.on("console", lambda m: page.faults.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.on("request", lambda r: page.faults.append(r.url) if not r.url.startswith("file://") else None)
        page.goto(f"file://{quote(str(run / 'report/index.html'))}{fragment}")
        page.wait_for_selector("#plot svg")
        return page

    yield opened
    for context in contexts:
        context.close()


def row_texts(page) -> list[str]:
    return page.locator("#grid tbody tr").all_inner_texts()


def number(text: str) -> float:
    return float(text.replace("−", "-"))


def test_it_opens_from_disk_without_a_request_or_an_error(open_page):
    page = open_page()
    assert page.faults == []
    assert page.evaluate("window.hacked") is None
    assert page.locator("h1").count() == 1
    assert "notes<i>" in page.locator("#answers").inner_text()
    assert SCRIPT in page.locator("#grid").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1600])
def test_nothing_is_wider_than_the_window(open_page, width, scheme):
    page = open_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.documentElement.dataset.theme") == scheme
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(v) for v in background[4:-1].split(",")) > 384) == (scheme == "light")
    assert page.faults == []


def test_rows_sort_filter_and_show_all_rates(open_page, results):
    page = open_page()
    selected = [row for row in results if row["selected"] or row["status"] != "done"]
    assert len(row_texts(page)) == len(selected)
    page.select_option("#rates", "all")
    assert len(row_texts(page)) == len(results)
    page.fill("#filter", "3e-4 arxiv")
    assert len(row_texts(page)) == 2
    page.fill("#filter", "")
    page.click('#grid button[data-key="change"]')
    shown = page.locator('#grid td[data-split="test"]').all_inner_texts()
    changes = [number(text.split()[0]) for text in shown]
    assert changes == sorted(changes)
    assert page.locator("#grid th[aria-sort=ascending]").inner_text().startswith("change")
    page.click('#grid button[data-key="change"]')
    assert number(page.locator('#grid td[data-split="test"]').first.inner_text().split()[0]) == max(changes)
    assert page.faults == []


def test_changes_against_the_base_are_those_of_results(open_page, results):
    """Ten random cells, to the printed digits."""
    page = open_page("#rates=all")
    done = [row for row in results if row["status"] == "done"]
    for row in random.Random(0).sample(done, 10):
        for split, names in (
            ("test", ("delta_nll", "delta_lo", "delta_hi")),
            ("general", ("forgetting", "forgetting_lo", "forgetting_hi")),
        ):
            said = page.locator(f'#grid tr[data-cell="{row["cell"]}"] td[data-split="{split}"]').inner_text()
            assert said.replace("−", "-").strip() == printed(*(row[name] for name in names))


def printed(estimate: float, lower: float | None, upper: float | None) -> str:
    return f"{signed(estimate)} {ends(lower, upper)}"


def test_changes_against_a_cell_are_those_of_the_view(open_page, run, results):
    """Three baselines, every cell on the same text, to the printed digits."""
    page = open_page("#rates=all")
    done = [row for row in results if row["status"] == "done"]
    compared = 0
    for minus in random.Random(1).sample(done, 3):
        page.select_option("#baseline", minus["cell"])
        found = query([run], f"select * from differences where minus = '{minus['cell']}'", VIEWS).to_pylist()
        for row in found:
            said = page.locator(f'#grid tr[data-cell="{row["cell"]}"] td[data-split="{row["split"]}"]').inner_text()
            assert said.replace("−", "-").strip() == printed(row["estimate"], row["lo"], row["hi"])
            compared += 1
        assert page.locator("#grid tr.is-baseline").count() == 1
        assert minus["cell"] in page.url
    assert compared >= 40
    other = next(row for row in done if row["domain"] != minus["domain"])
    assert "other text" in page.locator(f'#grid tr[data-cell="{other["cell"]}"]').inner_text()


def test_the_plot_has_the_axes_and_rows_that_the_reader_chooses(open_page):
    page = open_page()
    points = page.locator("#plot path[aria-roledescription=point]")
    first = points.count()
    page.select_option("#rates", "all")
    page.wait_for_function(f"document.querySelectorAll('#plot path[aria-roledescription=point]').length > {first}")
    page.select_option("#axis-x", "lr")
    page.wait_for_function("document.getElementById('plot').textContent.includes('learning rate')")
    assert page.faults == []


def test_words_lead_to_their_token(open_page, results):
    page = open_page()
    page.select_option("#word-split", "general")
    worse = page.locator('#words-lists [data-direction="worse"] li')
    assert 0 < worse.count() <= 12
    assert page.locator('#words-lists [data-direction="worse"] .better').count() == 0
    word = worse.first.locator(".word").evaluate("node => node.firstChild.textContent")
    worse.first.locator("a").click()
    assert "doc=" in page.url
    assert "tok=" in page.url
    token = page.locator("#info .token").inner_text().replace("·", "").strip()
    assert token.casefold() in word.casefold()
    assert page.locator("#panes .at").count() == 1


def test_a_token_says_the_losses_of_the_store(open_page, run, results):
    page = open_page("#doc=3&cells=" + next(r["cell"] for r in results if r["domain"] == "arxiv" and r["selected"]))
    cell = page.locator(".pane").first.get_attribute("data-cell")
    page.locator(".tokens span[data-i='7']").first.hover()
    document = page.evaluate("document.querySelector('#documents [aria-current=true]').title").split("/")[-1]
    sql = f"select * from tokens where cell = '{cell}' and split = 'test' and document = {document} and position = 7"
    [row] = query([run], sql, VIEWS).to_pylist()
    said = page.locator("#info").inner_text()
    assert f"{row['nll_before']:.3f}" in said
    assert f"{row['nll_after']:.3f}" in said
    assert f"{row['rank_before']:,} → {row['rank_after']:,}" in said
    assert row["class"].replace("_", " ") in said


def test_hover_is_linked_over_panes(open_page, results):
    page = open_page("#doc=3&order=number")
    page.click("#add-cell")
    panes = page.locator(".pane").count()
    assert panes == 3
    page.locator(".pane").nth(1).locator("span[data-i='5']").hover()
    assert page.locator("#panes .at").count() == panes
    assert page.locator("#info tr").count() == panes + 1


def test_keys_walk_to_large_changes_and_documents(open_page):
    page = open_page("#doc=3&order=number")
    page.evaluate("document.getElementById('reader').scrollIntoView()")
    page.keyboard.press("n")
    first = page.url
    assert "tok=" in first
    changes = page.locator("#info tr").nth(1).locator("td").nth(3).inner_text()
    assert abs(number(changes)) >= 1
    page.keyboard.press("n")
    assert page.url != first
    page.keyboard.press("p")
    assert page.url == first
    before = page.locator("#documents [aria-current=true]").inner_text()
    page.keyboard.press("j")
    assert page.locator("#documents [aria-current=true]").inner_text() != before
    page.keyboard.press("k")
    assert page.locator("#documents [aria-current=true]").inner_text() == before


def test_an_address_restores_its_view(open_page, results):
    page = open_page()
    page.select_option("#rates", "all")
    page.click('#grid button[data-key="forgetting"]')
    page.select_option("#baseline", results[0]["cell"])
    page.evaluate("document.getElementById('reader').scrollIntoView()")
    page.keyboard.press("j")
    page.keyboard.press("n")
    fragment = page.url.split("#", 1)[1]
    again = open_page(f"#{fragment}")
    assert row_texts(again) == row_texts(page)
    assert again.locator("#info").inner_text() == page.locator("#info").inner_text()
    assert again.locator("#baseline").input_value() == results[0]["cell"]
    assert again.faults == []


def test_nasty_documents_are_text(open_page, results):
    cell = next(row["cell"] for row in results if row["domain"] == "notes<i>" and row["selected"])
    page = open_page(f"#cells={cell}&order=number&doc=0")
    said = page.locator(".tokens").first.inner_text()
    assert "window" in said
    assert "مرحبا" in said
    assert "😀" in said
    assert "␇" in said
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('.tokens img, .tokens script').length") == 0
    assert page.faults == []


def test_every_control_has_a_name_and_the_theme_changes(open_page):
    page = open_page()
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll('button, select, input')].filter((node) => !(node.textContent.trim()
        && node.tagName === 'BUTTON') && !node.getAttribute('aria-label') && !(node.labels && node.labels.length
        && node.labels[0].firstChild.textContent.trim())).map((node) => node.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []
    before = page.evaluate("document.documentElement.dataset.theme")
    page.click("#theme")
    assert page.evaluate("document.documentElement.dataset.theme") != before
    assert page.faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(open_page, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(color_scheme=scheme)
    found = axe.run(page).response["violations"]
    serious = [
        (fault["id"], [node["html"][:160] for node in fault["nodes"][:3]])
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]
    assert serious == []
