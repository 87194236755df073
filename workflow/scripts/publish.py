"""Finish the pages of a rendered report: the second post-render step of ``_quarto.yml``.

Works on what Quarto and smalldocs both write: figures and tables get captions, numbers and files
(:mod:`captions`, :mod:`table_files`), figures take the colours of the reader's theme, a page links
its notebook and all its rows, and its head says what a preview shows. A page that is finished is
left as it is.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import yaml
from bs4 import BeautifulSoup, NavigableString, Tag
from captions import bind
from table_files import publish_tables

MINUS = re.compile(r"(?<![\w.,)\]−-])-(?=\d)")  # before a number; not within a name or a date
PERCENT = re.compile(r"(?<=\d) (?=%)")  # a number and its sign stay on one line
SVG = re.compile(r"<svg\b(?=[^>]*\bviewBox=)(?![^>]*\bdata-kept).*?</svg>", re.DOTALL)
STYLES, GLOSSARY = "reports/styles.css", "reports/glossary.qmd"
VARIANT = re.compile(r"( image\+text| image| text| oracle|, last block)?(, by .*)?$")
VENDOR = "reports/vendor"
SCRIPTS = (  # what a page must have to need a script
    (".sortable", f"{VENDOR}/sortable.min.js"),
    (".explorer", f"{VENDOR}/d3.min.js"),
    (".explorer", f"{VENDOR}/plot.umd.min.js"),
    (".explorer", "reports/explorer.js"),
    ("main", "reports/report.js"),
)
PREVIEW = "preview.png"


def theme_colours(styles: str) -> list[str]:
    """List the colours that the style sheet gives another value in the dark theme."""
    return sorted(set(re.findall(r"--c-([0-9a-f]{6})\b", styles)))


def recolour(svg: str, colours: list[str]) -> str:
    """Let the style sheet set these colours of a drawing."""
    pattern = re.compile(f"#({'|'.join(colours)})\\b", re.IGNORECASE)
    return pattern.sub(lambda c: f"var(--c-{c[1].lower()}, #{c[1]})", svg) if colours else svg


def drawing(image: Tag, folder: Path) -> str | None:
    """Give the drawing that an ``<img>`` shows, if it is one."""
    source = image.get("src", "")
    if source.startswith("data:image/svg+xml;base64,"):
        text = base64.b64decode(source.split(",", 1)[1]).decode()
    elif source.endswith(".svg") and (file := folder / unquote(source)).is_file():
        text = file.read_text(encoding="utf-8")
    else:
        return None
    return text[text.index("<svg") :]


def put_drawings_aside(text: str) -> tuple[str, list[str]]:
    """Replace each drawing of a page by an empty one: they are large, and nothing looks inside."""
    kept: list[str] = []

    def aside(match: re.Match[str]) -> str:
        kept.append(match[0])
        opening = match[0][: match[0].index(">")]
        alt = re.search(r'\balt="([^"]*)"', opening)
        return f'<svg data-kept="{len(kept) - 1}" alt="{alt[1] if alt else ""}"></svg>'

    return SVG.sub(aside, text), kept


def put_drawings_back(text: str, kept: list[str], colours: list[str]) -> str:
    """Undo :func:`put_drawings_aside`; a drawing fits the page and has its words as a label."""

    def back(match: re.Match[str]) -> str:
        alt, number = (re.search(rf'\b{name}="([^"]*)"', match[0]) for name in ("alt", "data-kept"))
        svg = kept[int(number[1])]
        end = svg.index(">")
        opening = re.sub(r'\s(?:alt|width|height|role|aria-label|class)="[^"]*"', "", svg[:end])
        width = re.search(r'viewBox="\S+ \S+ (\S+)', opening)
        size = f"width: {float(width[1]) / 0.75:.0f}px" if width else ""
        drawn = re.sub(r">[^<>]+<", lambda text: MINUS.sub("−", text[0]), svg[end:])
        return (
            f'{opening} role="img" aria-label="{alt[1] if alt else ""}" style="{size}"'
            + recolour(drawn, colours)
        )

    return re.sub(r"<svg\b[^>]*\bdata-kept[^>]*></svg>", back, text)


def finish(text: str, path: Path, site: Path, settings: dict, glossary: dict[str, str]) -> str:
    """Finish one page.

    Parameters
    ----------
    text : str
        The page as it was rendered.
    path, site : Path
        Where it is, and the folder of all pages.
    settings : dict
        ``website`` of ``_quarto.yml``.
    glossary : dict of str to str
        As :func:`glossary_of` gives it.
    """
    light, kept = put_drawings_aside(text)
    page = BeautifulSoup(light, "html.parser")
    main = page.find("main")
    if main is None or main.get("data-finished"):
        return text
    main["data-finished"] = "true"
    for image in main.find_all("img"):
        if svg := drawing(image, path.parent):
            kept.append(svg)
            attributes = {"data-kept": str(len(kept) - 1), "alt": image.get("alt", "")}
            image.replace_with(page.new_tag("svg", attrs=attributes))
    write_numbers(main)
    bind(page, main)
    publish_tables(page, main, path)
    up = "../" * (len(path.relative_to(site).parts) - 1)
    link_methods(page, main, glossary, up)
    add_tools(page, main, path)
    add_head(page, main, settings, up)
    for needed, script in SCRIPTS:
        if page.select_one(needed):
            page.body.append(page.new_tag("script", attrs={"src": up + script, "defer": ""}))
    mark_open_page(page, path, site)
    colours = theme_colours((site / STYLES).read_text(encoding="utf-8"))
    return put_drawings_back(page.decode(formatter="html5"), kept, colours)


def glossary_of(project: Path) -> dict[str, str]:
    """Map each name that the glossary defines to its place there."""
    text = (project / GLOSSARY).read_text(encoding="utf-8")
    return {
        name: place for place, name in re.findall(r'^<span id="(.*?)"></span>(.*)$', text, re.M)
    }


def link_methods(page: BeautifulSoup, main: Tag, glossary: dict[str, str], up: str) -> None:
    """Link the names of methods in tables to what they mean, whatever their pairs are."""
    target = f"{up}{Path(GLOSSARY).with_suffix('.html')}"
    for cell in main.select("tbody th, tbody td"):
        name = cell.get_text(" ", strip=True)
        place = glossary.get(name) or glossary.get(VARIANT.sub("", name))
        if place and not cell.find("a"):
            link = page.new_tag("a", attrs={"href": f"{target}#{place}", "class": "term"})
            link.string = name
            cell.clear()
            cell.append(link)


def write_numbers(main: Tag) -> None:
    """Give numbers in sentences and tables a true minus sign, and keep them beside their percent.

    Code stays as it is typed.
    """
    for text in main.find_all(string=re.compile(f"{MINUS.pattern}|{PERCENT.pattern}")):
        if type(text) is NavigableString and not text.find_parent(
            ["pre", "code", "script", "style"]
        ):
            text.replace_with(PERCENT.sub("\N{NO-BREAK SPACE}", MINUS.sub("−", text)))


def add_tools(page: BeautifulSoup, main: Tag, path: Path) -> None:
    """Link what lies beside a page, under its heading: the notebook, and all rows of its run."""
    files = {".ipynb": "Notebook", ".parquet": "All rows (Parquet)"}
    tools = page.new_tag("p", attrs={"class": "page-tools"})
    for ending, said in files.items():
        if path.with_suffix(ending).is_file():
            link = page.new_tag("a", attrs={"href": path.stem + ending, "download": ""})
            link.string = said
            tools.extend([link, " "])
    if main.select_one("details.code-fold"):
        switch = page.new_tag(
            "button", attrs={"type": "button", "class": "code-switch", "aria-pressed": "false"}
        )
        switch.string = "Show all code"
        tools.append(switch)
    heading = main.find("h1")
    if heading and tools.contents:
        (heading.find_parent("header") or heading).insert_after(tools)


def add_head(page: BeautifulSoup, main: Tag, settings: dict, up: str) -> None:
    """Say what a preview of a page shows: its title, its first sentences, the picture."""
    paragraph = next(
        (p for p in main.find_all("p") if not p.get("class") and len(p.get_text(strip=True)) > 40),
        None,
    )
    words = " ".join(paragraph.get_text().split()) if paragraph else settings["description"]
    words = re.sub(r"^(The question|In short)\. ", "", words)
    short = words if len(words) <= 200 else words[:200].rsplit(" ", 1)[0] + " …"
    title = page.title.get_text() if page.title else settings["title"]
    base = settings.get("site-url", "").rstrip("/")
    said = {
        "og:title": title, "og:description": short, "og:type": "article",
        "og:image": f"{base}/{PREVIEW}" if base else up + PREVIEW,
        "og:image:alt": settings["description"], "twitter:card": "summary_large_image",
    }  # fmt: skip
    for name in ("description", *said):
        key = "property" if name.startswith("og:") else "name"
        for old in page.head.find_all("meta", attrs={key: name}):
            old.extract()
        content = said.get(name, short)
        page.head.append(page.new_tag("meta", attrs={key: name, "content": content}))


def mark_open_page(page: BeautifulSoup, path: Path, site: Path) -> None:
    """Mark the page that is open in the menus, where the renderer did not."""
    for link in page.select("nav a.dropdown-item[href], nav a.nav-link[href]"):
        target = (path.parent / unquote(link["href"].split("#")[0])).resolve()
        if link["href"].split("#")[0] and target == path.resolve():
            link["aria-current"] = "page"
            link["class"] = [*dict.fromkeys([*link.get("class", []), "active"])]


def draw_preview(site: Path, settings: dict) -> None:
    """Draw the picture of a preview: the title, and what the front page says first."""
    import textwrap

    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="#10324a")
    figure.text(0.06, 0.72, settings["title"], color="white", fontsize=44, weight="bold")
    words = textwrap.fill(settings["description"], 48)
    figure.text(0.06, 0.58, words, color="#cfe6f5", fontsize=26, va="top", linespacing=1.4)
    figure.savefig(site / PREVIEW, metadata={"Software": None})


def publish(site: Path, project: Path) -> None:
    """Finish every page of a site, in place.

    Parameters
    ----------
    site : Path
        The rendered pages.
    project : Path
        What they were rendered from, with the notebooks.
    """
    settings = yaml.safe_load((project / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    glossary = glossary_of(project)
    for path in sorted(site.rglob("*.html")):
        source = project / path.relative_to(site)
        for ending in (".ipynb", ".parquet"):
            if source.with_suffix(ending).is_file():
                shutil.copyfile(source.with_suffix(ending), path.with_suffix(ending))
        text = path.read_text(encoding="utf-8")
        path.write_text(finish(text, path, site, settings, glossary), "utf-8")
    draw_preview(site, settings)


if __name__ == "__main__":
    project = Path(os.environ.get("QUARTO_PROJECT_DIR", "."))
    try:
        publish(project / os.environ.get("QUARTO_PROJECT_OUTPUT_DIR", "_site"), project)
    except ValueError as error:
        sys.exit(f"publish: {error}")
