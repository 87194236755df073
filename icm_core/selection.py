"""Predictions at every K from one projection: the subspace of a smaller K is the first part of that of a larger.

Each path gives the labels of the same rows for every size. A logistic probe is fitted
and applied for each size in turn. A zero-shot classifier and a least-squares probe are
linear maps that cost little to make, the probe's by one factorisation for all sizes,
and those of all sizes are applied to the rows in one product. A grid of hundreds of
cells then takes little more than its eigendecompositions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from icm_core.prediction import LinearProbe, unit_rows
from icm_core.projection import InvariantProjection

CONSISTENCY_WEIGHTS = (0.3, 1.0, 3.0, 10.0)


def default_n_components(n_features: int) -> tuple[int, ...]:
    """Values of K to choose among: 8, 16, 32 and so on, up to half the dimension of the embedding."""
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
    :math:`(Z_K^\top Z_K + \alpha I)^{-1} Z_K^\top Y`. Let :math:`L L^\top` be the Cholesky factorisation of the bracket for
    the largest K; that for a smaller one is its leading block. So :math:`h = L^{-1}
    Z^\top Y` is computed once, and back substitution from its first K entries alone
    gives the weights for K.

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
    """Find the class with the largest score, (n_sizes, n), by weights (K, n_sizes, n_classes) in the subspace."""
    whole = (directions @ weights.reshape(len(weights), -1)).astype(X.dtype)
    n_rows = max(1, _SCORES // whole.shape[1])
    chosen = [
        ((X[start : start + n_rows] @ whole).reshape(-1, *weights.shape[1:]) + intercepts).argmax(
            axis=2
        )
        for start in range(0, len(X), n_rows)
    ]
    return np.concatenate(chosen).T
