"""Predictions at every K and λ from one spectrum, and the grids that settings are chosen from.

The subspace of a smaller K is the first part of that of a larger, so one projection serves
every K.

Each path gives the labels of the same rows for every size. A logistic probe is fitted
and applied for each size in turn. A zero-shot classifier and a least-squares probe are
linear maps that cost little to make, the probe's by one factorisation for all sizes,
and those of all sizes are applied to the rows in one product. A grid of hundreds of
cells then takes little more than its eigendecompositions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from sklearn.base import clone
from sklearn.utils import check_array

from icm_core.moments import PairMoments
from icm_core.prediction import LinearProbe, unit_rows
from icm_core.projection import InvariantProjection

#: Values of λ to choose among.
CONSISTENCY_WEIGHTS = (0.3, 1.0, 3.0, 10.0)


def default_n_components(n_features: int) -> tuple[int, ...]:
    """Values of K to choose among: 8, 16, 32 and so on, up to half of the embedding's D."""
    return tuple(8 * 2**i for i in range(20) if 8 * 2**i <= n_features / 2) or (
        max(1, n_features // 2),
    )


#: From a projection, embeddings of shape (n, D), and sizes K in ascending order, to
#: labels of shape (n_sizes, n).
Path = Callable[[InvariantProjection, NDArray, Sequence[int]], NDArray]

_SCORES = 2**23  # that are held at a time, to bound the memory


def zero_shot_path(prompts: NDArray, y: NDArray) -> Path:
    """Label by the nearest class prompts, as :class:`~icm_core.prediction.ZeroShotClassifier` does.

    Parameters
    ----------
    prompts : ndarray of shape (n_prompts, D)
        Embeddings of prompts, not projected.
    y : ndarray of shape (n_prompts,)
        The class that each prompt names.

    Returns
    -------
    callable
        From (projection, embeddings, sizes) to labels, see :data:`Path`.
    """
    classes, index = np.unique(y, return_inverse=True)
    members = np.eye(len(classes))[:, index]

    def path(projection: InvariantProjection, X: NDArray, sizes: Sequence[int]) -> NDArray:
        A = projection.components_[: max(sizes)]
        projected = np.asarray(prompts, dtype=float) @ A.T
        prototypes = np.zeros((len(A), len(sizes), len(classes)))
        for i, size in enumerate(sizes):
            prototypes[:size, i] = unit_rows(members @ unit_rows(projected[:, :size])).T
        return classes[_largest(X, A.T, prototypes)]

    return path


def logistic_path(X: NDArray, y: NDArray, C: float) -> Path:
    """Label by a :class:`~icm_core.prediction.LinearProbe` that is fitted for every size.

    Parameters
    ----------
    X : ndarray of shape (n_samples, D)
        Embeddings to fit on, not projected.
    y : ndarray of shape (n_samples,)
    C : float

    Returns
    -------
    callable
        As for :func:`zero_shot_path`.
    """

    def path(projection: InvariantProjection, rows: NDArray, sizes: Sequence[int]) -> NDArray:
        fitted_on, judged = projection.transform(X), projection.transform(rows)
        return np.stack(
            [
                LinearProbe(C=C).fit(fitted_on[:, :size], y).predict(judged[:, :size])
                for size in sizes
            ]
        )

    return path


def least_squares_path(X: NDArray, y: NDArray, C: float) -> Path:
    r"""Label by a linear probe of least squares with a ridge penalty, on class indicators.

    With centred embeddings :math:`Z_K` in the subspace and centred indicators
    :math:`Y`, the weights are
    :math:`(Z_K^\top Z_K + \alpha I)^{-1} Z_K^\top Y`. Let :math:`L L^\top` be the Cholesky
    factorisation of the bracket for the largest K; that for a smaller one is its leading
    block. So :math:`h = L^{-1} Z^\top Y` is computed once, and back substitution from its
    first K entries alone gives the weights for K.

    The penalty is :math:`\alpha = 1/C` in units of the mean square of the embeddings,
    for every K and λ, as the factor asks; the logistic probe takes units of the
    *projected* ones, in which its penalty for a small K is stronger.

    Parameters
    ----------
    X, y, C
        As for :func:`logistic_path`.

    Returns
    -------
    callable
        As for :func:`zero_shot_path`.
    """
    classes, index = np.unique(y, return_inverse=True)
    Y = np.eye(len(classes))[index]
    mean, prior = X.mean(axis=0, dtype=float), Y.mean(axis=0)
    centred = X - mean
    gram, cross = centred.T @ centred, centred.T @ (Y - prior)
    penalty = np.square(X, dtype=float).mean() / C

    def path(projection: InvariantProjection, rows: NDArray, sizes: Sequence[int]) -> NDArray:
        A = projection.components_[: max(sizes)]
        L = cholesky(A @ gram @ A.T + penalty * np.eye(len(A)), lower=True)
        h = solve_triangular(L, A @ cross, lower=True)
        first = np.arange(len(A))[:, None] < np.asarray(sizes)
        kept = np.where(first[:, :, None], h[:, None, :], 0.0)
        weights = solve_triangular(L, kept.reshape(len(A), -1), lower=True, trans="T").reshape(
            kept.shape
        )
        intercepts = prior - np.tensordot(A @ mean, weights, axes=1)
        return classes[_largest(rows, A.T, weights, intercepts)]

    return path


def _largest(
    X: NDArray, directions: NDArray, weights: NDArray, intercepts: NDArray | float = 0.0
) -> NDArray[np.intp]:
    """Find the class with the largest score, (n_sizes, n), by weights (K, n_sizes, n_classes)."""
    whole = (directions @ weights.reshape(len(weights), -1)).astype(X.dtype)
    n_rows = max(1, _SCORES // whole.shape[1])
    chosen = [
        ((X[start : start + n_rows] @ whole).reshape(-1, *weights.shape[1:]) + intercepts).argmax(
            axis=2
        )
        for start in range(0, len(X), n_rows)
    ]
    return np.concatenate(chosen).T


def grid_accuracy(
    moments: PairMoments,
    predictors: Mapping[str, Path],
    evaluate_on: Mapping[str, tuple[NDArray, NDArray]],
    *,
    n_components: Sequence[int | str] | None = None,
    consistency_weights: Sequence[float] = CONSISTENCY_WEIGHTS,
    projection: InvariantProjection | None = None,
) -> pd.DataFrame:
    """Accuracy of predictors at every K and λ.

    One eigendecomposition for each λ serves every K.

    Parameters
    ----------
    moments : PairMoments
        Of the pairs that the projections are estimated from.
    predictors : mapping of str to callable
        Named predictors, such as :func:`zero_shot_path` gives.
    evaluate_on : mapping of str to (X, y)
        Named sets to measure accuracy on: X of shape (n, D), y of shape (n,).
    n_components : sequence of int or "auto", optional
        Values of K; those above the dimension of the embedding are left out. "auto" adds,
        for each λ, what :func:`~icm_core.spectrum.auto_n_components` says. By default
        :func:`default_n_components`.
    consistency_weights : sequence of float
        Values of λ. An objective without λ is fitted once.
    projection : InvariantProjection, optional
        Unfitted; its objective is that of the grid.

    Returns
    -------
    DataFrame
        Columns predictor, K, consistency_weight (NaN for an objective without λ), auto (K is
        the automatic one), and one for each named set, in [0, 1]. For each predictor rows
        go from the smallest change of the embedding to the largest: λ up, and K down.

    Raises
    ------
    ValueError
        If there is nothing to try, a K is neither a whole number from 1 on nor "auto", a λ
        is negative or no finite number, or as
        :class:`~icm_core.projection.InvariantProjection`.
    """
    X = check_array(
        np.concatenate([rows for rows, _ in evaluate_on.values()]), dtype=[np.float64, np.float32]
    )
    y = np.concatenate([labels for _, labels in evaluate_on.values()])
    n_rows = np.array([len(labels) for _, labels in evaluate_on.values()])
    starts = np.cumsum(n_rows) - n_rows
    n_components = default_n_components(X.shape[1]) if n_components is None else n_components
    _check_values(n_components, consistency_weights)
    given = {int(k) for k in n_components if k != "auto" and int(k) <= X.shape[1]}
    if not (given or "auto" in n_components) or not len(consistency_weights):
        raise ValueError(
            f"Nothing to try: n_components={tuple(n_components)} for {X.shape[1]} features, "
            f"consistency_weights={tuple(consistency_weights)}."
        )
    unfitted = InvariantProjection() if projection is None else projection
    without_weight = unfitted.objective == "generalized"
    rows: list[dict[str, Any]] = []
    for weight in [1.0] if without_weight else sorted(consistency_weights):
        whole = clone(unfitted).set_params(n_components=X.shape[1], consistency_weight=weight)
        whole.fit_moments(moments)
        auto = whole.auto_n_components_ if "auto" in n_components else None
        sizes = sorted(given | ({auto} if auto else set()))
        for name, path in predictors.items():
            hits = np.add.reduceat(path(whole, X, sizes) == y, starts, axis=1, dtype=float)
            accuracies = (hits / n_rows).tolist()
            rows += [
                {
                    "predictor": name,
                    "K": k,
                    "consistency_weight": np.nan if without_weight else weight,
                    "auto": k == auto,
                    **dict(zip(evaluate_on, each, strict=True)),
                }
                for k, each in zip(reversed(sizes), reversed(accuracies), strict=True)
            ]
    return pd.DataFrame(rows)


def _check_values(n_components: Sequence[int | str], consistency_weights: Sequence[float]) -> None:
    sizes = [k for k in n_components if k != "auto" or isinstance(n_components, str)]
    for name, values, kind, least, wanted in (
        ("n_components", sizes, Integral, 1, "whole numbers from 1 on, or 'auto'"),
        ("consistency_weights", consistency_weights, Real, 0, "numbers, at least 0"),
    ):
        for value in values:
            if isinstance(value, bool) or not isinstance(value, kind) or not value >= least:
                raise ValueError(f"{name}: got {value!r}; expected a sequence of {wanted}.")
