"""Gains of methods over one of them, as a table, and as claims."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from icm_study.experiments.intervals import aggregate, contrasts
from icm_study.report.verdicts import claim, judge
from icm_study.report.words import points


def gains_over(
    runs: pd.DataFrame, baseline: str, by: Sequence[str], *, over: str = "seeds"
) -> pd.DataFrame:
    """Compare each method with one of them: paired differences in points.

    Returns
    -------
    DataFrame
        Columns `by`, method, value, low, high.
    """
    others = [name for name in dict.fromkeys(runs["method"]) if name != baseline]
    pairs = [({"method": name}, {"method": baseline}) for name in others]
    gains = contrasts(runs, pairs, by, over=over).drop(columns=["pair", "against"])
    return gains.rename(columns={"side": "method"})


def by_method(
    runs: pd.DataFrame, baseline: str, condition: str, *, over: str = "seeds"
) -> dict[str, pd.Series]:
    """Give the gains under one condition, by the method's name."""
    part = runs[runs["condition"] == condition]
    gains = gains_over(part, baseline, ["condition"], over=over)
    return {str(row["method"]): row for _, row in gains.iterrows()}


def method_means(runs: pd.DataFrame, *by: str, over: str = "seeds") -> pd.DataFrame:
    """Give the mean of each method with its interval, see `aggregate`."""
    return aggregate(runs, ["method", *by], over=over)


def gain_claim(name: str, statement: str, gain: pd.Series, **threshold: float) -> dict[str, Any]:
    """Judge a difference; it should be above 0, or as the threshold says."""
    threshold = threshold or {"above": 0.0}
    ((side, limit),) = threshold.items()
    verdict = judge(gain["low"], gain["high"], **threshold)
    row = claim(name, statement, f"{points(gain)} points", f"{side} {limit:g}", verdict)
    return {**row, **beyond(*gain[["value", "low", "high"]], **threshold)}


def beyond(value: float, low: float, high: float, **threshold: float) -> dict[str, float]:
    """Say how far points are beyond a threshold, above it or below, as a map of claims shows."""
    ((side, limit),) = threshold.items()
    found = [value - limit, low - limit, high - limit]
    if side == "below":
        found = [-found[0], -found[2], -found[1]]
    return dict(zip(("value", "low", "high"), map(float, found), strict=True))
