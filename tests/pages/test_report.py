"""The report as a reader meets it: executed, rendered, opened in a browser with no network."""

from __future__ import annotations

import functools
import http.server
import json
import posixpath
import re
import shutil
import threading
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urlsplit

import nbformat
import numpy as np
import offline
import pytest
import render_report
import yaml
from config import read_config
from conftest import FRONT, PAGES, ROOT, copy_workflow
from pages import Page, pages_of

from icm_study.report.method_figure import method_figure

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
#: Colour scheme of the reader -> widths; a page is opened and audited at the first.
VIEWS = {"light": (1280, 768), "dark": (390,)}
WIDTHS = tuple(width for widths in VIEWS.values() for width in widths)
SHORT, ANSWER = 42, 62  # words with the heading of what came out, and of the answer of a page
#: Pages whose numbers are of all runs, or of a folder of the reader's own.
UNLIMITED = ("results/claims.html", "results/05_your_data.html")
LARGEST = 1_500_000  # bytes of a page with all that it loads from the site
RAW_MARKUP = re.compile(
    r"@(?:fig|tbl|eq|sec)-|\{\{<|\\[(\[]|\$\$|:::|^#\||\\[A-Za-z]{2,}"
    r"|(?<!\w)\$[^$\n]{1,60}\$(?!\w)",
    re.M,
)


class TestOffline:
    def test_formulas_become_mathml(self) -> None:
        page = (
            r'<p><span class="math inline">\(a &lt; \lambda\)</span></p>'
            r'<span class="math display">\[x^2\]</span>'
        )
        out = offline.typeset_math(page)
        assert out.count("<math") == 2
        assert 'display="inline"' in out
        assert 'display="block"' in out
        assert "\\" not in out

    def test_a_formula_that_cannot_be_set_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "page.html").write_text(
            r'<span class="math inline">\(\nosuchcommand x\)</span>'
        )
        with pytest.raises(ValueError, match=r"page\.html: got the TeX command \\nosuchcommand"):
            offline.make_offline(tmp_path)

    @pytest.mark.parametrize("left", ["$$\\nosuch$$", "$$x &lt; \n y$$"])
    def test_a_formula_that_the_renderer_left_is_an_error(self, left: str) -> None:
        with pytest.raises(ValueError, match=r"got the formula '\$\$"):
            offline.typeset_math(f"<p>{left}</p>")
        for kept in (f"<pre>{left}</pre>", f"<p><code>{left}</code></p>", "<p>costs $$ a day</p>"):
            assert offline.typeset_math(kept) == kept

    def test_displayed_formulas_are_wrapped_once_and_lose_their_tex(self) -> None:
        formula = '<math display="block"><mi>x</mi><annotation encoding="tex">x</annotation></math>'
        page = offline.wrap_formulas(f"<li>{formula} and <math><mi>y</mi></math></li>")
        assert page == (
            '<li><span class="math display"><math display="block"><mi>x</mi></math></span>'
            " and <math><mi>y</mi></math></li>"
        )
        assert offline.wrap_formulas(page) == page

    def test_scripts_that_wait_for_another_server_are_cut(self) -> None:
        waiting = "<script type=\"application/javascript\">define('jquery', [],() => $)</script>"
        assert offline.cut_external(f"a{waiting}b<script>own()</script>") == (
            "ab<script>own()</script>"
        )

    def test_nothing_is_fetched_from_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "page.html").write_text(
            '<link rel="stylesheet" href="https://cdn.example/katex.css"><link '
            'href="site.css" rel="stylesheet">'
            '<link rel="preconnect" href="//fonts.example"><script '
            'src="https://cdn.example/a.js" defer></script>'
            '<script src="site.js"></script><a href="https://example.org">link</a>'
        )
        (tmp_path / "site.css").write_text(
            "@import "
            "url(https://fonts.example/css2?family=Lato:ital,wght@0,400;0,700&display=swap);"
            "@import "
            "'https://fonts.example/x';a{color:red}"
        )
        offline.make_offline(tmp_path)
        page = (tmp_path / "page.html").read_text()
        assert page == (
            '<link href="site.css" rel="stylesheet"><script src="site.js"></script>'
            '<a href="https://example.org">link</a>'
        )
        assert (tmp_path / "site.css").read_text() == "a{color:red}"

    def test_code_of_cells_is_folded_once(self) -> None:
        code = (
            '<div class="code-copy-outer-scaffold"><div class="sourceCode" id="cb1"><pre '
            'class="sourceCode {}">'
            "<code>x</code></pre></div><button><i></i></button></div>"
        )
        page = code.format("python cell-code") + code.format("bash")
        folded = offline.fold_code(page)
        assert folded.count("<details") == 1
        own = "<details><summary>Code</summary>\n" + code.format("python cell-code")
        assert offline.fold_code(own) == own
        assert folded.endswith(code.format("bash"))
        assert offline.fold_code(folded) == folded


class TestRendering:
    def test_missing_pages_are_named(self, tmp_path: Path) -> None:
        shutil.copy(ROOT / "_quarto.yml", tmp_path)
        pages = [Page("01_theory", "Theory", "More results")]
        missing = render_report.missing_pages(tmp_path, pages)
        assert {"index.ipynb", "results/01_theory.ipynb"} <= set(missing)
        assert render_report.main(tmp_path, pages) == 1

    def test_quarto_is_preferred_where_it_is_installed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "bin").mkdir()
        quarto = tmp_path / "bin" / "quarto"
        quarto.write_text('#!/bin/sh\necho "$@" > "$2/called"\nexit 7\n')
        quarto.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:/usr/bin:/bin")
        copy_workflow(tmp_path)
        for name in (
            "_quarto.yml",
            *render_report.FIXED,
            "reports/data.qmd",
            "reports/reproduce.qmd",
            "reports/glossary.qmd",
        ):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            text = (
                '{"cells": []}' if name.endswith(".ipynb") else (ROOT / "_quarto.yml").read_text()
            )
            (tmp_path / name).write_text(text)
        for name in ("references.qmd", "references.bib"):
            shutil.copy(ROOT / "reports" / name, tmp_path / "reports")
        assert render_report.main(tmp_path, []) == 7
        project = tmp_path / "cache" / "site"
        assert (project / "called").read_text().split() == ["render", str(project)]

    def test_links_to_runs_that_are_not_made_are_words(self, tmp_path: Path) -> None:
        said = (
            "[one\nrun](results/gone.ipynb), [a section](results/gone.ipynb#what), "
            "[another](results/made.ipynb), [data](reports/data.qmd), [site](https://a.b/c.ipynb)"
        )
        kept = said.replace("[one\nrun](results/gone.ipynb)", "one\nrun")
        kept = kept.replace("[a section](results/gone.ipynb#what)", "a section")
        cells = [
            nbformat.v4.new_markdown_cell(said),
            nbformat.v4.new_code_cell(
                said, outputs=[nbformat.v4.new_output("display_data", {"text/markdown": said})]
            ),
        ]
        page, results = tmp_path / "index.ipynb", tmp_path / "results"
        results.mkdir()
        nbformat.write(nbformat.v4.new_notebook(cells=cells), page)
        nbformat.write(nbformat.v4.new_notebook(), results / "made.ipynb")
        render_report.unlink_missing(page, results)
        words, code = nbformat.read(page, as_version=4).cells
        assert words.source == code.outputs[0].data["text/markdown"] == kept
        assert code.source == said

    def test_links_of_pages_lead_to_runs_of_the_settings(self) -> None:
        """Else the words would stay, and nobody would notice."""
        made = {"index.ipynb", *(page.path for page in pages_of(read_config(ROOT), ROOT))}
        links = set()
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            folder = "" if path.stem == "00_summary" else "results/"
            for link in render_report.LINK.finditer(json.dumps(nbformat.read(path, as_version=4))):
                links.add(posixpath.normpath(folder + link[2]))
        assert len(links) > 10
        assert links <= made

    def test_every_page_in_the_navigation_is_rendered(self) -> None:
        config = yaml.safe_load((ROOT / "_quarto.yml").read_text())
        patterns = config["project"]["render"]
        pages = render_report.navigation(config)
        assert len(pages) == len(set(pages)) > 5
        for page in pages:
            assert any(Path(page).match(pattern) for pattern in patterns), page


class TestMethodFigure:
    def test_shows_the_pair_and_the_captions(self) -> None:
        images = [np.full((8, 8, 3), value, dtype=np.uint8) for value in (10, 200)]
        figure = method_figure(images, ["a red cow", "a blue cow"])
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert {"a red cow", "a blue cow"} <= set(texts)
        shown = [image.get_array() for image in figure.axes[0].images]
        assert all(any(np.array_equal(image, one) for one in shown) for image in images)

    def test_one_pair_is_expected(self) -> None:
        with pytest.raises(ValueError, match="got 1 images and 2 captions"):
            method_figure([np.zeros((8, 8, 3))], ["a", "b"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FRONT, *PAGES])
def test_runs_with_tiny_parameters(name: str, executed: Path) -> None:
    page = executed / FRONT.get(name, f"results/{name}.ipynb")
    cells = [cell for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells)
    assert any(cell.outputs for cell in cells)
    said = [out.text for cell in cells for out in cell.outputs if out.get("name") == "stderr"]
    assert said == [], "a warning or a progress bar would show on the page"


@pytest.fixture(scope="module")
def site(executed: Path) -> Path:
    """Render the project with the executed notebooks, as ``make report`` does without Quarto."""
    assert render_report.main(executed, engine="smalldocs") == 0
    return executed / "_site"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """Serve the site on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Start a headless browser of this machine."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(
            f"no browser found: install one of {', '.join(BROWSERS)} to test the report in it"
        )
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=BROWSER_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def visits(site: Path, address: str, browser: Any) -> dict[tuple[str, int], dict[str, Any]]:
    """Open every page at every width; note what a reader would meet."""
    found = {}
    axe = (files("axe_playwright_python") / "axe.min.js").read_text()
    for scheme, widths in VIEWS.items():
        view = {"width": widths[0], "height": 900}
        context = browser.new_context(viewport=view, color_scheme=scheme)
        context.set_default_timeout(120_000)  # ms, for a busy machine
        for path in sorted(site.rglob("*.html")):
            name = path.relative_to(site).as_posix()
            page = context.new_page()
            notes: dict[str, Any] = {"trouble": [], "requests": []}
            note(page, notes)
            page.goto(f"{address}/{name}", wait_until="load")
            page.wait_for_load_state("networkidle")
            for width in widths:
                page.set_viewport_size(view | {"width": width})
                page.evaluate(DRAWN)  # what follows the width has done so
                found[name, width] = notes | page.evaluate(LOOK)
            page.set_viewport_size(view)
            page.evaluate(axe)
            found[name, widths[0]]["audit"] = page.evaluate(AUDIT)
            page.close()
        context.close()
    return found


def note(page: Any, notes: dict[str, Any]) -> None:
    """Let a page note its troubles and requests."""
    trouble, requests = notes["trouble"], notes["requests"]
    page.on(
        "console", lambda m: trouble.append(f"console: {m.text}") if m.type == "error" else None
    )
    page.on("pageerror", lambda error: trouble.append(f"script: {error}"))
    page.on("requestfailed", lambda request: trouble.append(f"failed: {request.url}"))
    page.on("request", lambda request: requests.append(request.url))


LOOK = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const text = document.body.cloneNode(true);
  text.querySelectorAll('pre, code, script, style, math').forEach((e) => e.remove());
  const words = text.querySelector('main').cloneNode(true);
  words.querySelectorAll('svg').forEach((e) => e.remove());
  const hides = (e) => getComputedStyle(e).overflowX === 'hidden';
  const clipped = (e) => e.scrollWidth > e.clientWidth + 1 && hides(e);
  return {
    title: document.title,
    text: text.textContent,
    words: words.textContent,
    formulas: all('math').map((e) => ({
      tex: e.textContent, width: e.getBoundingClientRect().width,
      height: e.getBoundingClientRect().height})),
    images: all('main img').map((e) => ({
      source: e.src.slice(0, 60), width: e.naturalWidth, alt: e.alt})),
    tables: all('main table').map((e) => e.querySelectorAll('tbody tr').length),
    overflow: document.documentElement.scrollWidth - window.innerWidth,
    clipped: all('main *').filter(clipped).map((e) => e.outerHTML.slice(0, 80)),
    links: all('a[href]').map((e) => e.href),
    ids: all('[id]').map((e) => e.id),
    bare: all('main svg').filter((e) => !e.closest('figure.shown figcaption, button, .explorer')
      && !e.getAttribute('aria-label')).map((e) => e.outerHTML.slice(0, 80)),
    drawn: all('figure.shown svg[aria-label]').length,
    captions: all('figure.shown figcaption').map((e) => e.textContent.trim().slice(0, 60)),
    told: all('figure.shown figcaption').map((e) => {
      const own = e.cloneNode(true);
      own.querySelectorAll('a, .badge-limit').forEach((e) => e.remove());
      return own.textContent; }),
    uncaptioned: all('main svg').filter((e) => e.getBoundingClientRect().width > 200
      && !e.closest('.explorer') && !e.closest('figure.shown')).length,
    hinted: all('.scrolls').filter((e) => e.checkVisibility()).every((e) =>
      e.scrollWidth <= e.clientWidth + 1 || e.parentElement.classList.contains('overflows')),
    said: all('main p').map((e) => e.textContent.trim()).filter((t) => /^Came out/.test(t))
      .concat(all('main .answer').map((e) => e.textContent.trim())),
    unlimited: all('figure.shown figcaption').filter((e) => !e.querySelector('.badge-limit'))
      .map((e) => e.textContent.trim().slice(0, 60)),
    list: document.getElementById('pages')?.getBoundingClientRect().top,
  };
}"""
DRAWN = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
#: Rows of a table beyond the first are alike, and drawings are one picture each: axe would go
#: through all of what it is told to leave out.
AUDIT = """async () => {
  document.querySelectorAll('svg, math, tbody tr:nth-child(n+5)').forEach((e) => e.remove());
  const found = await axe.run(document, {resultTypes: ['violations']});
  return found.violations.filter((v) => ['serious', 'critical'].includes(v.impact))
    .map((v) => `${v.id}: ${v.nodes[0].html.slice(0, 120)}`);
}"""


@pytest.mark.slow
class TestPages:
    def test_all_pages_are_there(self, visits: dict[tuple[str, int], dict[str, Any]]) -> None:
        for page in render_report.navigation(yaml.safe_load((ROOT / "_quarto.yml").read_text())):
            assert visits[Path(page).with_suffix(".html").as_posix(), WIDTHS[0]]["title"]

    def test_nothing_fails_and_nothing_is_asked_of_the_network(
        self, visits: dict, address: str
    ) -> None:
        for where, visit in visits.items():
            assert visit["trouble"] == [], where
            foreign = [u for u in visit["requests"] if not u.startswith((address, "data:"))]
            assert foreign == [], where

    def test_formulas_are_typeset(self, visits: dict) -> None:
        for where, visit in visits.items():
            for formula in visit["formulas"]:
                assert formula["width"] > 2, (where, formula)
                assert formula["height"] > 2, (where, formula)
                assert "\\" not in formula["tex"], (where, formula)
        assert sum(len(visit["formulas"]) for visit in visits.values()) > 0

    def test_every_image_is_loaded_and_said_in_words(self, visits: dict) -> None:
        for where, visit in visits.items():
            assert [image for image in visit["images"] if not image["width"]] == [], where
            assert [image for image in visit["images"] if not image["alt"].strip()] == [], where
        assert any(visit["drawn"] for visit in visits.values())  # and none is bare

    def test_no_table_is_empty(self, visits: dict) -> None:
        for where, visit in visits.items():
            assert 0 not in visit["tables"], where
        assert visits["results/all_numbers.html", WIDTHS[0]]["tables"]

    def test_no_raw_markup_is_left(self, visits: dict) -> None:
        for where, visit in visits.items():
            assert RAW_MARKUP.findall(visit["text"]) == [], where

    def test_axe_finds_nothing_serious(self, visits: dict) -> None:
        for (name, width), visit in visits.items():
            if width in {widths[0] for widths in VIEWS.values()}:
                assert visit["audit"] == [], (name, width)

    def test_figures_have_captions_and_wide_tables_say_so(self, visits: dict) -> None:
        for where, visit in visits.items():
            assert visit["bare"] == [], where
            assert visit["uncaptioned"] == 0, where
            assert [said for said in visit["told"] if len(said.split()) < 5] == [], where
            assert visit["hinted"], where
        told = [text.split(".")[0] for text in visits["index.html", 1280]["captions"]]
        assert told == [f"Figure {i}" for i in range(1, len(told) + 1)] != []

    def test_the_front_page_is_three_screens_before_the_list_of_pages(self, visits: dict) -> None:
        front = visits["index.html", 1280]
        assert front["list"] <= 3000
        assert len(front["words"].split()) <= 900

    def test_what_came_out_is_said_shortly(self, visits: dict) -> None:
        for (name, width), visit in visits.items():
            for text in visit["said"] if width == WIDTHS[0] else ():
                words = re.sub(r" \(\S+(?:\s%)? to \S+(?:\s%)?\)", "", text).split()  # its interval
                most = SHORT if text.startswith("Came out") else ANSWER
                assert len(words) <= most, (name, len(words), text)
        assert len(visits["index.html", WIDTHS[0]]["said"]) > 3

    def test_captions_of_results_say_what_limits_them(self, visits: dict) -> None:
        for (name, width), visit in visits.items():
            if name.startswith("results/") and name not in UNLIMITED and width == WIDTHS[0]:
                assert visit["captions"] or name == "results/claims.html", name
                assert visit["unlimited"] == [], name

    def test_pages_are_light(self, visits: dict, site: Path, address: str) -> None:
        for (name, width), visit in visits.items():
            if width == WIDTHS[0]:
                paths = {urlsplit(url).path for url in visit["requests"] if url.startswith(address)}
                own = [site / unquote(path).lstrip("/") for path in paths]
                shared = ("site_libs", "search.json")  # the same on every page
                size = sum(p.stat().st_size for p in own if not set(p.parts) & set(shared))
                assert size < LARGEST, (name, size)

    def test_pages_fit_their_width(self, visits: dict) -> None:
        for where, visit in visits.items():
            assert visit["overflow"] <= 0, where
            assert visit["clipped"] == [], where

    def test_internal_links_resolve(self, visits: dict, address: str, site: Path) -> None:
        pages = {
            name: visit["ids"] for (name, width), visit in visits.items() if width == WIDTHS[0]
        }
        for (name, _), visit in visits.items():
            for link in visit["links"]:
                if link.startswith(address):
                    target, fragment = urldefrag(link)
                    path = urlsplit(target).path.lstrip("/") or "index.html"
                    if not path.endswith(".html"):  # a file beside the pages
                        assert (site / path).is_file(), (name, link)
                        continue
                    assert path in pages, (name, link)
                    assert not fragment or unquote(fragment) in pages[path], (name, link)

    def test_a_reader_sorts_filters_and_links_a_claim(self, address: str, browser: Any) -> None:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/results/claims.html", wait_until="networkidle")
        table = page.locator("table.sortable", has=page.locator("th", has_text="statement"))
        page.get_by_label("verdict", exact=True).select_option("refuted")
        shown = table.locator("tbody tr:visible")
        verdicts = shown.locator("td:nth-child(2)").all_text_contents()
        assert verdicts
        assert set(verdicts) == {"refuted"}
        page.get_by_label("verdict", exact=True).select_option("")
        table.locator("th", has_text="#").click()
        page.wait_for_timeout(100)
        numbers = [int(n) for n in table.locator("tbody td:first-child").all_text_contents()]
        assert numbers == sorted(numbers, reverse=True)
        href = table.locator("tbody td:first-child a").first.get_attribute("href")
        assert page.locator(f"tr{href}").count() == 1
        page.close()

    def test_a_reader_turns_the_grid_and_enlarges_a_figure(
        self, address: str, browser: Any
    ) -> None:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/results/03_ablations.html", wait_until="networkidle")
        said = page.locator(".explorer output")
        before = said.text_content()
        assert re.match(r"K = \d+, λ = \S+: \d+\.\d %", before or "")
        page.locator(".explorer input[type=range]").first.fill("0")
        assert said.text_content() != before
        page.locator(".explorer select[name=predictor]").select_option("zero-shot")
        assert "Plain" in (said.text_content() or "")
        page.locator("figure.shown-figure").first.get_by_role("button", name="Enlarge").click()
        assert page.locator("dialog[open] svg").count() == 1
        page.keyboard.press("Escape")
        assert page.locator("dialog").count() == 0
        folds = page.locator("details.code-fold")
        assert folds.locator("visible=true").count() == 0
        page.get_by_role("button", name="Show all code").click()
        assert folds.first.is_visible()
        page.close()

    def test_a_printed_page_holds_its_tables(self, address: str, browser: Any) -> None:
        page = browser.new_page(viewport={"width": 794, "height": 1123})
        page.goto(f"{address}/results/all_numbers.html", wait_until="networkidle")
        page.emulate_media(media="print")
        assert not page.locator("nav").first.is_visible()
        wide = "all => all.filter((e) => e.scrollWidth > 794).length"
        assert page.locator("main .scrolls").evaluate_all(wide) == 0
        page.close()

    def test_the_menu_opens_on_a_phone(self, address: str, browser: Any) -> None:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(f"{address}/index.html", wait_until="networkidle")
        link = page.locator("nav a", has_text="Theory").first
        assert not link.is_visible()
        page.locator(".navbar-toggler").first.click()
        link.wait_for(state="visible", timeout=5000)
        link.click()
        page.wait_for_url("**/01_theory.html")
        page.locator(".navbar-toggler").first.click()
        entry = page.locator("nav a", has_text="PACS").first
        page.locator("nav a", has_text="Domain generalization").first.click()
        entry.wait_for(state="visible", timeout=5000)
        entry.click()
        page.wait_for_url("**/PACS*.html")
        page.close()
