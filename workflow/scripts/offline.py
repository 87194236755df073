"""Make a rendered report readable with no network: the post-render step of ``_quarto.yml``.

Quarto and smalldocs both run this script when they have rendered the site. It takes out
what the pages would fetch from elsewhere (web fonts, scripts of a content delivery
network) and what waits for that, sets as MathML the mathematics that smalldocs leaves to
such a script, wraps formulas so that the style sheet reaches them, and folds the code of
notebook cells where the renderer did not. Applied twice, it changes nothing more.
"""

from __future__ import annotations

import html
import os
import re
import sys
from pathlib import Path

MATH = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.DOTALL)
DISPLAYED = re.compile(
    r'(<span class="math display">\s*)?<math\b[^>]*\bdisplay="block".*?</math>', re.DOTALL
)
ANNOTATION = re.compile(r"<annotation\b.*?</annotation>", re.DOTALL)
UNSET = re.compile(r"\$\$.*?\$\$", re.DOTALL)
CODE = re.compile(r"<(pre|code|script|style)\b.*?</\1>", re.DOTALL)
UNKNOWN_COMMAND = re.compile(r">\s*(\\[^<\s]+)")
EXTERNAL_SCRIPT = re.compile(r'<script\b[^>]*\bsrc="(?:https?:)?//[^"]*"[^>]*>\s*</script>\s*')
# Quarto's notebook pages define jQuery with a script of another server, which is taken out.
WAITING_SCRIPT = re.compile(r"<script\b[^>]*>\s*define\('jquery'.*?</script>\s*", re.DOTALL)
EXTERNAL_LINK = re.compile(
    r'<link\b(?=[^>]*\brel="(?:stylesheet|preconnect|preload)")'
    r'[^>]*\bhref="(?:https?:)?//[^"]*"[^>]*>\s*'
)
EXTERNAL_IMPORT = re.compile(
    r"""@import\s*(?:url\()?\s*["']?(?:https?:)?//[^"')]*["']?\s*\)?[^;]*;"""
)
NOTEBOOK_CODE = re.compile(
    r'(?<!</summary>)(?<!</summary>\n)<div class="code-copy-outer-scaffold">'
    r'<div class="sourceCode[^>]*><pre class="[^"]*\bcell-code\b.*?</button></div>',
    re.DOTALL,
)


def typeset_math(page: str) -> str:
    r"""Replace each TeX formula of a page, ``\(...\)`` or ``\[...\]`` in a math span, by MathML.

    Raises
    ------
    ValueError
        If a formula holds a command that cannot be set, since it would be shown as raw
        TeX.
    """

    def to_mathml(match: re.Match[str]) -> str:
        from latex2mathml.converter import convert  # only pages by smalldocs need it

        kind, tex = match[1], html.unescape(match[2])
        formula = convert(tex, display="block" if kind == "display" else "inline")
        if unknown := UNKNOWN_COMMAND.search(formula):
            raise ValueError(
                f"got the TeX command {unknown[1]} in {tex!r}, which has no MathML form; "
                "expected LaTeX that latex2mathml knows. Write the formula another way."
            )
        return f'<span class="math {kind}">{formula}</span>'

    page = MATH.sub(to_mathml, page)
    if raw := UNSET.search(CODE.sub("", page)):
        raise ValueError(
            f"got the formula {html.unescape(raw[0])!r}, which the renderer left as it was typed; "
            "expected LaTeX that it knows. Write the formula another way."
        )
    return page


def wrap_formulas(page: str) -> str:
    """Put each displayed formula into a span of its own, and drop its TeX, which search shows."""

    def wrapped(match: re.Match[str]) -> str:
        return match[0] if match[1] else f'<span class="math display">{match[0]}</span>'

    return DISPLAYED.sub(wrapped, ANNOTATION.sub("", page))


def fold_code(page: str) -> str:
    """Fold the code of each notebook cell under a heading that opens it."""
    return NOTEBOOK_CODE.sub(
        r'<details class="code-fold"><summary>Code</summary>\g<0></details>', page
    )


def cut_external(page: str) -> str:
    """Take scripts and style sheets of other servers out of a page."""
    for pattern in (EXTERNAL_SCRIPT, WAITING_SCRIPT, EXTERNAL_LINK):
        page = pattern.sub("", page)
    return page


def make_offline(site: Path) -> None:
    """Rewrite the pages and style sheets of a rendered site in place."""
    for path in sorted(site.rglob("*.html")):
        page = path.read_text(encoding="utf-8")
        try:
            page = wrap_formulas(typeset_math(cut_external(page)))
            path.write_text(fold_code(page), encoding="utf-8")
        except ValueError as error:
            raise ValueError(f"{path.relative_to(site)}: {error}") from error
    for path in sorted(site.rglob("*.css")):
        path.write_text(EXTERNAL_IMPORT.sub("", path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    try:
        make_offline(Path(os.environ.get("QUARTO_PROJECT_OUTPUT_DIR", "_site")))
    except ValueError as error:
        sys.exit(f"offline: {error}")
