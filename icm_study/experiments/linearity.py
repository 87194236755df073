"""Is an embedding linear in the factors of its images? Both ways, on images not fitted on."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from icm_core.projection import InvariantProjection
from icm_study.embedding.tables import EmbeddedData, pair_moments
from icm_study.experiments.questions import open_animals

if TYPE_CHECKING:
    import xarray as xr

FACTORS = {"label": "class", "domain": "style", "coat": "coat", "scene": "scene",
           "light": "light", "blur": "blur"}  # fmt: skip
ALL, PAIRS, SHUFFLED = "all factors", "all factors and their pairs", "all factors, shuffled"
LINEAR, NONLINEAR = "linear", "nonlinear"
PENALTIES = np.logspace(-4, 3, 15)  # of a ridge, in units of the mean square of a feature
N_LANDMARKS = 300  # of the nonlinear reading


def linearity(X: ArrayLike, factors: Mapping[str, ArrayLike]) -> pd.DataFrame:
    """Measure how far an embedding is a linear map of known factors, and the factors of it.

    Each regression is a ridge with its penalty by cross-validation, fitted on one half of the
    rows and judged on the other. Only the factors that are known are asked: a domain, a class,
    an attribute.

    Parameters
    ----------
    X : array-like of shape (n, D)
        Embeddings.
    factors : mapping of str to array-like of shape (n,)
        By name. Whole numbers are categories; other numbers are taken as they are.

    Returns
    -------
    DataFrame
        Columns way, factor, reading and r2. In the way "embedding from factors", factor is a
        name, or all of them, their main effects with and without the products of each two, and
        all of them in another row's order, which must come out at zero. In the way "factor
        from embedding", reading is linear or nonlinear (a radial kernel with 300 landmarks).

    Raises
    ------
    ValueError
        If there are fewer than 20 rows, a factor has another number of them, or no two values.
    """
    X = np.asarray(X, dtype=np.float64)
    designs = {name: _design(name, values, len(X)) for name, values in factors.items()}
    order = np.random.default_rng(0).permutation(len(X))
    half = order[: len(X) // 2], order[len(X) // 2 :]
    whole = np.hstack(list(designs.values()))
    sides = {**designs, ALL: whole, PAIRS: _with_products(list(designs.values()))}
    sides[SHUFFLED] = whole[np.random.default_rng(1).permutation(len(X))]
    rows = [
        {"way": "embedding from factors", "factor": name, "reading": LINEAR,
         "r2": _explained(side, X, half)}
        for name, side in sides.items()
    ]  # fmt: skip
    kernel = Nystroem(n_components=min(N_LANDMARKS, len(X) // 4), gamma=_width(X), random_state=0)
    curved = kernel.fit(X[half[0]]).transform(X)
    for reading, read in ((LINEAR, X), (NONLINEAR, np.hstack([X, curved]))):
        rows += [
            {"way": "factor from embedding", "factor": name, "reading": reading,
             "r2": _explained(read, side, half)}
            for name, side in designs.items()
        ]  # fmt: skip
    return pd.DataFrame(rows)


def _design(name: str, values: ArrayLike, n: int) -> NDArray[np.float64]:
    """One column for each category, or the numbers themselves, of mean zero."""
    column = np.asarray(values)
    if column.shape != (n,) or n < 20 or len(np.unique(column)) < 2:
        raise ValueError(
            f"The factor {name!r} has shape {column.shape} and {len(np.unique(column))} different "
            f"values for {n} embeddings; expected one value for each of 20 or more, not all alike."
        )
    is_number = column.dtype.kind == "f"
    columns = column[:, None] if is_number else column[:, None] == np.unique(column)
    return StandardScaler(with_std=is_number).fit_transform(columns.astype(np.float64))


def _with_products(designs: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    products = [
        (one[:, :, None] * other[:, None, :]).reshape(len(one), -1)
        for one, other in combinations(designs, 2)
    ]
    return np.hstack([*designs, *products])


def _width(X: NDArray[np.float64]) -> float:
    return 1.0 / max(2 * X.var(axis=0).sum(), np.finfo(np.float64).tiny)


def _explained(
    X: NDArray[np.float64], Y: NDArray[np.float64], half: tuple[NDArray[np.intp], ...]
) -> float:
    """R² on the second half of the rows of a ridge regression on the first, over all of Y."""
    fit, judge = half
    spread = np.square(X[fit] - X[fit].mean(axis=0)).sum() / X.shape[1]
    ridge = RidgeCV(alphas=max(spread, 1e-300) * PENALTIES).fit(X[fit], Y[fit])
    left = np.square(Y[judge] - ridge.predict(X[judge])).sum()
    return float(1 - left / np.square(Y[judge] - Y[fit].mean(axis=0)).sum())


def factors_of(table: xr.Dataset) -> dict[str, NDArray[np.integer]]:
    """Give the factors of a table of the animal world that have words, by name."""
    return {said: table[name].to_numpy() for name, said in FACTORS.items()}


def run_linearity(given: Mapping[str, Any]) -> pd.DataFrame:
    """Ask the shipped encoder, and what its invariant subspace holds of each factor.

    Parameters
    ----------
    given : mapping of str to value
        *encoder*, *seeds*, *n_images* and *cache*.

    Returns
    -------
    DataFrame
        Columns seed, kept ("everything", or the pairs of the projection), K, and those of
        :func:`linearity`, on images without a shortcut.
    """
    tables = []
    for seed, _, _, data in open_animals(given):
        for kept, A in _subspaces(data).items():
            X, factors = without_shortcut(data)
            X = X if A is None else X @ A.T
            table = linearity(X, factors)
            tables.append(table.assign(seed=seed, kept=kept, K=X.shape[1]))
    return pd.concat(tables, ignore_index=True)


def _subspaces(data: EmbeddedData) -> dict[str, Any]:
    fitted = {
        kind: InvariantProjection().fit_moments(pair_moments(data.source, kind)).components_
        for kind in ("image", "oracle")
    }
    return {"everything": None, **fitted}


def without_shortcut(data: EmbeddedData) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Take the tested images whose factors are independent: embeddings and factors."""
    plain = data.tested.isel(row=(data.tested["shortcut"] == "none").to_numpy())
    return plain["original"].to_numpy().astype(np.float64), factors_of(plain)
