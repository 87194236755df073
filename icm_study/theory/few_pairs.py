"""What few pairs cost where the invariant subspace is known, by the rule that chooses K and λ."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone

from icm_core.moments import PairMoments
from icm_core.projection import InvariantProjection, subspace_angles
from icm_study.theory.linear import LinearGaussianSCM

KNOWN, PLAIN = "true subspace", "plain"
N_IMAGES = 8000  # for the probe, and as many for its test


def few_pairs(
    rules: Mapping[str, InvariantProjection],
    given: Mapping[str, Any],
    sizes: Sequence[int] = (10, 100, 300, 1000, 3000, 10_000),
) -> pd.DataFrame:
    """Let the rules choose on linear models, a quarter of whose factors is invariant.

    A probe of least squares behind the projection is fitted on many images of the source, and
    tested where the shortcut is reversed: what is lost is lost to the pairs.

    Parameters
    ----------
    rules : mapping of str to InvariantProjection
        Unfitted, by the name of the rule that chooses K and λ.
    given : mapping of str to value
        *dimensions* and *n_worlds*.
    sizes : sequence of int
        Numbers of pairs.

    Returns
    -------
    DataFrame
        Columns seed, dimension, n_pairs, rule, K, true_K, consistency_weight, angle (mean in
        degrees between the true subspace and the best as many directions that are kept),
        in_distribution and reversed (accuracies in percent).
    """
    rows = []
    for dimension in given["dimensions"]:
        for seed in range(given["n_worlds"]):
            k = max(1, dimension // 4)
            scm = LinearGaussianSCM(k, dimension - k, label_noise=0.1, seed=seed)
            rng = np.random.default_rng([seed, dimension])
            probe = _LinearProbe(scm, rng)
            X, X_do = scm.sample_pairs("source", max(sizes), rng)
            told = {"seed": seed, "dimension": dimension, "true_K": k}
            rows.append(told | {"n_pairs": 0, "rule": PLAIN} | probe(np.eye(dimension)))
            true = scm.invariant_subspace_.T
            rows.append(told | {"n_pairs": 0, "rule": KNOWN, "K": k} | probe(true))
            for n in sizes:
                moments = PairMoments(dimension).update(X[:n], X_do[:n])
                for rule, projection in rules.items():
                    with warnings.catch_warnings():  # few pairs are what is asked about
                        warnings.simplefilter("ignore")
                        fitted = clone(projection).fit_moments(moments)
                    A = fitted.components_
                    got: dict[str, Any] = {
                        "n_pairs": n, "rule": rule, "K": len(A),
                        "consistency_weight": fitted.consistency_weight_,
                        "angle": np.degrees(subspace_angles(A.T, true.T)).mean(),
                    }  # fmt: skip
                    rows.append(told | got | probe(A))
    return pd.DataFrame(rows)


class _LinearProbe:
    """Accuracies of a probe of least squares behind any projection, from moments taken once."""

    def __init__(self, scm: LinearGaussianSCM, rng: np.random.Generator) -> None:
        X, y, _ = scm.sample("source", N_IMAGES, rng)
        self.gram, self.cross = X.T @ X, X.T @ (2.0 * y - 1)
        self.tests = {
            "in_distribution": scm.sample("source", N_IMAGES, rng),
            "reversed": scm.sample("reversed", N_IMAGES, rng),
        }

    def __call__(self, A: NDArray[np.float64]) -> dict[str, float]:
        w = A.T @ np.linalg.lstsq(A @ self.gram @ A.T, A @ self.cross)[0]
        return {
            name: 100 * float(((test.X @ w > 0) == test.y).mean())
            for name, test in self.tests.items()
        }
