"""Render the report from ``_quarto.yml``: with Quarto where it is installed, else with smalldocs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml


def navigation(root: Path) -> list[str]:
    """List the pages in the navigation of ``_quarto.yml``, those in menus included."""
    config = yaml.safe_load((root / "_quarto.yml").read_text(encoding="utf-8"))
    entries = config["website"]["navbar"]["left"]
    return [item["href"] for entry in entries for item in entry.get("menu", [entry])]


def missing_pages(root: Path) -> list[str]:
    """Name the pages in the navigation that do not exist yet."""
    return [page for page in navigation(root) if not (root / page).is_file()]


def render_with_smalldocs(root: Path) -> list[str]:
    """Render with smalldocs; return its warnings, without those on settings that only Quarto reads."""
    from smalldocs.site import build

    site = build(root, quiet=True)
    return [warning for warning in site.warnings if "is ignored" not in warning]


def main(root: Path) -> int:
    """Render the site of the project in `root` into ``_site``; return the exit code."""
    if missing := missing_pages(root):
        print(f"the report has no {', '.join(missing)} yet: `make study` makes them", file=sys.stderr)
        return 1
    shutil.rmtree(root / "_site", ignore_errors=True)
    if shutil.which("quarto"):
        code = subprocess.run(["quarto", "render", str(root)]).returncode
    else:
        warnings = render_with_smalldocs(root)
        print("\n".join(f"warning: {warning}" for warning in warnings), end="", file=sys.stderr)
        code = 1 if warnings else 0
    print(f"report: {root / '_site' / 'index.html'}")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parent.parent))
