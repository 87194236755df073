"""Render the report: with Quarto where it is installed, else with smalldocs.

Both read ``_quarto.yml``. They do so in a copy under ``cache/site/``, which holds the
pages that the settings of the study make, and menus that lead to these; the finished
site takes the place of the one before.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from bibliography import fill
from config import read_config
from pages import RECORDED, Page, fit_menus, pages_of

from icm_study.plain_yaml import read_yaml

FIXED = ("index.ipynb",)
LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s#]+\.ipynb)(?:#[^()\s]*)?\)")


def read_site(root: Path, pages: Sequence[Page]) -> dict[str, Any]:
    """Read ``_quarto.yml``, with its navigation fitted to the pages."""
    site = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    bar = site["website"]["navbar"]
    bar["left"] = fit_menus(bar["left"], pages)
    return site


def navigation(site: dict[str, Any]) -> list[str]:
    """List the pages in the navigation of a site, those in menus included."""
    entries = site["website"]["navbar"]["left"]
    return [item["href"] for entry in entries for item in entry.get("menu", [entry])]


def missing_pages(root: Path, pages: Sequence[Page] | None = None) -> list[str]:
    """Name the pages in the navigation that do not exist yet; `pages` are those of the settings."""
    site = read_site(root, pages_of(read_config(root), root) if pages is None else pages)
    return [page for page in navigation(site) if not (root / page).is_file()]


def copy_project(root: Path, pages: Sequence[Page], copy: Path) -> None:
    """Copy what the site is rendered from to a new folder, without pages of former runs."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(root / "reports", copy / "reports", ignore=shutil.ignore_patterns("recorded"))
    fill(copy / "reports" / "references.qmd")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(root / "workflow" / "scripts", copy / "workflow" / "scripts", ignore=ignored)
    for name in (*FIXED, *(page.path for page in pages)):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, copy / name)
    for name in (*FIXED, *(page.path for page in pages)):
        unlink_missing(copy / name, copy / "results")
    for page in pages:
        table = (copy / page.path).with_suffix(".parquet")
        for kept in (root / "results" / table.name, root / RECORDED / table.name):
            if kept.is_file() and not table.is_file():
                shutil.copy2(kept, table)
    site = yaml.safe_dump(read_site(root, pages), sort_keys=False, allow_unicode=True)
    (copy / "_quarto.yml").write_text(site, encoding="utf-8")


def unlink_missing(page: Path, results: Path) -> None:
    """Leave the words of links to runs that the settings do not make, in place.

    Parameters
    ----------
    page : Path
        An executed notebook.
    results : Path
        The folder of all pages that are made but the first.
    """

    def keep(link: re.Match[str]) -> str:
        target = (page.parent / link[2]).resolve()
        is_missing = target.parent == results.resolve() and not target.is_file()
        return link[1] if is_missing else link[0]

    notebook = json.loads(page.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        said = [output.get("data", {}) for output in cell.get("outputs", [])]
        texts = [(cell, "source")] if cell["cell_type"] == "markdown" else []
        for place, key in [*texts, *((data, "text/markdown") for data in said)]:
            text = "".join(place.get(key, ""))
            if (kept := LINK.sub(keep, text)) != text:
                place[key] = kept
    page.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def render(project: Path, engine: str | None = None) -> int:
    """Render the site of a project into its ``_site``; return the exit code.

    The engine is Quarto where it is installed, unless ``"smalldocs"`` is asked for.
    """
    if shutil.which("quarto") and engine != "smalldocs":
        return subprocess.run(["quarto", "render", str(project)]).returncode
    from smalldocs.site import build

    site = build(project, quiet=True)
    warnings = [text for text in site.warnings if "is ignored" not in text]  # only Quarto reads it
    print("".join(f"warning: {warning}\n" for warning in warnings), end="", file=sys.stderr)
    return 1 if warnings else 0


def main(root: Path, pages: Sequence[Page] | None = None, engine: str | None = None) -> int:
    """Render the site of the project in `root` into ``_site``; return the exit code.

    Without `pages`, they are those that the settings of the study make; without `engine`, it is
    Quarto where it is installed.
    """
    pages = pages_of(read_config(root), root) if pages is None else pages
    if missing := missing_pages(root, pages):
        print(
            f"the report has no {', '.join(missing)} yet: `make study` makes them", file=sys.stderr
        )
        return 1
    project = root / "cache" / "site"
    copy_project(root, pages, project)
    code = render(project, engine)
    if (project / "_site").is_dir():
        shutil.rmtree(root / "_site", ignore_errors=True)
        shutil.move(project / "_site", root / "_site")
        print(f"report: {root / '_site' / 'index.html'}")
    return code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--pages", help="YAML: [[name, text, menu]]; without, those of the settings"
    )
    given = parser.parse_args().pages
    try:
        listed = [Page(*page) for page in read_yaml(given, "--pages")] if given else None
        sys.exit(main(Path(__file__).resolve().parents[2], listed))
    except ValueError as error:
        sys.exit(f"report: {error}")
