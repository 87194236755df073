"""Is one encoder a linear map of another? A ridge map from one embedding to the other.

If both are invertible linear maps of the same factors (P5.3), each is a linear map of the
other, and a ridge regression finds it from enough rows. The answer is read on rows that it
was not fitted on: the share of the variance that it explains, and whether the row that is
nearest to the prediction is the right one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import KFold

from icm_core.prediction import unit_rows

N_FOLDS = 5
#: Of the ridge, in units of the mean variance of a feature times the number of rows.
PENALTIES = 10.0 ** np.arange(-6, 3.5, 0.5)
OWN, SHUFFLED, EXACT = "own rows", "shuffled rows", "exact linear map"


class RidgeMap:
    """A linear map with a constant between two embeddings, with a ridge penalty.

    The penalty of :data:`PENALTIES` is the one that does best on every fifth row, fitted on
    the others; the map is then fitted on all.

    Parameters
    ----------
    X : array-like of shape (n, D)
    Y : array-like of shape (n, E)
        Row i is the same thing as row i of X, by another encoder.
    """

    def __init__(self, X: ArrayLike, Y: ArrayLike) -> None:
        X, Y = _checked(X, Y)
        judged = np.arange(len(X)) % 5 == 0
        part = _Path(X[~judged], Y[~judged])
        errors = [
            np.square(part.predict(X[judged], penalty) - Y[judged]).sum() for penalty in PENALTIES
        ]
        self.penalty_ = float(PENALTIES[np.argmin(errors)])
        self._path = _Path(X, Y)
        self._X = X

    def predict(self, X: NDArray[np.floating], rank: int | None = None) -> NDArray[np.floating]:
        """Map rows; with a rank, by the best map of that rank on the rows it was fitted on."""
        predicted = self._path.predict(X, self.penalty_)
        if rank is None:
            return predicted
        axes, mean = self._axes[:, :rank], self._path.mean_out
        return (predicted - mean) @ axes @ axes.T + mean

    @cached_property
    def _axes(self) -> NDArray[np.floating]:
        """Principal directions of what is predicted of the rows that were fitted on."""
        fitted = self._path.predict(self._X, self.penalty_) - self._path.mean_out
        return np.linalg.eigh(fitted.T @ fitted)[1][:, ::-1]


class _Path:
    """Ridge regressions of every penalty from one decomposition."""

    def __init__(self, X: NDArray[np.floating], Y: NDArray[np.floating]) -> None:
        self.mean, self.mean_out = X.mean(axis=0), Y.mean(axis=0)
        left, self.singular, self.right = np.linalg.svd(X - self.mean, full_matrices=False)
        self.cross = left.T @ (Y - self.mean_out)

    def predict(self, X: NDArray[np.floating], penalty: float) -> NDArray[np.floating]:
        square = self.singular**2
        ridge = penalty * square.sum() / self.right.shape[1]
        factor = np.divide(
            self.singular, square + ridge, out=np.zeros_like(square), where=square > 0
        )
        return (X - self.mean) @ self.right.T @ (factor[:, None] * self.cross) + self.mean_out


def explained(Y: NDArray[np.floating], predicted: NDArray[np.floating], mean: NDArray) -> float:
    """R²: the share of the variance about `mean` that is predicted, over all features."""
    return float(1 - np.square(Y - predicted).sum() / np.square(Y - mean).sum())


def found(Y: NDArray[np.floating], predicted: NDArray[np.floating], mean: NDArray) -> float:
    """Share of rows whose prediction is nearer to the row itself than to any other, by cosine."""
    cosine = unit_rows(predicted - mean) @ unit_rows(Y - mean).T
    return float((cosine.argmax(axis=1) == np.arange(len(Y))).mean())


def agreement(
    X: ArrayLike,
    Y: ArrayLike,
    *,
    n_rows: Sequence[int] = (),
    ranks: Sequence[int] = (),
    control: str = OWN,
) -> pd.DataFrame:
    """Fit a map from one embedding to the other on four fifths of the rows; judge on the rest.

    Parameters
    ----------
    X, Y : array-like of shape (n, D) and (n, E)
        The same n things by two encoders, in the same order.
    n_rows : sequence of int
        Fit on so many of the rows too; where there are fewer, it is left out.
    ranks : sequence of int
        Restrict the map that is fitted on all to these ranks too.
    control : {"own rows", "shuffled rows", "exact linear map"}
        What Y is: as given, the rows that are fitted on permuted (no map can be found), or
        a random linear map of X of the same shape (a map there is).

    Returns
    -------
    DataFrame
        Columns control, n_rows, rank (0: not restricted), fold, r2 and recall: for each of
        five folds, R² and the share of the rows that are found among those of the fold.

    Raises
    ------
    ValueError
        If there are not as many rows in both, fewer than ten, or one is not finite.
    """
    X, Y = _checked(X, Y)
    if control == EXACT:
        Y = X @ np.random.default_rng(0).normal(size=(X.shape[1], Y.shape[1]))
    rows = []
    for fold, train, test in folds(len(X)):
        for n in [*(n for n in n_rows if n < len(train)), len(train)]:
            fitted = train[:n]
            order = np.random.default_rng(fold).permutation(n) if control == SHUFFLED else slice(n)
            ridge, mean = RidgeMap(X[fitted], Y[fitted][order]), Y[fitted].mean(axis=0)
            for rank in [0, *ranks] if n == len(train) else [0]:
                predicted = ridge.predict(X[test], rank or None)
                scores = {
                    "r2": explained(Y[test], predicted, mean),
                    "recall": found(Y[test], predicted, mean),
                }
                told = {"control": control, "n_rows": n, "rank": rank, "fold": fold}
                rows.append(told | scores)
    table = pd.DataFrame(rows)
    least = len(X) - -(-len(X) // N_FOLDS)  # the folds may differ by a row
    return table.assign(n_rows=table["n_rows"].clip(upper=least))


def folds(n: int) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.intp]]]:
    """Deal n rows into five folds: number, rows to fit on in random order, rows to judge on."""
    rng = np.random.default_rng(0)
    for fold, (train, test) in enumerate(
        KFold(N_FOLDS, shuffle=True, random_state=0).split(range(n))
    ):
        yield fold, rng.permutation(train), test


def _checked(X: ArrayLike, Y: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    rows, others = (np.asarray(part, dtype=np.float64) for part in (X, Y))
    if rows.ndim != 2 or others.ndim != 2 or len(rows) != len(others) or len(rows) < 10:
        raise ValueError(
            f"Got embeddings of shapes {rows.shape} and {others.shape}; expected (n, D) and (n, "
            "E) with the same n things in the same order, ten or more."
        )
    if not (np.isfinite(rows).all() and np.isfinite(others).all()):
        raise ValueError("An embedding is NaN or infinite; expected finite ones. Drop these rows.")
    return rows, others
