"""From an interval to a verdict.

A claim is supported where the whole interval of the measurement lies on the claimed
side of a threshold, refuted where it lies on the other side, and not shown otherwise.
"""

from __future__ import annotations

import hashlib
import re

VERDICTS = ("supported", "refuted", "not shown")
#: Of a table of verdicts; value, low and high are percentage points, and missing elsewhere.
COLUMNS = (
    "claim", "statement", "measured", "threshold", "verdict", "section", "value", "low", "high",
)  # fmt: skip


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
        raise ValueError(
            f"verdict is {verdict!r}; expected one of {', '.join(map(repr, VERDICTS))}."
        )
    return {
        "claim": name,
        "statement": statement,
        "measured": measured,
        "threshold": threshold,
        "verdict": verdict,
    }


def judge(
    low: float, high: float, *, below: float | None = None, above: float | None = None
) -> str:
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
        "supported" if the whole interval is on the claimed side, "refuted" if it is
        wholly on the other side, "not shown" otherwise, and without an interval.

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


def located(
    section: str, points: tuple[float, float, float] = (float("nan"),) * 3
) -> dict[str, str | float]:
    """Say under which heading a claim was measured, and its percentage points with their interval.

    Returns
    -------
    dict
        Keys section, value, low, high.
    """
    return {"section": section, **dict(zip(("value", "low", "high"), points, strict=True))}


def claim_id(name: str, statement: str) -> str:
    """Name a claim for links: the same as long as its words are."""
    return "claim-" + hashlib.sha256(f"{name}|{statement}".encode()).hexdigest()[:8]


def anchor(heading: str) -> str:
    """Name a heading for links, as pandoc and those who follow it do."""
    kept = re.sub(r"[^\w\s.-]", "", heading.lower())
    return re.sub(r"^[^a-z]+", "", re.sub(r"\s+", "-", kept.strip()))
