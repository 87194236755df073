"""Intervals, verdicts and curves."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from icm_core.claims import claim, judge
from icm_core.figures import plot_curves
from icm_core.intervals import interval_table, mean_interval, with_interval

values = st.lists(st.floats(0.01, 100), min_size=2, max_size=10)


@settings(deadline=None)
@given(values)
def test_interval_is_students(runs):
    table = pd.DataFrame({"group": "a", "value": runs})
    row = mean_interval(table, ["group"], "value").iloc[0]
    assert (row["group"], row["n"]) == ("a", len(runs))
    assert row["mean"] == pytest.approx(np.mean(runs))
    if np.std(runs) > 1e-6:
        expected = stats.ttest_1samp(runs, 0).confidence_interval(0.95)
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected))


@settings(deadline=None)
@given(values)
def test_log_interval_is_that_of_the_logarithms(runs):
    table = pd.DataFrame({"group": "a", "value": runs, "log": np.log(runs)})
    geometric = mean_interval(table, ["group"], "value", log=True).iloc[0]
    plain = mean_interval(table, ["group"], "log").iloc[0]
    for name in ("mean", "low", "high"):
        assert np.log(geometric[name]) == pytest.approx(plain[name], abs=1e-9)


def test_interval_keeps_groups_apart_and_needs_two_runs():
    table = pd.DataFrame({"a": ["x", "x", "y"], "b": [1, 1, 2], "value": [1.0, 3.0, 5.0]})
    result = mean_interval(table, ["a", "b"], "value")
    assert list(result["mean"]) == [2.0, 5.0]
    assert list(result["n"]) == [2, 1]
    assert np.isnan(result["low"].iloc[1])


def test_interval_as_text():
    assert with_interval(pd.Series({"mean": 0.12345, "low": 0.1, "high": 12.0})) == "0.123 (0.1 to 12)"
    assert with_interval(pd.Series({"mean": 2.0, "low": np.nan, "high": np.nan})) == "2"


@pytest.mark.parametrize(
    ("low", "high", "threshold", "verdict"),
    [
        (0.1, 0.5, {"below": 1.0}, "supported"),
        (1.5, 2.0, {"below": 1.0}, "refuted"),
        (0.5, 1.5, {"below": 1.0}, "not shown"),
        (np.nan, np.nan, {"below": 1.0}, "not shown"),
        (81, 90, {"above": 80}, "supported"),
        (10, 20, {"above": 80}, "refuted"),
        (70, 90, {"above": 80}, "not shown"),
        (np.nan, np.nan, {"above": 80}, "not shown"),
    ],
)
def test_verdict_of_an_interval(low, high, threshold, verdict):
    assert judge(low, high, **threshold) == verdict


@pytest.mark.parametrize("thresholds", [{}, {"below": 1.0, "above": 0.0}])
def test_verdict_needs_one_threshold(thresholds):
    with pytest.raises(ValueError, match="expected exactly one"):
        judge(0, 1, **thresholds)


def test_claim_is_a_row_and_refuses_other_verdicts():
    row = claim("P1", "it holds", "0.1", "< 1", "supported")
    assert row == {
        "claim": "P1", "statement": "it holds", "measured": "0.1", "threshold": "< 1", "verdict": "supported"
    }  # fmt: skip
    with pytest.raises(ValueError, match="verdict is 'maybe'; expected one of 'supported'"):
        claim("P1", "it holds", "0.1", "< 1", "maybe")


@settings(deadline=None, max_examples=20)
@given(st.lists(st.floats(1, 1000), min_size=2, max_size=6))
def test_curves_have_labels_that_do_not_overlap(ends):
    names = [f"curve {i}" for i in range(len(ends))]
    summary = pd.DataFrame(
        [
            {"x": x, "by": name, "mean": end * x, "low": 0.9 * end * x, "high": 1.1 * end * x}
            for name, end in zip(names, ends, strict=True)
            for x in (1, 10)
        ]
    )
    figure, axes = plt.subplots()
    plot_curves(axes, summary, x="x", by="by", xscale="log", yscale="log")
    labels = {text.get_text(): text for text in axes.texts}
    assert sorted(labels) == sorted(names)
    to_axes = axes.transScale + axes.transLimits
    heights = sorted(to_axes.transform((1, text.get_position()[1]))[1] for text in labels.values())
    assert min(np.diff(heights)) > 0.06
    colors = {line.get_color() for line in axes.lines}
    assert len(colors) == len(names)
    assert {text.get_color() for text in labels.values()} == colors
    plt.close(figure)


def test_a_label_stays_beside_its_curve_when_the_limits_change():
    summary = pd.DataFrame(
        {"x": [0, 1], "by": "a", "mean": [1.0, 2.0], "low": [1.0, 2.0], "high": [1.0, 2.0]}
    )
    figure, axes = plt.subplots()
    plot_curves(axes, summary, x="x", by="by")
    axes.set_ylim(0, 10)
    assert axes.texts[0].get_position()[1] == pytest.approx(2)
    plt.close(figure)


def test_interval_table_lays_out_means_and_intervals():
    means = pd.DataFrame(
        {"name": ["a", "a", "b", "b"], "where": ["x", "y", "x", "y"], "value": [1.0, 2, -3, 4],
         "low": [0.5, np.nan, -4, 3], "high": [1.5, np.nan, -2, 5]}
    )  # fmt: skip
    table = interval_table(means, ["name"], ["where"])
    assert table.loc["a"].tolist() == ["1.0 (0.5 to 1.5)", "2.0"]
    signed = interval_table(means, ["name"], ["where"], signed=True)
    assert signed.loc["b"].tolist() == ["-3.0 (-4.0 to -2.0)", "+4.0 (+3.0 to +5.0)"]
