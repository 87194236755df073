"""From runs to a verdict: intervals over runs, and the rows of the table of claims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

VERDICTS = ("supported", "refuted", "not shown")


def t_interval(values: NDArray[np.floating]) -> tuple[float, float, float]:
    """Mean and 95 % interval from Student's t.

    Parameters
    ----------
    values : ndarray of shape (n,)
        One value an independent run.

    Returns
    -------
    mean, low, high : float
        With a single run, low and high are NaN.

    Raises
    ------
    ValueError
        If there are no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("Got no values; expected at least one run.")
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / np.sqrt(n)) if n > 1 else float("nan")
    return mean, mean - half, mean + half


def mean_interval(table: pd.DataFrame, by: Sequence[str], value: str, *, log: bool = False) -> pd.DataFrame:
    """Mean over runs with a 95 % interval from Student's t.

    Parameters
    ----------
    table : DataFrame
        One row a run.
    by : sequence of str
        Columns to keep apart.
    value : str
        Column to average.
    log : bool
        Average logarithms: the result is a geometric mean, which suits positive values over several
        orders of magnitude.

    Returns
    -------
    DataFrame
        The columns `by`, and mean, low, high, n. With a single run the interval is NaN.
    """
    rows = []
    for key, group in table.groupby(list(by), sort=False):
        values = group[value].to_numpy(dtype=float)
        summary = np.exp(t_interval(np.log(values))) if log else t_interval(values)
        rows.append(dict(zip([*by, "mean", "low", "high", "n"], [*key, *summary, len(values)], strict=True)))
    return pd.DataFrame(rows)


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
        Write a plus before positive numbers, as for differences.

    Returns
    -------
    DataFrame of str
        For example ``91.2 (90.1 to 92.3)``, to one decimal; the mean alone if there is no interval.
    """
    number = "{:+.1f}" if signed else "{:.1f}"
    text = [
        number.format(mean) if np.isnan(low) else f"{number} ({number} to {number})".format(mean, low, high)
        for mean, low, high in means[["value", "low", "high"]].to_numpy()
    ]
    wide = means.assign(text=text)
    return wide.pivot_table("text", list(index), list(columns), aggfunc="first", sort=False)


def claim(name: str, statement: str, measured: str, threshold: str, verdict: str) -> dict[str, str]:
    """One row of the table of verdicts.

    Parameters
    ----------
    name : str
        Number of the claim in the paper, or a short name.
    statement : str
        What is claimed.
    measured, threshold : str
        What came out, and what would count as support.
    verdict : {"supported", "refuted", "not shown"}
        The outcome.

    Returns
    -------
    dict
        Keys claim, statement, measured, threshold, verdict.

    Raises
    ------
    ValueError
        If the verdict is none of the three.
    """
    if verdict not in VERDICTS:
        raise ValueError(f"verdict is {verdict!r}; expected one of {', '.join(map(repr, VERDICTS))}.")
    return {
        "claim": name, "statement": statement, "measured": measured, "threshold": threshold, "verdict": verdict
    }  # fmt: skip


def judge(low: float, high: float, *, below: float | None = None, above: float | None = None) -> str:
    """Turn an interval and a threshold into a verdict.

    Parameters
    ----------
    low, high : float
        The interval of what was measured.
    below, above : float, optional
        The threshold: exactly one of them.

    Returns
    -------
    {"supported", "refuted", "not shown"}
        "supported" if the whole interval is on the claimed side, "refuted" if it is wholly on the other
        side, "not shown" otherwise, and without an interval.

    Raises
    ------
    ValueError
        If not exactly one threshold is given.
    """
    if (below is None) == (above is None):
        raise ValueError(f"Got below={below} and above={above}; expected exactly one of them.")
    if below is not None:
        return "supported" if high < below else "refuted" if low >= below else "not shown"
    if above is not None and low > above:
        return "supported"
    return "refuted" if above is not None and high <= above else "not shown"
