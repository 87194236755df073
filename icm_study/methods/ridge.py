"""Ridge regression of class indicators behind any linear map, from the moments of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_ROWS = 2**16  # that are centred at a time, to bound the memory


class LinearScores(NamedTuple):
    """Scores of classes that are linear in embeddings (n, K), as of a fitted classifier.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (n_classes, K)
    intercept_ : ndarray of shape (n_classes,)
    """

    classes_: NDArray[np.integer]
    coef_: NDArray[np.floating]
    intercept_: NDArray[np.floating]

    def decision_function(self, X: NDArray[np.floating]) -> NDArray[np.floating]:
        """Give the scores, (n, n_classes)."""
        return X @ self.coef_.T + self.intercept_


class IndicatorRidge:
    """Least squares of class indicators: the rows are summed once, for every map and penalty.

    The penalty is 1/C in units of the mean square of a mapped feature, as a
    :class:`~icm_core.prediction.LinearProbe` has it.

    Parameters
    ----------
    X : ndarray of shape (n, D)
        Embeddings.
    label : ndarray of shape (n,)
    """

    def __init__(self, X: NDArray[np.floating], label: NDArray[np.integer]) -> None:
        n, d = X.shape
        self.classes_, index = np.unique(label, return_inverse=True)
        self.mean = X.mean(axis=0, dtype=float)
        self.prior = np.bincount(index) / n
        self.gram, self.second = np.zeros((d, d)), np.zeros((d, d))
        self.cross = np.zeros((d, len(self.classes_)))
        for start in range(0, n, _ROWS):
            rows = X[start : start + _ROWS].astype(float)
            centred = rows - self.mean
            indicators = np.eye(len(self.classes_))[index[start : start + _ROWS]]
            self.gram += centred.T @ centred
            self.cross += centred.T @ (indicators - self.prior)
            self.second += rows.T @ rows / n

    def _square(self, components: NDArray[np.floating]) -> float:
        return float(np.trace(components @ self.second @ components.T)) / len(components)

    def behind(self, components: NDArray[np.floating], C: float) -> LinearScores:
        """Fit behind a map (K, D), to score what it gives."""
        penalty = self._square(components) / C * np.eye(len(components))
        gram = components @ self.gram @ components.T
        weights = np.linalg.solve(gram + penalty, components @ self.cross)
        intercept = self.prior - components @ self.mean @ weights
        return LinearScores(self.classes_, weights.T, intercept)

    def predict(
        self, components: NDArray[np.floating], penalties: Sequence[float], X: NDArray[np.floating]
    ) -> list[NDArray[np.integer]]:
        """Label rows that are not mapped yet, (n, D), once for each C."""
        sizes, axes = np.linalg.eigh(components @ self.gram @ components.T)
        rotated = axes.T @ components
        square = self._square(components)
        cross, mapped = rotated @ self.cross, (X - self.mean) @ rotated.T
        scores = (mapped @ (cross / (sizes + square / C)[:, None]) + self.prior for C in penalties)
        return [self.classes_[one.argmax(axis=1)] for one in scores]
