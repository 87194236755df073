"""Figures of the page on the method's use: dots with intervals, and what they are about.

Each shows a summary of :mod:`icm_study.report.open_questions`; nothing is computed here.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icm_study.report.style import CONTEXT, INK, INVARIANT, PALETTE, VARIANT, headline

COLORS = (INVARIANT, VARIANT, CONTEXT, PALETTE[4])
MARKS = ("s", "D", "o", "^")


def dots_figure(summary: pd.DataFrame, xlabel: str, *, from_zero: bool = False) -> Figure:
    """Show values with intervals: a panel for each part, a row for each method.

    Parameters
    ----------
    summary : DataFrame
        Columns panel, method, series, value, low and high; its attribute title is the message.
    xlabel : str
    from_zero : bool
        Whether the values are differences, and zero is marked.
    """
    panels, methods = (list(dict.fromkeys(summary[name])) for name in ("panel", "method"))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(3.2 + 3.1 * len(panels), 1.4 + 0.36 * len(methods)),
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    for panel, name in zip(axes[0], panels, strict=True):
        _dots(panel, summary[summary["panel"] == name], methods)
        if from_zero:
            panel.axvline(0, color=INK, linewidth=1)
        panel.set_title(str(name), fontsize=11)
        panel.set_xlabel(xlabel)
        panel.grid(axis="x")
    axes[0, 0].set_yticks(range(len(methods)), methods)
    axes[0, 0].invert_yaxis()
    headline(figure, summary.attrs["title"])
    if summary["series"].nunique() > 1:
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def _dots(panel: Axes, rows: pd.DataFrame, methods: list[str]) -> None:
    series = list(dict.fromkeys(rows["series"]))
    for i, name in enumerate(series):
        part = rows[rows["series"] == name]
        place = np.array([methods.index(method) for method in part["method"]], dtype=float)
        place += 0.14 * (i - (len(series) - 1) / 2)
        reach = np.abs(part[["low", "high"]].sub(part["value"], axis=0).to_numpy(float).T)
        panel.errorbar(
            part["value"], place, xerr=np.nan_to_num(reach), fmt=MARKS[i], color=COLORS[i],
            capsize=3, markersize=5, label=name,
        )  # fmt: skip
