"""How many pairs are enough? What rules choose from few, how stable that is, and what it costs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from icm_core.moments import PairMoments
from icm_core.projection import InvariantProjection
from icm_core.spectrum import quadratic
from icm_study.embedding.tables import EmbeddedData, pairs_in
from icm_study.experiments.questions import Fit, accuracies, open_animals

HELD_OUT, POSITIVE, GAP = "held-out", "λ = 1, positive eigenvalues", "λ by the gap"
RULES = {
    HELD_OUT: InvariantProjection(),
    POSITIVE: InvariantProjection("auto", consistency_weight=1.0),
    GAP: InvariantProjection("auto", consistency_weight="auto"),
}
PLAIN = "plain"
SIZES = (10, 30, 100, 300, 1000, 3000, 10_000)


def by_number_of_pairs(
    X: ArrayLike,
    X_do: ArrayLike,
    sizes: Sequence[int] = SIZES,
    *,
    rule: InvariantProjection | None = None,
    n_draws: int = 3,
) -> pd.DataFrame:
    """Tell whether there are pairs enough: what changes if only some of them had been collected.

    Two disjoint draws of each size are fitted on their own. Where more pairs change neither K nor
    the share, and the two projections keep the same subspace, there are enough.

    Parameters
    ----------
    X, X_do : array-like of shape (n, D)
        Embeddings before and after an intervention, a pair a row.
    sizes : sequence of int
        Numbers of pairs; those above n / 2 are left out.
    rule : InvariantProjection, optional
        Unfitted; by default K and λ are chosen on pairs held out.
    n_draws : int
        Repetitions of each size.

    Returns
    -------
    DataFrame
        Columns n_pairs, draw, K, consistency_weight, share (``tr A S Aᵀ / tr A C Aᵀ`` on the
        pairs of the other draw: 0 is untouched, 2 re-drawn) and overlap (``‖A Bᵀ‖² / max(K)`` of
        the two projections, 1 where they keep the same subspace).

    Raises
    ------
    ValueError
        If the shapes differ, or there are fewer than twice as many pairs as the smallest size.
    """
    one, other = np.asarray(X, dtype=np.float64), np.asarray(X_do, dtype=np.float64)
    kept = [n for n in sizes if 2 * n <= len(one)]
    if one.shape != other.shape or not kept:
        raise ValueError(
            f"Got pairs of shapes {one.shape} and {other.shape}; expected (n, D) twice, with n at "
            f"least {2 * min(sizes)}, twice the smallest size."
        )
    rows = []
    for n in kept:
        for draw in range(n_draws):
            order = np.random.default_rng([n, draw]).permutation(len(one))
            parts = [PairMoments(one.shape[1]).update(one[part], other[part])
                     for part in (order[:n], order[n : 2 * n])]  # fmt: skip
            fitted = [_fitted(rule or RULES[HELD_OUT], part) for part in parts]
            A, B = (projection.components_ for projection in fitted)
            changed, expressed = (quadratic(A, moment).sum() for moment in (parts[1].S, parts[1].C))
            rows.append(
                {
                    "n_pairs": n, "draw": draw, "K": len(A),
                    "consistency_weight": fitted[0].consistency_weight_,
                    "share": float(changed / expressed),
                    "overlap": float(np.square(A @ B.T).sum() / max(len(A), len(B))),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _fitted(rule: InvariantProjection, moments: PairMoments) -> InvariantProjection:
    """Fit a rule; few pairs are what is asked about, so it does not warn of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return clone(rule).fit_moments(moments)


def run_animal_pairs(
    given: Mapping[str, Any], sizes: Sequence[int] = (30, 100, 300)
) -> pd.DataFrame:
    """Let the rules choose in the animal world.

    Parameters
    ----------
    given : mapping of str to value
        *encoder*, *seeds*, *n_images* and *cache*.
    sizes : sequence of int
        Numbers of pairs of the styles that are not left out, beside all of them.

    Returns
    -------
    DataFrame
        Columns seed, pairs (their kind), n_pairs, rule, K, and the accuracies
        in_distribution, unseen and reversed.
    """
    rows = []
    for seed, _, _, data in open_animals(given):
        rows.append(
            {"seed": seed, "pairs": "none", "n_pairs": 0, "rule": PLAIN, **accuracies(data)}
        )
        for kind in ("image", "oracle"):
            for n in (*sizes, data.source.sizes["row"]):
                for name, rule in RULES.items():
                    got = accuracies(data, _of_some(kind, n, rule, seed))
                    rows.append({"seed": seed, "pairs": kind, "n_pairs": n, "rule": name, **got})
    return pd.DataFrame(rows)


def _of_some(kind: str, n: int, rule: InvariantProjection, seed: int) -> Fit:
    """Fit a rule on n of the pairs that may be seen, or on as many as there are."""

    def fit(data: EmbeddedData, rows: NDArray[np.bool_]) -> InvariantProjection:
        chosen = np.random.default_rng([seed, 3]).permutation(np.flatnonzero(rows))[:n]
        one, other = (part[chosen] for part in pairs_in(data.source, kind))
        return _fitted(rule, PairMoments(one.shape[1]).update(one, other))

    return fit


def run_stability(given: Mapping[str, Any]) -> pd.DataFrame:
    """Ask in the animal world what a user can ask: whether there are pairs enough.

    Returns
    -------
    DataFrame
        Columns seed, pairs, and those of :func:`by_number_of_pairs`.
    """
    tables = [
        by_number_of_pairs(*pairs_in(data.source, kind), n_draws=1).assign(seed=seed, pairs=kind)
        for seed, _, _, data in open_animals(given)
        for kind in ("image", "oracle")
    ]
    return pd.concat(tables, ignore_index=True)
