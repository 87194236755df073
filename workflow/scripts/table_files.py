"""Straighten the tables of a page: one row of headings, no cell that spans, values that sort.

Each table is also written beside the page, as CSV and as Parquet, with the ends of intervals in
columns of their own.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from bs4 import BeautifulSoup, Tag

NUMBER = r"[+\-−]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?"
VALUE = re.compile(rf"({NUMBER})(?: ?%)?$")
SHORT = 22  # characters of a name that is not broken into lines
INTERVAL = re.compile(rf"({NUMBER}) \(({NUMBER}) to ({NUMBER})\)$")


def number_of(text: str) -> float:
    """Read a number as pages write it."""
    return float(text.replace(",", "").replace("−", "-"))


def straighten(page: BeautifulSoup, table: Tag) -> None:
    """Give a table one row of headings and cells that span one row each, in place."""
    for attribute in ("border", "style", "id"):
        table.attrs.pop(attribute, None)
    rows = table.select("thead tr")
    cells = [row.find_all(["th", "td"]) for row in rows]
    if len(rows) == 2 and len(cells[0]) == len(cells[1]):  # pandas: columns, then rows
        for upper, lower in zip(*cells, strict=True):
            if lower.get_text(strip=True):
                upper.string = lower.get_text(strip=True)
        rows.pop().extract()
    for row in rows:
        for cell in row.find_all(["th", "td"]):
            cell.name, cell["scope"] = "th", "colgroup" if cell.get("colspan") else "col"
    unroll(table)
    for cell in table.select("tbody th"):
        cell["scope"] = "row"
        if len(cell.get_text(strip=True)) <= SHORT:
            cell["class"] = [*cell.get("class", []), "short"]
    for row in table.select("tbody tr"):
        for cell in row.find_all(["th", "td"]):
            text = cell.get_text(" ", strip=True)
            if found := re.match(NUMBER, text):
                cell["data-sort"] = f"{number_of(found[0]):g}"
            if INTERVAL.match(text):
                cell["class"] = [*cell.get("class", []), "interval"]


def unroll(table: Tag) -> None:
    """Repeat each cell that spans rows in every one of them, so that rows can be sorted."""
    open_cells: dict[int, tuple[int, Tag]] = {}
    for row in table.select("tbody tr"):
        own = row.find_all(["th", "td"], recursive=False)
        place, placed = 0, []
        while own or place in open_cells:
            if place in open_cells:
                left, cell = open_cells.pop(place)
                copy = cell.__copy__()
                copy["class"] = [*copy.get("class", []), "again"]
                if left > 1:
                    open_cells[place] = (left - 1, cell)
                placed.append(copy)
            else:
                cell = own.pop(0)
                span = int(cell.attrs.pop("rowspan", 1))
                cell.attrs.pop("valign", None)
                if span > 1:
                    open_cells[place] = (span - 1, cell)
                placed.append(cell)
            place += 1
        row.extend([cell.extract() for cell in placed])


def span_of(cell: Tag) -> int:
    """Say how many columns a cell spans."""
    return int(cell.get("colspan", 1))


def frame_of(table: Tag) -> pd.DataFrame:
    """Read a table as numbers and texts; of an interval, its ends get columns of their own."""
    heads = [
        [
            cell.get_text(" ", strip=True)
            for cell in row.find_all("th")
            for _ in range(span_of(cell))
        ]
        for row in table.select("thead tr")
    ]
    names = [", ".join(filter(None, dict.fromkeys(parts))) for parts in zip(*heads, strict=False)]
    rows = [
        [cell.get_text(" ", strip=True) for cell in row.find_all(["th", "td"])]
        for row in table.select("tbody tr")
    ]
    columns: dict[str, list[float | str]] = {}
    for place, name in enumerate(names):
        texts = [row[place] if place < len(row) else "" for row in rows]
        name = name or ("row" if place == 0 else f"column {place + 1}")
        while name in columns:
            name += "'"
        intervals = [INTERVAL.match(text) for text in texts]
        values = [VALUE.match(text) for text in texts]
        if any(intervals) and all(
            i or v or not t for i, v, t in zip(intervals, values, texts, strict=True)
        ):
            for end, group in ((name, 1), (f"{name}, low", 2), (f"{name}, high", 3)):
                columns[end] = [
                    number_of(i[group])
                    if i
                    else number_of(v[1])
                    if v and group == 1
                    else float("nan")
                    for i, v in zip(intervals, values, strict=True)
                ]
        elif all(values):
            columns[name] = [number_of(value[1]) for value in values if value]
        else:
            columns[name] = list(texts)
    return pd.DataFrame(columns)


def publish_tables(page: BeautifulSoup, main: Tag, path: Path) -> None:
    """Straighten every table of a page, and write those with a number beside it."""
    for table in main.find_all("table"):
        straighten(page, table)
        shown = table.find_parent("figure", class_="shown")
        if shown is None:
            holder = table.wrap(page.new_tag("div", attrs={"class": "scrolls"}))
            holder.wrap(page.new_tag("div"))
            continue
        if table.thead is None:
            continue
        if len(table.select("thead tr")) == 1 and len(table.select("tbody tr")) > 2:
            table["class"] = [*table.get("class", []), "sortable"]
        frame = frame_of(table)
        links = page.new_tag("span", attrs={"class": "files"})
        for ending, write in (("csv", frame.to_csv), ("parquet", frame.to_parquet)):
            file = path.with_name(f"{path.stem}-{shown['id']}.{ending}")
            write(file, index=False)
            link = page.new_tag("a", attrs={"href": file.name, "download": ""})
            link.string = {"csv": "CSV", "parquet": "Parquet"}[ending]
            links.extend([" ", link])
        shown.figcaption.append(links)
