"""Pages use what Quarto and smalldocs understand alike; where Quarto is, both are compared."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from urllib.parse import urljoin

import pytest
import render_report
from bs4 import BeautifulSoup
from conftest import ROOT

#: What one of the two shows in another way, or not at all: name -> pattern.
UNSAFE = {
    "a numbered equation": r"\{#eq-",
    "a cross reference": r"(?<![\w`])@(?:fig|tbl|eq|sec|thm)-",
    "a citation": r"\[-?@[\w:]+|^bibliography:",
    "embed": r"\{\{<\s*embed\b|^embed:",
    "a key that one of them ignores": (
        r"^(?:lightbox|abstract|code-tools|code-summary|warning):|^code-fold: false"
    ),
    "a cell option that one of them ignores": (
        r"^#\|\s*(?:fig-subcap|code-summary|code-fold|warning|lightbox)\b"
        r"|^#\|\s*fig-alt:\s*(?:\[|$)"
    ),
    "a width in percent": r"\{[^}]*width=\"?\d+%",
    "a theorem": r"^:{3,}\s*\{#(?:thm|lem|cor|prp|def|exm)-",
    "a grid table": r"^\+[-=:]+\+",
    "a line block": r"^\| [^|]*$",
    "a cell of code in a page of text": r"^```\{python\}",
    "a heading made by code": r"(?:Markdown|print)\(f?[\"']+#+ ",
    "an annotation of code": r"^[^#`]*\S\s+# <\d+>$",
    "mathematics that they set differently": (
        r"\\begin\{aligned\}|\\operatorname\*|\\tag\{|\\textcolor|\\qty\b"
    ),
}
EXAMPLES = {
    "a numbered equation": "$$x$$ {#eq-x}",
    "a cross reference": "See @fig-gain.",
    "a citation": "as shown [@song2025]",
    "embed": "{{< embed other.ipynb >}}",
    "a key that one of them ignores": "lightbox: true",
    "a cell option that one of them ignores": '#| fig-alt: ["A", "B"]',
    "a width in percent": "![](a.png){width=50%}",
    "a theorem": "::: {#thm-line}",
    "a grid table": "+---+---+",
    "a line block": "| a line of verse",
    "a cell of code in a page of text": "```{python}",
    "a heading made by code": 'Markdown("## Results")',
    "an annotation of code": "x = 1  # <1>",
    "mathematics that they set differently": r"$\operatorname*{arg}$",
}


def unsafe(text: str) -> list[str]:
    """Name the constructs of a text that are not safe."""
    return [name for name, pattern in UNSAFE.items() if re.search(pattern, text, re.M)]


def texts() -> dict[str, str]:
    """Give the text of every page: of notebooks, the cells under each other."""
    found = {path.name: path.read_text() for path in (ROOT / "reports").glob("*.qmd")}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        assert all(isinstance(cell["source"], list) for cell in cells), f"{path}: sources are lists"
        assert not any("remove-input" in cell["metadata"].get("tags", []) for cell in cells), path
        found[path.name] = "\n\n".join("".join(cell["source"]) for cell in cells)
    return found


@pytest.mark.parametrize("name", UNSAFE)
def test_a_construct_that_is_not_safe_is_noticed(name: str) -> None:
    assert unsafe(f"Some words.\n\n{EXAMPLES[name]}\n") == [name]


def test_pages_use_what_both_understand() -> None:
    assert {name: found for name, text in texts().items() if (found := unsafe(text))} == {}


def content(page: Path) -> dict[str, list[str]]:
    """List what a page has, whichever program rendered it."""
    main = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").main
    return {
        "headings": [" ".join(h.get_text().split()) for h in main.find_all(["h1", "h2", "h3"])],
        "figures": [figure["id"] for figure in main.select("figure.shown")],
        "tables": [
            " ".join(cell.get_text(strip=True) for cell in table.find_all(["th", "td"]))
            for table in main.find_all("table")
        ],
        "links": [  # where they lead: how they are written differs
            urljoin(page.as_uri(), link["href"])
            for link in main.select("a[href]")
            if "#cb" not in link["href"]
        ],
    }


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("quarto") is None, reason="needs quarto on the PATH")
def test_both_programs_show_the_same(executed: Path) -> None:
    assert render_report.main(executed, engine="smalldocs") == 0
    ours = {path: content(executed / "_site" / path) for path in pages_of(executed)}
    assert render_report.main(executed) == 0
    assert pages_of(executed) == list(ours)
    for path, found in ours.items():
        assert content(executed / "_site" / path) == found, path


def pages_of(project: Path) -> list[Path]:
    """List the pages of a rendered project."""
    site = project / "_site"
    return sorted(path.relative_to(site) for path in site.rglob("*.html"))
