"""Bind the captions of a page to its figures and tables, and number both.

A paragraph in italics right behind a figure or a table is its caption; a table without one
takes the bold paragraph right before it. Figures that no text parts are one figure. A paragraph
of badges says what limits a run: captions that follow repeat them, where the numbers are. A caption
may carry a name, ``<span id="fig-a"></span>``, and a link to it that reads ``[figure](#fig-a)``
becomes “Figure 3”. So numbers do not depend on the program that renders the page.
"""

from __future__ import annotations

from itertools import pairwise

from bs4 import BeautifulSoup, Tag

TEXT = ("p", "pre", "ul", "ol", "dl", "h1", "h2", "h3", "h4", "blockquote", "summary", "button")
GRAPHICS = ("svg", "img")
BADGE = "badge-limit"
WRAPPERS = ("p", "figure")


def block_of(tag: Tag) -> Tag:
    """Climb to what the renderer put around a figure or a table alone."""
    while (parent := tag.parent) is not None and (
        parent.name in WRAPPERS
        or (parent.name == "div" and not {"cell", "cell-output"} & set(parent.get("class", [])))
    ):
        others = [c for c in parent.find_all(True, recursive=False) if c.name != "style"]
        if len(others) != 1 or parent.name == "main" or parent.get("id"):
            break
        tag = parent
    return tag


def is_caption(paragraph: Tag) -> bool:
    """Say whether all of a paragraph is in italics."""
    parts = [part for part in paragraph.contents if isinstance(part, Tag) or part.strip()]
    return len(parts) == 1 and isinstance(parts[0], Tag) and parts[0].name == "em"


def is_of_badges(paragraph: Tag) -> bool:
    """Say whether a paragraph says what limits a run, and nothing else."""
    parts = [part for part in paragraph.contents if isinstance(part, Tag) or part.strip()]
    return bool(parts) and all(isinstance(p, Tag) and BADGE in p.get("class", []) for p in parts)


def is_title(paragraph: Tag) -> bool:
    """Say whether a paragraph opens in bold, and has no sentence."""
    first = next((c for c in paragraph.contents if isinstance(c, Tag) or c.strip()), None)
    bold = isinstance(first, Tag) and first.name == "strong"
    return bold and not paragraph.get_text().rstrip().endswith((".", ":"))


def items_of(main: Tag) -> list[list[Tag]]:
    """List what a reader meets in turn: figures (those in a row together), tables, text."""
    items: list[list[Tag]] = []
    for tag in main.find_all([*GRAPHICS, "table", *TEXT]):
        if tag.find_parent(["table", "svg", "pre", "button"]):
            continue
        if tag.find_parent(class_="code-fold"):  # the code of the cell that says the caption
            continue
        if tag.name in WRAPPERS and tag.find([*GRAPHICS, "table"]):
            continue
        if tag.name in GRAPHICS and items and items[-1][0].name in GRAPHICS:
            items[-1].append(tag)
        else:
            items.append([tag])
    return items


def bind(page: BeautifulSoup, main: Tag) -> None:
    """Make of each figure or table with its caption a ``<figure>`` with a number, in place."""
    counts = {"figure": 0, "table": 0}
    items = [*items_of(main), [page.new_tag("hr")]]
    before = page.new_tag("hr")
    badges: list[Tag] = []
    for tags, (after, *_) in pairwise(items):
        if tags[0].name == "p" and is_of_badges(tags[0]):
            badges = tags[0].find_all(class_=BADGE)
        if tags[0].name in (*GRAPHICS, "table"):
            kind = "table" if tags[0].name == "table" else "figure"
            caption = page.new_tag("figcaption")
            if after.name == "p" and is_caption(after):
                caption.extend(list(after.em.contents))
                remove(after)
            elif kind == "table" and before.name == "p" and is_title(before):
                caption.extend(list(before.contents))
                remove(before)
            elif kind == "table":
                continue
            if not caption.find(class_=BADGE):
                for badge in reversed(badges):
                    caption.insert(0, badge.__copy__())
            counts[kind] += 1
            frame(page, kind, counts[kind], tags, caption)
        before = tags[-1]
    for link in main.select('a[href^="#"]'):
        target = main.find(id=link["href"][1:])
        shown = target and target.find_parent("figure", class_="shown")
        if shown and link.get_text() in counts:
            link.string = shown["data-number"]


def frame(page: BeautifulSoup, kind: str, number: int, tags: list[Tag], caption: Tag) -> None:
    """Put what is shown into a ``<figure>``, with its caption: of a table above, else below."""
    said = f"{kind.capitalize()} {number}"
    names = {"class": ["shown", f"shown-{kind}"], "id": f"{kind}-{number}", "data-number": said}
    shown = page.new_tag("figure", attrs=names)
    label = page.new_tag("a", attrs={"class": "number", "href": f"#{kind}-{number}"})
    label.string = f"{said}."
    caption.insert(0, label)
    label.insert_after(" ")
    blocks = [block_of(tag) for tag in tags]
    blocks[0].insert_before(shown)
    holder = page.new_tag("div", attrs={"class": "scrolls" if kind == "table" else "drawn"})
    for tag, block in zip(tags, blocks, strict=True):
        holder.append(tag.extract())
        if block is not tag:
            remove(block)
    shown.extend([caption, holder] if kind == "table" else [holder, caption])


def remove(tag: Tag) -> None:
    """Take out a tag, and what held nothing else."""
    parent = tag.parent
    tag.extract()
    while parent is not None and parent.name in ("div", "p", "figure"):
        if parent.get_text(strip=True) or parent.find(True) or parent.get("id"):
            break
        parent, empty = parent.parent, parent
        empty.extract()
