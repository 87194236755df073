"""Does CLIP-ICM help on this data? An answer from leave-one-domain-out, with the doubt that it leaves.

Every domain of the data plays the new one in turn. Among the ways to run CLIP-ICM (image, text or both
interventions; K and λ chosen on intervened source images, or without labels) the best on average is taken, and
its gain over the plain probe is given with an interval that is widened for having looked at all of them (Bonferroni).
No way that was tuned on the target is considered.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from icm_study.experiments.intervals import contrast
from icm_study.report.claims import CHOICES, judge

ANSWERS = {  # verdict of :func:`icm_study.report.claims.judge` -> sentence
    "supported": "On a new domain, CLIP-ICM helps this probe.",
    "refuted": "On a new domain, CLIP-ICM does not help this probe.",
    "not shown": "Whether CLIP-ICM helps this probe on a new domain cannot be told from these images.",
}


@dataclass(frozen=True)
class Advice:
    """What to use on a new domain, and how sure that is.

    Attributes
    ----------
    method, intervention : str
        The best way to run CLIP-ICM here, as the tables name it.
    n_components, consistency_weight : int, float
        K and λ: the pair that was chosen in most runs.
    gain, low, high : float
        Gain of the probe over the plain one on an unseen domain, in percentage points, and its interval.
    n_ways : int
        The number of ways that were compared; the interval holds for all at once.
    answer : str
        One of :data:`ANSWERS`.
    """

    method: str
    intervention: str
    n_components: int
    consistency_weight: float
    gain: float
    low: float
    high: float
    n_ways: int
    answer: str


def advise(table: pd.DataFrame) -> Advice:
    """Pick a way to run CLIP-ICM, and judge its gain.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.domain_generalization.run_domain_generalization` for a folder of images.

    Returns
    -------
    Advice

    Raises
    ------
    ValueError
        If the table has no linear probe of CLIP-ICM on an unseen domain.
    """
    probes = table[(table["predictor"] == "linear probe") & (table["condition"] == "unseen")]
    ways = probes.loc[probes["method"].isin(CHOICES), ["method", "intervention"]].drop_duplicates()
    if ways.empty:
        raise ValueError(
            "The table has no linear probe of CLIP-ICM on an unseen domain; run leave-one-domain-out first."
        )
    level = 1 - 0.05 / len(ways)
    gains = pd.concat(
        contrast(probes, (method, kind), ("plain", "none"), ["condition"], over="images", level=level).assign(
            way=i
        )
        for i, (method, kind) in enumerate(ways.to_numpy())
    )
    best = gains.iloc[gains["value"].argmax()]
    method, kind = ways.to_numpy()[best["way"]]
    runs = probes[(probes["method"] == method) & (probes["intervention"] == kind)]
    n_components, weight = runs[["K", "consistency_weight"]].value_counts(sort=True).index[0]
    return Advice(
        method=method,
        intervention=kind,
        n_components=int(n_components),
        consistency_weight=float(weight),
        gain=float(best["value"]),
        low=float(best["low"]),
        high=float(best["high"]),
        n_ways=len(ways),
        answer=ANSWERS[judge(best["low"], best["high"], above=0)],
    )
