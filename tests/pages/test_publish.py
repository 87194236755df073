"""What is done to a rendered page: captions, numbers, files of tables, drawings, its head."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pandas as pd
import publish
import pytest
from bs4 import BeautifulSoup, Tag
from captions import bind
from conftest import ROOT
from table_files import frame_of, publish_tables, straighten

from icm_study.methods.registry import METHODS
from icm_study.report import style

SVG = '<svg width="75pt" viewBox="0 0 75 30" alt="A line"><path style="fill: #0072b2"/></svg>'
# the same cell as smalldocs and as Quarto write it
SMALLDOCS = (
    '<div class="cell-output cell-output-display"><div class="quarto-figure">'
    '<figure class="figure"><p>{}</p></figure></div></div>'
)
QUARTO = (
    '<div class="cell"><div class="cell-output cell-output-display"><div><figure class="figure">'
    "<p>{}</p></figure></div></div></div>"
)
CAPTION = '<div class="cell-output-markdown"><p><em>{}</em></p></div>'
PANDAS = pd.DataFrame(
    {"in distribution": ["91.2 (90.1 to 92.3)", "80"], "unseen": ["+1,000", "−3.5"]},
    index=pd.MultiIndex.from_tuples([("probe", "a"), ("probe", "b")], names=["predictor", "name"]),
).rename_axis(columns="condition")


def bound(body: str) -> Tag:
    """Bind the captions of a page."""
    page = BeautifulSoup(f"<main>{body}</main>", "html.parser")
    bind(page, page.main)
    return page.main


class TestCaptions:
    def test_folded_code_between_a_figure_and_its_caption_parts_nothing(self) -> None:
        fold = '<details class="code-fold"><summary>Code</summary><pre>x</pre></details>'
        main = bound(SMALLDOCS.format(SVG) + fold + CAPTION.format("A line."))
        assert main.figcaption.get_text() == "Figure 1. A line."
        assert main.find("details")

    @pytest.mark.parametrize("cell", [SMALLDOCS, QUARTO])
    def test_the_caption_behind_a_figure_belongs_to_it(self, cell: str) -> None:
        main = bound(cell.format(SVG) + CAPTION.format("A <b>line</b>.") + "<p>More.</p>")
        shown = main.select_one("figure.shown")
        assert shown["id"] == "figure-1"
        assert shown.figcaption.get_text() == "Figure 1. A line."
        assert [svg.name for svg in shown.select(".drawn > *")] == ["svg"]
        assert len(main.select("svg")) == 1
        assert main.select("em") == []
        assert main.select_one("p").get_text() == "More."

    def test_a_folded_table_has_the_caption_beside_it(self) -> None:
        table = "<table><tbody><tr><td>1</td></tr></tbody></table><p><em>Values.</em></p>"
        main = bound(
            SMALLDOCS.format(SVG) + CAPTION.format("A line.")
            + f"<details><summary>As a table</summary>{table}</details>"
        )  # fmt: skip
        captions = [caption.get_text() for caption in main.select("figcaption")]
        assert captions == ["Figure 1. A line.", "Table 1. Values."]
        assert main.select_one("details > figure.shown > .scrolls > table")
        assert main.details.summary.get_text() == "As a table"

    def test_captions_repeat_what_limits_the_run_above_them(self) -> None:
        badge = '<span class="badge-limit">{}</span>'
        one = SMALLDOCS.format(SVG) + CAPTION.format("{}")
        main = bound(
            one.format("Before.") + f"<p>{badge.format('recorded')} {badge.format('not CLIP')}</p>"
            + one.format("A.") + "<p>Words.</p>" + one.format(badge.format("own") + " B.")
            + f"<p>A sentence with {badge.format('no limit')}</p>" + one.format("C.")
        )  # fmt: skip
        limits = [
            [badge.get_text() for badge in caption.select(".badge-limit")]
            for caption in main.select("figcaption")
        ]
        assert limits == [[], ["recorded", "not CLIP"], ["own"], ["recorded", "not CLIP"]]

    def test_figures_in_a_row_are_one_and_text_parts_them(self) -> None:
        two = SMALLDOCS.format(SVG) + SMALLDOCS.format(SVG)
        caption = CAPTION.format("Both.")
        main = bound(two + caption + "<p>Between.</p>" + SMALLDOCS.format(SVG) + caption)
        assert [len(f.select("svg")) for f in main.select("figure.shown")] == [2, 1]
        assert [f["data-number"] for f in main.select("figure.shown")] == ["Figure 1", "Figure 2"]

    def test_a_table_takes_the_caption_behind_it_or_the_bold_line_before_it(self) -> None:
        table = "<div><table><tr><td>1</td></tr></table></div>"
        main = bound(
            f"<p><strong>Zero-shot</strong>, PACS</p>{table}<p>Words.</p>{table}"
            f"{CAPTION.format('Behind.')}<p><strong>Asked.</strong> What?.</p>{table}"
        )
        assert [c.get_text() for c in main.select("figcaption")] == [
            "Table 1. Zero-shot, PACS", "Table 2. Behind.",
        ]  # fmt: skip
        assert len(main.select("table")) == 3  # the last has no caption, and no number

    def test_a_link_by_name_says_the_number(self) -> None:
        caption = CAPTION.format('<span id="fig-b"></span>Second.')
        words = '<p>See <a href="#fig-b">figure</a> and <a href="#fig-b">the map</a>.</p>'
        one = SMALLDOCS.format(SVG) + CAPTION.format("First.")
        main = bound(words + one + words + SMALLDOCS.format(SVG) + caption)
        assert main.p.get_text() == "See Figure 2 and the map."


class TestTables:
    def parsed(self, html: str) -> tuple[BeautifulSoup, Tag]:
        page = BeautifulSoup(html, "html.parser")
        straighten(page, page.table)
        return page, page.table

    def test_headings_are_one_row_and_no_cell_spans(self) -> None:
        _, table = self.parsed(PANDAS.to_html())
        heads = [head.get_text() for head in table.select("thead th")]
        assert heads == ["predictor", "name", "in distribution", "unseen"]
        rows = [[c.get_text() for c in row.find_all(["th", "td"])] for row in table.tbody("tr")]
        assert rows[1] == ["probe", "b", "80", "−3.5"]
        assert [cell.get("data-sort") for cell in table.tbody("tr")[0](["th", "td"])] == [
            None, None, "91.2", "1000",
        ]  # fmt: skip

    def test_a_table_is_read_as_numbers_with_the_ends_of_intervals(self) -> None:
        _, table = self.parsed(PANDAS.to_html())
        frame = frame_of(table)
        assert frame.columns.tolist() == [
            "predictor", "name", "in distribution", "in distribution, low",
            "in distribution, high", "unseen",
        ]  # fmt: skip
        assert frame["unseen"].tolist() == [1000, -3.5]
        assert frame.iloc[0, 2:5].tolist() == [91.2, 90.1, 92.3]
        assert frame.iloc[1, 3:5].isna().all()

    def test_headings_in_levels_stay(self) -> None:
        columns = pd.MultiIndex.from_product([[16, 64], [0.0, 0.1]], names=["D", "leak"])
        _, table = self.parsed(pd.DataFrame([[1, 2, 3, 4]], ["rule"], columns).to_html())
        assert len(table.select("thead tr")) == 2
        assert frame_of(table).columns.tolist()[1:] == ["16, 0.0", "16, 0.1", "64, 0.0", "64, 0.1"]

    def test_a_numbered_table_lies_beside_its_page(self, tmp_path: Path) -> None:
        page = BeautifulSoup(
            f"<main>{PANDAS.to_html()}<p><em>Accuracy.</em></p></main>", "html.parser"
        )
        bind(page, page.main)
        publish_tables(page, page.main, tmp_path / "page.html")
        links = [link["href"] for link in page.select("figcaption .files a")]
        assert links == ["page-table-1.csv", "page-table-1.parquet"]
        csv, parquet = (pd.read_csv(tmp_path / links[0]), pd.read_parquet(tmp_path / links[1]))
        pd.testing.assert_frame_equal(csv, parquet.astype(csv.dtypes))


class TestPages:
    @pytest.fixture
    def project(self, tmp_path: Path) -> Path:
        site = tmp_path / "_site"
        (site / "reports").mkdir(parents=True)
        (site / "reports" / "styles.css").write_text(".dark { --c-0072b2: #5bb2ea; }")
        (tmp_path / "_quarto.yml").write_text(
            "website: {title: A study, description: What it finds.}"
        )
        (tmp_path / "index.ipynb").write_text("{}")
        (tmp_path / "reports").mkdir()
        shutil.copy(ROOT / publish.GLOSSARY, tmp_path / publish.GLOSSARY)
        body = "<h1>Title</h1><p>The question. " + "Does it help? " * 20 + "</p>" + SVG
        (site / "index.html").write_text(
            f"<html><head><title>T</title></head><body><main>{body}</main></body></html>"
        )
        return tmp_path

    def test_a_page_is_finished_once(self, project: Path) -> None:
        publish.publish(project / "_site", project)
        text = (project / "_site" / "index.html").read_text()
        page = BeautifulSoup(text, "html.parser")
        assert page.svg["role"] == "img"
        assert page.svg["aria-label"] == "A line"
        assert page.svg.path["style"] == "fill: var(--c-0072b2, #0072b2)"
        assert page.find("meta", attrs={"name": "description"})["content"].startswith("Does it")
        assert page.find("meta", attrs={"property": "og:image"})["content"] == "preview.png"
        assert (project / "_site" / "preview.png").stat().st_size > 1000
        assert page.select_one(".page-tools a")["href"] == "index.ipynb"
        assert (project / "_site" / "index.ipynb").is_file()
        publish.publish(project / "_site", project)
        assert (project / "_site" / "index.html").read_text() == text

    def test_numbers_have_a_true_minus_and_stay_with_their_percent(self, project: Path) -> None:
        words = "by -2.6 (-3.7 to -1.6), ViT-B-16, 2e-16, 2024-01-02, 3-4, lite0-minilm, 95 % of"
        page = project / "_site" / "index.html"
        drawn = SVG.replace("</svg>", "<text>-5 of a-1</text></svg>")
        text = page.read_text().replace(SVG, f"<p>{words}</p><pre>f(-1) # 5 %</pre>{drawn}")
        page.write_text(text)
        publish.publish(project / "_site", project)
        main = BeautifulSoup(page.read_text(), "html.parser").main
        said = words.replace(" -", " −").replace("(-", "(−").replace(" %", "\N{NO-BREAK SPACE}%")
        assert said in [p.get_text() for p in main("p")]
        assert main.pre.get_text() == "f(-1) # 5 %"
        assert main.select_one("svg text").get_text() == "−5 of a-1"

    def test_the_names_of_methods_lead_to_the_glossary(self, project: Path) -> None:
        page = project / "_site" / "index.html"
        rows = "".join(
            f"<tr><th>{name}</th></tr>" for name in ("ICM auto image+text, by target", "dog", "PCA")
        )
        page.write_text(page.read_text().replace(SVG, f"<table><tbody>{rows}</tbody></table>"))
        publish.publish(project / "_site", project)
        links = BeautifulSoup(page.read_text(), "html.parser").select("table a")
        assert {link.get_text(): link["href"] for link in links} == {
            "ICM auto image+text, by target": "reports/glossary.html#icm-auto",
            "PCA": "reports/glossary.html#pca",
        }

    def test_the_glossary_defines_every_method_once(self) -> None:
        text = (ROOT / publish.GLOSSARY).read_text()
        glossary = publish.glossary_of(ROOT)
        assert text.count("<span id=") == len(glossary) == len(set(glossary.values()))
        assert text.count("\n:   ") == len(glossary)
        assert [n for n in METHODS if not {n, publish.VARIANT.sub("", n)} & set(glossary)] == []

    def test_a_drawing_in_a_file_is_put_into_the_page(self, tmp_path: Path) -> None:
        (tmp_path / "a b.svg").write_text(f"<?xml version='1.0'?>\n{SVG}")
        inline = base64.b64encode(SVG.encode()).decode()
        for source in ("a%20b.svg", f"data:image/svg+xml;base64,{inline}"):
            image = BeautifulSoup(f'<img src="{source}">', "html.parser").img
            assert publish.drawing(image, tmp_path) == SVG
        photo = BeautifulSoup('<img src="data:image/png;base64,AA">', "html.parser").img
        assert publish.drawing(photo, tmp_path) is None

    def test_the_dark_theme_has_every_colour_of_the_figures(self) -> None:
        known = publish.theme_colours((ROOT / "reports" / "styles.css").read_text())
        used = {*style.PALETTE, style.INK, style.CONTEXT, style.PAPER, style.INVARIANT}
        assert {colour.lower().removeprefix("#") for colour in used} <= set(known)
