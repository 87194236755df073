"""Verdicts as a map, with a dot for each, and as a table whose rows can be linked."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from icm_study.experiments.record import read_table
from icm_study.report.style import CONTEXT, INK, INVARIANT, PAPER, VARIANT
from icm_study.report.verdicts import VERDICTS, anchor, claim_id

#: What makes a recorded page again, by its notebook; other recorded pages are of photographs.
MADE_BY = {
    "06_methods": "make methods",
    "09_identifiability": "make questions",
    "10_open_questions": "make questions",
    "11_released_code": "make questions",
}
#: What a claim was measured on, by the words in it; the first that fits.
MEASURED_ON = {
    "real CLIP": r"real CLIP",
    "animal world": r"animal",
    "theory": r"model|T5\.6",
    "photographs, real CLIP": r", \S+/",
}
LOOKS = dict(zip(VERDICTS, ((INVARIANT, "o"), (VARIANT, "D"), (CONTEXT, "s")), strict=True))


def read_claims(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Read the verdicts of all pages; what two pages measure alike counts once.

    Parameters
    ----------
    paths : sequence of path-like
        Files ``PAGE_claims.parquet``.

    Returns
    -------
    DataFrame
        A table of verdicts, with the columns page (the name of the page that has it first),
        id, topic, measured on and command, which makes the page again.
    """
    tables = []
    for path in paths:
        table, page = read_table(path), Path(path).stem.removesuffix("_claims")
        made = {"page": page, "command": made_by(page, table.attrs)}
        on = [measured_on(claim, page) for claim in table["claim"]]
        tables.append(table.assign(**made, **{"measured on": on}))
    rows = pd.concat([pd.DataFrame(dict(table)) for table in tables], ignore_index=True)
    where = rows["claim"].str.extract(r"\((.*)\)")[0].str.replace(r", \d+ seeds$", "", regex=True)
    rows = rows[~rows.assign(where=where).duplicated(["statement", "where"])]
    topic = rows["claim"].str.replace(r" \(.*", "", regex=True)
    ids = [claim_id(*row) for row in rows[["claim", "statement"]].to_numpy()]
    return rows.assign(topic=topic, id=ids).reset_index(drop=True)


def made_by(page: str, record: Mapping[Any, Any]) -> str:
    """Name the command that makes a page again, from its name and its record."""
    if re.match(r"\d\d_", page):
        return "make study"
    words = str(record.get("command", "")).split()
    notebook = words[1].removesuffix(".ipynb") if words else ""
    return MADE_BY.get(notebook, "make photographs")


def measured_on(claim: str, page: str) -> str:
    """Say what a claim was measured on, from its name: theory, animals, photographs, real CLIP."""
    if page.startswith("01_"):
        return "theory"
    fits = (name for name, pattern in MEASURED_ON.items() if re.search(pattern, claim))
    return next(fits, "photographs")


def tally(rows: pd.DataFrame) -> pd.DataFrame:
    """Count the verdicts of :func:`read_claims` by topic."""
    counts = rows.groupby(["topic", "verdict"], sort=False).size().unstack(fill_value=0)
    kept = [verdict for verdict in VERDICTS if verdict in counts]
    return counts[kept].rename_axis(None, axis=1).reset_index()


def verdict_table(rows: pd.DataFrame) -> HTML:
    """Show verdicts as a table in which each row has a name and a link to itself.

    Parameters
    ----------
    rows : DataFrame
        A table of verdicts. With a column page, as :func:`read_claims` gives it, each row
        links the section that measured it, from a page of the folder ``results``.
    """
    from_pages = "page" in rows
    heads = ["#", "verdict", "claim", "statement", "measured", "threshold"]
    heads += ["measured on", "command", "page"] if from_pages else []
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(
        _row(number, row, from_pages) for number, row in enumerate(rows.to_dict("records"), 1)
    )
    return HTML(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def _row(number: int, row: Mapping[Any, Any], from_pages: bool) -> str:
    name = claim_id(row["claim"], row["statement"])
    verdict = f'<span class="verdict {row["verdict"].replace(" ", "-")}">{row["verdict"]}</span>'
    cells = [f'<a href="#{name}">{number}</a>', verdict]
    cells += [
        html.escape(row[column]) for column in ("claim", "statement", "measured", "threshold")
    ]
    if from_pages:
        cells += [html.escape(row["measured on"]), f"<code>{row['command']}</code>"]
        said = html.escape(page_name(row["page"]))
        cells.append(f'<a href="{row["page"]}.html#{anchor(row["section"])}">{said}</a>')
    return f'<tr id="{name}">' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def page_name(page: str) -> str:
    """Say the name of a page's file in words."""
    return re.sub(r"^\d+_", "", page).replace("_", " ")


def claims_map(rows: pd.DataFrame) -> Figure:
    """Draw a dot for each verdict: differences in points with intervals, the others in a row.

    Parameters
    ----------
    rows : DataFrame
        As :func:`read_claims` gives it; the numbers are those of :func:`verdict_table`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    groups = list(rows.groupby(["page", "topic"], sort=False))
    height = 0.125 * (len(rows) + 1.6 * len(groups)) + 1
    figure, axes = plt.subplots(figsize=(5.8, height), layout="constrained")
    y = 0.0
    for (page, topic), part in groups:
        axes.text(
            0, y, f"{page_name(str(page))}: {topic}", transform=axes.get_yaxis_transform(),
            fontsize=8, va="center", bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
        )  # fmt: skip
        y += 1
        for verdict, (value, low, high) in zip(
            part["verdict"], part[["value", "low", "high"]].to_numpy(float), strict=True
        ):
            color, marker = LOOKS[verdict]
            axes.plot([low, high], [y, y], color=color, linewidth=1.5)
            face = "none" if np.isnan(value) else color
            axes.plot(np.nan_to_num(value), y, marker, c=color, markersize=5, markerfacecolor=face)
            y += 1
        y += 0.6
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(ylim=(y, -1), yticks=[], xlabel="percentage points beyond the threshold")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="x", labeltop=True)
    axes.grid(axis="x")
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=verdict)
        for verdict, (color, marker) in LOOKS.items()
    ]
    counts = ", ".join(f"{(rows['verdict'] == verdict).sum()} {verdict}" for verdict in LOOKS)
    figure.legend(
        handles=handles, loc="outside upper left", ncols=3, alignment="left", title_fontsize=11,
        title=f"Of {len(rows)} claims: {counts}",
    )  # fmt: skip
    return figure
