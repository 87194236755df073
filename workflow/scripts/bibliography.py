"""List ``reports/references.bib`` on a page: programs that render do not do it alike."""

from __future__ import annotations

from pathlib import Path

from pybtex.database import Entry, parse_file

PLACE = "<!-- bibliography -->"


def cite(key: str, entry: Entry) -> str:
    """Write an entry as an item of a list, with a name to link to."""
    people = [
        " ".join([*person.first_names, *person.middle_names, *person.prelast_names,
                  *person.last_names])
        for person in entry.persons["author"]
    ]  # fmt: skip
    shown = people if len(people) <= 6 else [*people[:5], "others"]
    names = shown[0] if len(shown) == 1 else ", ".join(shown[:-1]) + " and " + shown[-1]
    where = entry.fields.get("booktitle") or entry.fields["journal"]
    title = entry.fields["title"]
    title += "" if title.endswith("?") else "."
    line = f'<span id="{key}"></span>{names}. *{title}* {where}, '
    line += f"{entry.fields['year']}."
    if "eprint" in entry.fields:
        number = entry.fields["eprint"]
        line += f" [arXiv {number}](https://arxiv.org/abs/{number})"
    return "- " + line.replace(r"{\'e}", "é")


def bibliography(path: Path) -> str:
    """List the entries of a BibTeX file, by their first author's name and year."""
    entries = parse_file(str(path)).entries
    order = sorted(
        entries,
        key=lambda key: (entries[key].persons["author"][0].last_names, entries[key].fields["year"]),
    )
    return "\n".join(cite(key, entries[key]) for key in order)


def fill(page: Path) -> None:
    """Put the list into a page, where it says so."""
    text = page.read_text(encoding="utf-8")
    listed = bibliography(page.with_suffix(".bib"))
    page.write_text(text.replace(PLACE, listed), encoding="utf-8")
