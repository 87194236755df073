"""The experiments on the propositions of the paper, each with the values that it runs over."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from icm_core.projection import InvariantProjection
from icm_study.theory.contrastive import identifiability
from icm_study.theory.discrete import invariance, ood_risk, random_ood_risk
from icm_study.theory.linear import consistency, recovery, size_recovery, solver_agreement
from icm_study.theory.objectives import objectives

#: Objective -> what the page calls it.
METHODS = {
    "trace": "largest eigenvalues (the paper)",
    "generalized": "generalised eigenproblem",
    "released": "smallest eigenvalues (released code)",
}
N_FACTORS = 6  # of the contrastive worlds
VOCABULARIES = (2, 4, 6, 7, 12)  # numbers of texts
SOURCE, RELIABILITY = 0.9, 0.9  # strength of the shortcut; how often y follows from z_inv
#: Strength of the shortcut in the target -> what the page calls it.
TARGETS = {
    -0.9: "reversed shortcut",
    0.0: "no shortcut",
    0.5: "weaker shortcut",
    SOURCE: "same as the source",
}
SIZES = (30, 100, 300, 1000, 3000, 10_000)  # numbers of pairs
LEAKS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
CONDITION_NUMBERS = (1.0, 3.0, 10.0, 30.0, 100.0)


def run_experiments(given: Mapping[str, Any]) -> dict[str, pd.DataFrame]:
    """Run every experiment.

    Parameters
    ----------
    given : mapping of str to value
        Parameters of the theory page: *n_seeds*, *n_pairs*, *consistency_weight*,
        *n_features*, *dimensions*, *n_models*, *n_worlds* and *n_images*.

    Returns
    -------
    dict of str to DataFrame
        The runs of each experiment, in the order of the page.
    """
    seeds, n_pairs = range(given["n_seeds"]), given["n_pairs"]
    by_objective = objectives(given["consistency_weight"])
    methods = {said: by_objective[name] for name, said in METHODS.items()}
    sweep = {f"λ = {weight:g}": _weighted(weight) for weight in (1, 10, 100)}
    sweep["generalised"] = by_objective["generalized"]
    weights = np.geomspace(0.3, 3000, 13)
    rules = {
        "λ = 1": InvariantProjection("auto", consistency_weight=1.0),
        "widest gap": InvariantProjection("auto", objective="generalized"),
        "consistency_weight='auto'": InvariantProjection("auto", consistency_weight="auto"),
    }
    on_linear = partial(recovery, seeds=seeds, n_features=given["n_features"])
    with_all = partial(on_linear, n_pairs=(n_pairs,))
    by_weight = with_all(
        {f"{weight:.4g}": _weighted(weight) for weight in weights}, leaks=(0.0, 0.03, 0.1, 0.3)
    )
    return {
        "invariance": invariance(n_models=given["n_models"], seed=0),
        "identifiability": identifiability(
            VOCABULARIES,
            seeds=range(given["n_worlds"]),
            n_factors=N_FACTORS,
            n_images=given["n_images"],
        ),
        "consistency": consistency(methods, seeds=seeds, n_pairs=n_pairs),
        "ood_risk": ood_risk(tuple(TARGETS), source=SOURCE, reliability=RELIABILITY),
        "random_ood_risk": random_ood_risk(n_models=5 * given["n_models"], seed=1),
        "methods": with_all(methods),
        "solvers": solver_agreement(
            seeds=seeds,
            n_pairs=n_pairs,
            consistency_weights=(1.0, 10.0, 100.0),
            condition_numbers=(1.0, 10.0),
        ),
        "sample_size": on_linear(
            sweep, n_pairs=[n for n in SIZES if n <= 4 * n_pairs], leaks=(0.0, 0.1)
        ),
        "leak": with_all(sweep, leaks=LEAKS),
        "weight": by_weight.assign(consistency_weight=by_weight["method"].astype(float)),
        "conditioning": with_all(
            sweep | {"λ = 1000": _weighted(1000)}, condition_numbers=CONDITION_NUMBERS
        ),
        "size": size_recovery(rules, seeds=seeds, n_features=given["dimensions"]),
    }


def _weighted(weight: float) -> InvariantProjection:
    return InvariantProjection(consistency_weight=float(weight))
