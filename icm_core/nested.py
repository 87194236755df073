"""Predictions at every K from one projection: the coordinates of a smaller K are the first ones of a larger.

Each path yields the labels of the same rows for each size in turn. A zero-shot classifier and a logistic probe are
fitted anew for every size; a least-squares probe is not: the Cholesky factor of a leading block is the leading block
of the factor, so one factorisation serves every size. A grid of hundreds of cells then takes about as long as
one logistic probe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular

from icm_core.prediction import LinearProbe
from icm_core.projection import InvariantProjection

#: From a projection, rows projected by it, and sizes in ascending order, to the labels of the rows at each size.
Path = Callable[[InvariantProjection, NDArray, Sequence[int]], Iterator[NDArray]]


def zero_shot_path(prompts: NDArray, y: NDArray) -> Path:
    """Label by the nearest class prompts, as :class:`~icm_core.prediction.ZeroShotClassifier` does.

    The classifier itself would spend most of a fine grid on checking its input again.

    Parameters
    ----------
    prompts : ndarray of shape (n_prompts, n_features)
        Embeddings of prompts, not projected.
    y : ndarray of shape (n_prompts,)
        The class that each prompt names.

    Returns
    -------
    callable
        From (projection, rows of shape (n, K), sizes) to an iterator over arrays of n labels.
    """
    classes, index = np.unique(y, return_inverse=True)
    members = np.eye(len(classes))[:, index]

    def path(projection: InvariantProjection, rows: NDArray, sizes: Sequence[int]) -> Iterator[NDArray]:
        projected = projection.transform(prompts)
        square = np.square(projected, dtype=float).cumsum(axis=1)
        for size in sizes:
            norm = np.sqrt(square[:, size - 1 : size])
            prototypes = members @ (projected[:, :size] / np.where(norm > 0, norm, 1))
            length = np.linalg.norm(prototypes, axis=1, keepdims=True)
            prototypes /= np.where(length > 0, length, 1)
            yield classes[(rows[:, :size] @ prototypes.T.astype(rows.dtype)).argmax(axis=1)]

    return path


def logistic_path(X: NDArray, y: NDArray, C: float) -> Path:
    """Label by a :class:`~icm_core.prediction.LinearProbe` that is fitted for every size.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        Embeddings to fit on, not projected.
    y : ndarray of shape (n_samples,)
    C : float

    Returns
    -------
    callable
        As for :func:`zero_shot_path`.
    """

    def path(projection: InvariantProjection, rows: NDArray, sizes: Sequence[int]) -> Iterator[NDArray]:
        projected = projection.transform(X)
        for size in sizes:
            yield LinearProbe(C=C).fit(projected[:, :size], y).predict(rows[:, :size])

    return path


def least_squares_path(X: NDArray, y: NDArray, C: float) -> Path:
    r"""Label by a linear probe of least squares with a ridge penalty, on class indicators.

    With centred embeddings :math:`Z_K` in the subspace and centred indicators :math:`Y`, the weights are
    :math:`(Z_K^\top Z_K + \alpha I)^{-1} Z_K^\top Y`. The Cholesky factor of the bracket for a smaller K is the leading
    block of the one for the largest. The penalty is :math:`\alpha = 1/C` in units of the mean
    square of the embeddings, for every K and λ, as the factor asks; the logistic probe takes units of the *projected* ones, in
    which its penalty for a small K is stronger.

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

    def path(projection: InvariantProjection, rows: NDArray, sizes: Sequence[int]) -> Iterator[NDArray]:
        A = projection.components_[: max(sizes)]
        L = cholesky(A @ gram @ A.T + penalty * np.eye(len(A)), lower=True)
        half_solved = solve_triangular(L, A @ cross, lower=True)
        for size in sizes:
            weights = solve_triangular(L[:size, :size], half_solved[:size], lower=True, trans="T")
            intercept = prior - (A[:size] @ mean) @ weights
            scores = rows[:, :size] @ weights.astype(rows.dtype) + intercept
            yield classes[scores.argmax(axis=1)]

    return path
