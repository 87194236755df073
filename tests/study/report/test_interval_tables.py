"""Means and intervals as texts."""

import numpy as np
import pandas as pd

from icm_study.report.tables import interval_table, readable, with_interval
from icm_study.report.words import points


def test_interval_as_text():
    assert (
        with_interval(pd.Series({"mean": 0.12345, "low": 0.1, "high": 12.0})) == "0.123 (0.1 to 12)"
    )
    assert with_interval(pd.Series({"mean": 2.0, "low": np.nan, "high": np.nan})) == "2"


def test_interval_table_lays_out_means_and_intervals():
    means = pd.DataFrame(
        {"name": ["a", "a", "b", "b"], "where": ["x", "y", "x", "y"], "value": [1.0, 2, -3, 4],
         "low": [0.5, np.nan, -4, 3], "high": [1.5, np.nan, -2, 5]}
    )  # fmt: skip
    table = interval_table(means, ["name"], ["where"])
    assert table.loc["a"].tolist() == ["1.0 (0.5 to 1.5)", "2.0"]
    assert (
        interval_table(means.assign(low=-5, high=105), ["name"], ["where"]).loc["a", "x"]
        == "1.0 (0.0 to 100.0)"
    )
    signed = interval_table(means, ["name"], ["where"], signed=True)
    assert signed.loc["b"].tolist() == ["-3.0 (-4.0 to -2.0)", "+4.0 (+3.0 to +5.0)"]


def test_no_sign_is_lost_by_rounding():
    rows = pd.DataFrame({"name": ["a"], "where": ["x"], "value": -0.04, "low": -1.25, "high": 1e-3})
    assert points(rows.loc[0]) == "-0.04 (-1.2 to +0.00)"
    assert points(pd.Series({"value": -0.0, "low": np.nan, "high": np.nan})) == "+0.00"
    signed = interval_table(rows, ["name"], ["where"], signed=True)
    assert signed.loc["a", "x"] == "-0.04 (-1.2 to +0.00)"


def test_the_shifts_come_first():
    rows = [("in_distribution", 1.0), ("unseen", 2.0), ("reversed", 3.0)]
    means = pd.DataFrame(rows, columns=["condition", "value"]).assign(
        name="a", low=np.nan, high=np.nan
    )
    table = interval_table(readable(means), ["name"], ["condition"])
    assert table.columns.tolist() == ["unseen domain", "shortcut reversed", "in distribution"]
