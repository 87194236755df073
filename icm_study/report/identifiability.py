"""What came out of each open question about identifiability and data: words and claims."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from icm_study.experiments.questions import Experiment
from icm_study.report.finding import Finding

#: The experiments of the notebook, by name; each takes its parameters.
EXPERIMENTS: dict[str, Experiment] = {}
#: The heading of each question's section, by its finding.
SECTIONS: dict[str, str] = {}


def find(runs: Mapping[str, pd.DataFrame]) -> dict[str, Finding]:
    """Say what came out of each question."""
    return {}
