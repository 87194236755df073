"""Means and intervals as texts, in tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import HTML

from icm_study.experiments.choosing import NOT_CHOSEN
from icm_study.report.style import condition_name

#: Conditions that are no shift, in words.
UNSHIFTED = (condition_name["in_distribution"], condition_name["seen_classes"])


def percent(share: float) -> str:
    """Write a share in percent."""
    return f"{100 * share:.0f} %"


def signed_points(value: float) -> str:
    """Write a gain to one decimal; to two, if its sign would be lost."""
    text = f"{value:+.1f}"
    return text if float(text) else f"{value:+z.2f}"


def with_interval(row: pd.Series) -> str:
    """Write a row of :func:`mean_interval` as text, for example ``0.12 (0.1 to 0.14)``.

    Parameters
    ----------
    row : Series
        With mean, low and high.

    Returns
    -------
    str
        Three significant digits; the mean alone if there is no interval.
    """
    if np.isnan(row["low"]):
        return f"{row['mean']:.3g}"
    return f"{row['mean']:.3g} ({row['low']:.3g} to {row['high']:.3g})"


def interval_table(
    means: pd.DataFrame, index: Sequence[str], columns: Sequence[str], *, signed: bool = False
) -> pd.DataFrame:
    """Lay out means and intervals as texts: a row for each `index`, a column for each `columns`.

    Parameters
    ----------
    means : DataFrame
        With the columns `index`, `columns`, value, low and high.
    index, columns : sequence of str
    signed : bool
        The values are differences: write a plus before positive ones. Otherwise they
        are percentages, and intervals end at 0 and 100.

    Returns
    -------
    DataFrame of str
        For example ``91.2 (90.1 to 92.3)``, to one decimal; the mean alone if there is no interval.
    """
    number: Callable[[float], str] = signed_points if signed else "{:.1f}".format
    if not signed:
        means = means.assign(low=means["low"].clip(lower=0), high=means["high"].clip(upper=100))
    text = [
        number(mean) if np.isnan(low) else f"{number(mean)} ({number(low)} to {number(high)})"
        for mean, low, high in means[["value", "low", "high"]].to_numpy()
    ]
    wide = means.assign(text=text)
    laid = wide.pivot_table("text", list(index), list(columns), aggfunc="first", sort=False)
    laid = laid.fillna("")  # not measured
    # the shifts come first: on a narrow screen the last columns are out of sight
    return laid[sorted(laid.columns, key=lambda name: name in UNSHIFTED)]


def named(means: pd.DataFrame) -> pd.DataFrame:
    """Add the column name: the method, and how its settings were chosen if there are several ways.

    Parameters
    ----------
    means : DataFrame
        With the column method, and choice if settings were chosen.
    """
    name = means["method"]
    chosen = means["choice"] != NOT_CHOSEN if "choice" in means else pd.Series(False, means.index)
    if chosen.any() and means.loc[chosen, "choice"].nunique() > 1:
        by = means["choice"].replace(
            {"held-out": "held-out images", "intervened": "intervened images"}
        )
        name = name.where(~chosen, name + ", by " + by)
    return means.assign(name=name)


def readable(means: pd.DataFrame) -> pd.DataFrame:
    """Say conditions in words, and methods as :func:`named` does where they have no names yet."""
    means = means.replace({"condition": condition_name})
    return named(means) if "method" in means and "name" not in means else means


def folded(title: str, table: pd.DataFrame, caption: str) -> HTML:
    """Fold a long table away, with its caption; a figure shows what is in it."""
    inside = f"{table.to_html()}<p><em>{caption}</em></p>"
    return HTML(f"<details><summary>{title}</summary>{inside}</details>")


def html(table: pd.DataFrame, **options: Any) -> HTML:
    """Show a table with no row numbers, as HTML."""
    return HTML(table.to_html(index=False, **options))
