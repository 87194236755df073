"""Retrieval by cosine: whether what a query asks for is among the first k."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from icm_core.prediction import unit_rows

AT = (1, 5, 10)


def recall(
    queries: NDArray[np.floating],
    gallery: NDArray[np.floating],
    relevant: NDArray[np.bool_],
    at: Sequence[int] = AT,
) -> dict[int, NDArray[np.bool_]]:
    """Whether something relevant is among the first k that each query finds, by cosine.

    Parameters
    ----------
    queries : ndarray of shape (n, K)
    gallery : ndarray of shape (m, K)
    relevant : ndarray of shape (n, m)
        What counts as found.
    at : sequence of int
        Values of k.

    Returns
    -------
    dict of int to ndarray of shape (n,)
        A tie with something that is not relevant is no hit.

    Raises
    ------
    ValueError
        If nothing in the gallery is relevant to some query.
    """
    if not relevant.any(axis=1).all():
        raise ValueError(
            f"{int((~relevant.any(axis=1)).sum())} queries have nothing relevant in the gallery; "
            "expected something for each. Leave them out."
        )
    cosine = unit_rows(queries) @ unit_rows(gallery).T
    best = np.where(relevant, cosine, -np.inf).max(axis=1, keepdims=True)
    before = ((cosine >= best - 1e-9) & ~relevant).sum(axis=1)
    return {k: before < k for k in at}
