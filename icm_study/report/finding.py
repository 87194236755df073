"""What came out of an experiment: what its figure shows, words, and claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
from IPython.display import Markdown

from icm_study.report import words


@dataclass(frozen=True)
class Finding:
    """What came out of an experiment.

    Attributes
    ----------
    summary : DataFrame
        What its figure or table shows beside the runs.
    words : str
        The same as a sentence or two, in Markdown.
    claims : list of dict
        Rows of :func:`~icm_study.report.verdicts.claim`.
    """

    summary: pd.DataFrame
    words: str
    claims: list[dict[str, str]] = field(default_factory=list)

    @property
    def came_out(self) -> Markdown:
        """The words under their heading."""
        return words.came_out(self.words)


def verdicts_of(findings: Mapping[str, Finding]) -> pd.DataFrame:
    """Put the verdicts of all experiments into one table.

    Returns
    -------
    DataFrame
        Columns claim, statement, measured, threshold, verdict.
    """
    return pd.DataFrame([row for finding in findings.values() for row in finding.claims])
