"""Verdicts, and the rows of the table of claims."""

import numpy as np
import pytest

from icm_study.report.claims import claim, judge


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
