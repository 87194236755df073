"""Rank the directions of an embedding by what an intervention does to them.

Both rankings are eigenproblems in ``C = E[f fᵀ]`` and ``S = E[(f - f_do) (f - f_do)ᵀ]``
(see :mod:`icm_core.moments`). The trace objective of the paper takes the eigenvectors
of ``C - λS``: a direction is good when the embedding expresses much in it and the
intervention changes little. The generalised one solves ``S v = μ C v``: a direction is
good when the intervention re-draws a small share μ of what is expressed in it.
:func:`auto_n_components` reads the number of good directions off either spectrum, and
:func:`auto_consistency_weight` reads λ off the second. :func:`held_out_n_components`
chooses the number by pairs that were held out.

The two agree on how many directions are good. For v'Cv > 0, ``v'(C - λS)v > 0`` says
that the share of v is below 1/λ, so by Sylvester's law of inertia, with C positive
definite, ``C - λS`` has as many positive eigenvalues as there are shares below 1/λ. To
choose λ is to choose the share from which a direction counts as re-drawn: λ = 1 keeps
what is re-drawn by less than half, since 2 is a new draw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

OBJECTIVES = ("trace", "generalized")
_NARROWEST_GAP = np.pi / 8


def trace_spectrum(
    C: NDArray[np.float64], S: NDArray[np.float64], consistency_weight: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve ``(C - λS) v = κ v``, largest κ first.

    Parameters
    ----------
    C, S : ndarray of shape (D, D)
        Second moments of the originals and of the differences.
    consistency_weight : float
        λ.

    Returns
    -------
    eigenvalues : ndarray of shape (D,)
        Descending.
    directions : ndarray of shape (D, D)
        Orthonormal rows.
    """
    ascending, columns = np.linalg.eigh(C - consistency_weight * S)
    return ascending[::-1], columns.T[::-1]


def generalized_spectrum(
    C: NDArray[np.float64], S: NDArray[np.float64], shrinkage: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Solve ``(S + 2σ²I) v = μ (C + σ²I) v``, smallest μ first, with ``σ² = shrinkage tr(C) / D``.

    The two terms are what independent isotropic noise of variance σ² in f and in f_do
    adds to C and S. A direction in which the embedding varies less than that has μ near
    2, as noise has; without it, a direction in which nothing varies would be 0/0, or
    invariant for free.

    Parameters
    ----------
    C, S : ndarray of shape (D, D)
        Second moments of the originals and of the differences.
    shrinkage : float
        The noise, as a fraction of the mean second moment of a direction.

    Returns
    -------
    shares : ndarray of shape (D,)
        μ, ascending.
    directions : ndarray of shape (D, D)
        Rows of unit length, orthogonal in ``C + σ²I``.

    Raises
    ------
    ValueError
        If ``C + σ²I`` is singular.
    """
    noise = shrinkage * np.trace(C) / len(C)
    identity = np.eye(len(C))
    variances, axes = np.linalg.eigh(C + noise * identity)
    if variances[0] <= len(C) * np.finfo(np.float64).eps * variances[-1]:
        raise ValueError(
            f"C is singular at shrinkage={shrinkage}: the embedding does not use all of its "
            f"{len(C)} directions. Expected a larger shrinkage; the default is 1e-4."
        )
    whiten = axes / np.sqrt(variances)
    shares, directions = np.linalg.eigh(whiten.T @ (S + 2 * noise * identity) @ whiten)
    rows = (whiten @ directions).T
    return shares, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rounding_tolerance(
    directions: NDArray[np.float64],
    C: NDArray[np.float64],
    S: NDArray[np.float64],
    consistency_weight: float,
    entry_error: float,
) -> NDArray[np.float64]:
    """How far from zero rounding alone can bring ``v'(C - λS)v``.

    Where C and λS cancel, what is left of them can be smaller than their own rounding
    errors. In double precision these are in proportion to ``‖C‖ + λ‖S‖``. An error e in
    the embedding f adds ``2 v'E[f eᵀ]v`` to ``v'Cv``, which is in proportion to the
    root of ``v'Cv``.

    Parameters
    ----------
    directions : ndarray of shape (K, D)
        One unit vector v a row.
    C, S : ndarray of shape (D, D)
        Second moments of the originals and of the differences.
    consistency_weight : float
        λ.
    entry_error : float
        Largest root mean square, over the directions, of the rounding error of an
        embedding.

    Returns
    -------
    ndarray of shape (K,)
    """
    expressed, changed = (
        np.sqrt(np.maximum(quadratic(directions, moment), 0)) for moment in (C, 2 * S)
    )
    double = len(C) * np.finfo(np.float64).eps
    return double * (np.linalg.norm(C) + consistency_weight * np.linalg.norm(S)) + entry_error * (
        expressed + consistency_weight * changed
    )


def auto_n_components(
    eigenvalues: ArrayLike, objective: str = "trace", tolerance: ArrayLike = 0.0
) -> int:
    """Choose the dimension of the invariant subspace from the spectrum alone.

    For the trace objective it is the number of positive eigenvalues of ``C - λS``,
    since a component with a negative one raises the paper's own objective. For the
    generalised objective it is the number of shares μ below the largest gap between
    neighbours. At least one component is kept.

    Parameters
    ----------
    eigenvalues : array-like of shape (n_features,)
        All eigenvalues, in any order.
    objective : {"trace", "generalized"}
    tolerance : float or array-like of shape (n_features,)
        An eigenvalue of ``C - λS`` counts as positive above it, see
        :func:`rounding_tolerance`. The rounding of the largest eigenvalue is its least
        value.

    Returns
    -------
    int
        A number between 1 and ``n_features``.

    Raises
    ------
    ValueError
        If the objective is unknown or there are no finite eigenvalues.

    Examples
    --------
    >>> auto_n_components([3.0, 0.5, 0.0, -7.0], "trace")
    2
    >>> auto_n_components([0.0, 0.1, 0.2, 1.7, 2.0], "generalized")
    3
    """
    if objective not in OBJECTIVES:
        raise ValueError(
            f"objective is {objective!r}; expected one of {', '.join(map(repr, OBJECTIVES))}."
        )
    values = _finite("eigenvalues", eigenvalues)
    if objective == "generalized":
        return int(np.argmax(np.diff(np.sort(values)))) + 1 if len(values) > 1 else 1
    rounding = len(values) * np.finfo(np.float64).eps * np.abs(values).max()
    return max(1, int(np.count_nonzero(values > np.maximum(tolerance, rounding))))


def held_out_n_components(objective: ArrayLike, rounding: float = 0.0) -> int:
    """Choose the smallest K that no larger one beats on pairs held out.

    A larger K beats a smaller one where its gain, summed over the folds, exceeds the
    standard error of that sum: what all folds agree on counts, however small, and what
    helps one fold and harms the next does not.

    Parameters
    ----------
    objective : array-like of shape (n_folds, n_features)
        On each fold, of the first 1, 2, ... components; larger is better. At least two
        folds.
    rounding : float
        A sum of gains must exceed it, too.

    Returns
    -------
    int
        A number between 1 and ``n_features``.

    Examples
    --------
    >>> held_out_n_components([[5.0, 5.2, 5.2], [6.0, 6.1, 6.3], [4.0, 4.2, 4.0]])
    2
    """
    values = np.asarray(objective, dtype=np.float64)
    n_folds, n_features = values.shape
    for k in range(1, n_features):
        gains = values[:, k:] - values[:, [k - 1]]
        error = np.sqrt(n_folds) * gains.std(axis=0, ddof=1)
        if not (gains.sum(axis=0) > error + rounding).any():
            return k
    return n_features


def auto_consistency_weight(shares: ArrayLike) -> float:
    """Choose λ without labels: 1/λ is in the largest gap of the shares that interventions re-draw.

    Invariant directions have shares near 0 (near δ² where the intervention leaks and
    moves them by δ of their spread), and re-drawn ones have shares near 2. The gap
    between the two groups is measured as an angle: a share is ``μ = 2 (1 - cos θ)``,
    with cos θ the correlation of a direction with itself after the intervention: 0° is
    untouched, 90° a new draw, and 60° what only half of the pairs re-draw, nearer to
    the re-drawn. (Differences of the shares themselves put it in the middle, and
    differences of their logarithms take two tiny leaks for two groups.) Four things
    keep gaps out that are none:

    - a gap begins below 1, since a direction that is re-drawn by half or more is not
      invariant;
    - it is at least 22.5° wide, a quarter of the way from untouched to re-drawn: where
      the shares spread evenly, some gap is still the widest, and which one is chance;
    - shares above 2 count as 2, since more than re-drawn is re-drawn;
    - the spectrum is closed by a 2, so that the gap may lie above every share: then all
      are invariant.

    1/λ is the geometric mean of the two ends of the gap. Any value between them gives
    the same number of positive eigenvalues of ``C - λS``, but not the same directions:
    their angle to the invariant subspace falls like 1/λ, and a leak enters like λδ².
    The two are in balance where λ is in proportion to 1/δ, as it is here.

    Parameters
    ----------
    shares : array-like of shape (n_features,)
        All μ of :func:`generalized_spectrum`, in any order, with the covariance ``C -
        E[f] E[f]ᵀ`` in place of C: the mean of the embedding is a constant, which no
        intervention changes, and opens a gap of its own.

    Returns
    -------
    float
        λ, greater than ``1/√2`` and finite, from the lowest of equal gaps. It is 1
        where there is no gap.

    Raises
    ------
    ValueError
        If there are no shares or one is not finite.

    Examples
    --------
    >>> round(auto_consistency_weight([0.01, 0.02, 1.62, 1.9, 3.4]), 2)  # 1 / sqrt(0.02 * 1.62)
    5.56
    >>> auto_consistency_weight([1.7, 2.0, 2.3])  # nothing is invariant
    1.0
    >>> auto_consistency_weight([0.01, 0.1, 0.3, 0.5, 0.8, 1.2, 1.6])  # nothing stands apart
    1.0
    """
    values = np.sort(_finite("shares", shares))
    closed = np.append(np.clip(values, len(values) * np.finfo(np.float64).eps, 2), 2)
    gaps = np.diff(np.arccos(1 - closed / 2))[: np.count_nonzero(values < 1)]
    if not (gaps >= _NARROWEST_GAP).any():
        return 1.0
    k = np.argmax(gaps)
    return float(1 / np.sqrt(closed[k] * closed[k + 1]))


def _finite(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """One row of values, of which there must be at least one, all finite."""
    row = np.asarray(values, dtype=np.float64).ravel()
    if len(row) == 0 or not np.isfinite(row).all():
        raise ValueError(f"{name} are {values!r}; expected at least one, all of them finite.")
    return row


def quadratic(rows: NDArray[np.float64], moment: NDArray[np.float64]) -> NDArray[np.float64]:
    """``v M vᵀ`` for each row v, shape (K,)."""
    return ((rows @ moment) * rows).sum(axis=1)


def intervention_share(
    components: NDArray[np.float64], C: NDArray[np.float64], S: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Share of each component that the intervention re-draws, ``a S aᵀ / a C aᵀ``.

    Parameters
    ----------
    components : ndarray of shape (K, D)
        One direction a row.
    C, S : ndarray of shape (D, D)
        Second moments of the originals and of the differences.

    Returns
    -------
    ndarray of shape (K,)
        NaN for a component without second moment.
    """
    changed, expressed = (quadratic(components, moment) for moment in (S, C))
    live = expressed > len(C) * np.finfo(np.float64).eps * np.trace(C)
    return np.divide(changed, expressed, out=np.full(len(components), np.nan), where=live)
