"""How many bits of the invariant factors does an embedding hold? Read off interventional pairs.

T5.6 of the paper asks for ``I(Z_inv; Z) > c``. Nobody knows Z_inv; but f and f_do share nothing
else, so what they tell about each other they tell about it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from icm_core.spectrum import generalized_spectrum, quadratic
from icm_study.embedding.tables import pairs_in
from icm_study.experiments.intervals import t_interval
from icm_study.experiments.questions import open_animals

N_FOLDS = 5
SHRINKAGE = 1e-9  # noise, as a fraction of the mean variance of a direction


class Information(NamedTuple):
    """Bits with their interval.

    Attributes
    ----------
    bits : float
        Estimate of ``I(Z_inv; f)``.
    low, high : float
        95 % interval over folds of the pairs.
    """

    bits: float
    low: float
    high: float


def invariant_information(X: ArrayLike, X_do: ArrayLike) -> Information:
    r"""Estimate ``I(Z_inv; f)`` from pairs, without labels and without knowing the factors.

    Where f is Gaussian, and f_do another draw of it with the same Z_inv, this is
    :math:`-\frac12 \sum_i \log_2 (1 - \rho_i)`, with the canonical correlations
    :math:`\rho_i` of f and f_do; the shares of the generalised eigenproblem are
    :math:`\mu_i = 2 (1 - \rho_i)`. Directions are found on four fifths of the pairs and
    their correlations taken on the last fifth, so that agreement by chance cancels. An
    intervention that covers a part of the variant factors only gives too many: what it
    leaves alone counts as invariant. One that leaks gives too few.

    Parameters
    ----------
    X, X_do : array-like of shape (n, D)
        Embeddings before and after an intervention, a pair a row.

    Returns
    -------
    Information

    Raises
    ------
    ValueError
        If the shapes differ, there are fewer than 20 pairs, or a value is not finite.
    """
    one, other = (np.asarray(part, dtype=np.float64) for part in (X, X_do))
    if one.shape != other.shape or one.ndim != 2 or len(one) < 20:
        raise ValueError(
            f"Got embeddings of shapes {one.shape} and {other.shape}; expected (n, D) twice, with "
            "20 pairs or more."
        )
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError("An embedding is NaN or infinite; expected finite ones. Drop its pair.")
    fold = np.random.default_rng(0).permutation(len(one)) % N_FOLDS
    bits = []
    for held_out in range(N_FOLDS):
        fit, judged = fold != held_out, fold == held_out
        mean = (one[fit].mean(axis=0) + other[fit].mean(axis=0)) / 2
        C, S = _moments(one[fit] - mean, other[fit] - mean)
        directions = generalized_spectrum(C, S, SHRINKAGE)[1]
        C, S = _moments(one[judged] - mean, other[judged] - mean)
        noise = SHRINKAGE * np.trace(C) / len(C)
        shares = (quadratic(directions, S) + 2 * noise) / (quadratic(directions, C) + noise)
        bits.append(-0.5 * np.log2(shares / 2).sum())
    return Information(*t_interval(np.array(bits)))


def _moments(
    X: NDArray[np.float64], Y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    difference = X - Y
    return (X.T @ X + Y.T @ Y) / (2 * len(X)), difference.T @ difference / len(X)


def run_information(given: Mapping[str, Any]) -> pd.DataFrame:
    """Estimate the bits in the animal world.

    Parameters
    ----------
    given : mapping of str to value
        *encoder*, *seeds*, *n_images* and *cache*.

    Returns
    -------
    DataFrame
        Columns seed, pairs (their kind), bits, low and high.
    """
    rows = [
        {"seed": seed, "pairs": kind}
        | invariant_information(*pairs_in(data.source, kind))._asdict()
        for seed, _, _, data in open_animals(given)
        for kind in ("image", "oracle")
    ]
    return pd.DataFrame(rows)
