"""What came out of an experiment: what its figure shows, words, and claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from IPython.display import Markdown

from icm_study.report import words
from icm_study.report.verdicts import COLUMNS, located


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
    claims: list[dict[str, Any]] = field(default_factory=list)

    @property
    def came_out(self) -> Markdown:
        """The words under their heading."""
        return words.came_out(self.words)


def verdicts_of(
    findings: Mapping[str, Finding], sections: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """Put the verdicts of all experiments into one table.

    Parameters
    ----------
    findings : mapping of str to Finding
    sections : mapping of str to str, optional
        The heading of the section of each experiment; without, that of the verdicts.

    Returns
    -------
    DataFrame
        The columns of a table of verdicts.
    """
    rows = [
        {**located((sections or {}).get(name, "Verdicts")), **row}
        for name, finding in findings.items()
        for row in finding.claims
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
