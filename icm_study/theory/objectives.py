"""The objectives that the study compares, as projections to fit."""

from __future__ import annotations

from icm_core.projection import InvariantProjection
from icm_study.theory.released import ReleasedProjection


def objectives(consistency_weight: float = 1.0) -> dict[str, InvariantProjection]:
    """Give an unfitted projection for each objective.

    Parameters
    ----------
    consistency_weight : float
        λ of those that have one.

    Returns
    -------
    dict of str to InvariantProjection
        ``"trace"``, the paper's: the largest eigenvalues of ``C - λS``; ``"generalized"``,
        which has no λ; and ``"released"``, the *smallest* eigenvalues, as in the code
        released with the paper, for the audit only.
    """
    return {
        "trace": InvariantProjection(consistency_weight=consistency_weight),
        "generalized": InvariantProjection(objective="generalized"),
        "released": ReleasedProjection(consistency_weight=consistency_weight),
    }
