"""Invariant prediction: zero-shot and linear probe, on embeddings or on their projection.

Both predictors follow scikit-learn's contract, and both work in the invariant subspace
by standing behind a fitted projection in a pipeline::

    make_pipeline(FrozenEstimator(projection), LinearProbe()).fit(X, y)
    make_pipeline(FrozenEstimator(projection), ZeroShotClassifier()).fit(prompts, classes)

Embeddings are arrays, frames or torch tensors. A zero-shot classifier is "fitted" on
the embeddings of prompts, so the projection acts on prompts and images alike, as in the
paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from icm_core.moments import as_array


class ZeroShotClassifier(ClassifierMixin, BaseEstimator):
    """Classify an image embedding by its cosine with the embeddings of class prompts.

    Parameters
    ----------
    temperature : float, default=0.01
        Cosines are divided by it before the softmax. It changes the probabilities,
        never the label.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    prototypes_ : ndarray of shape (n_classes, n_features)
        For each class, the mean of its unit prompt embeddings, scaled to unit length
        (prompt ensembling).
    """

    def __init__(self, temperature: float = 0.01):
        self.temperature = temperature

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Ensemble the prompts of each class.

        Parameters
        ----------
        X : array-like of shape (n_prompts, n_features)
            Embeddings of prompts.
        y : array-like of shape (n_prompts,)
            The class that each prompt names.

        Returns
        -------
        ZeroShotClassifier

        Raises
        ------
        ValueError
            If the temperature is not positive, shapes differ, or an embedding is not
            finite.
        """
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature!r}; expected a positive number.")
        prompts, y = validate_data(self, as_array(X), as_array(y), dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"The prompts name {len(self.classes_)} class; expected at least two, to choose "
                "between."
            )
        members = np.eye(len(self.classes_))[index]
        self.prototypes_ = unit_rows(members.T @ unit_rows(prompts))
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Cosine with each class (for two classes, scikit-learn's way: second minus first)."""
        cosine = self._cosine(X)
        return cosine if len(self.classes_) > 2 else cosine[:, 1] - cosine[:, 0]

    def predict(self, X: ArrayLike) -> NDArray:
        """Class with the largest cosine, shape (n_samples,)."""
        nearest = self._cosine(X).argmax(axis=1)
        return self.classes_[nearest]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Softmax of cosines over temperature, shape (n_samples, n_classes)."""
        return softmax(self._cosine(X) / self.temperature, axis=1)

    def _cosine(self, X: ArrayLike) -> NDArray[np.floating]:
        check_is_fitted(self)
        embeddings = validate_data(self, as_array(X), dtype=[np.float64, np.float32], reset=False)
        return unit_rows(embeddings) @ self.prototypes_.T


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Logistic regression on embeddings.

    Parameters
    ----------
    C : float, default=0.316
        Inverse strength of the L2 penalty; the default is the paper's.
    max_iter : int, default=1000
        Limit on the iterations of the optimiser.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    scale_ : float
        The embeddings are multiplied by it, so that a feature has unit second moment on
        average: C then means the same for every encoder and every K.
    model_ : LogisticRegression
    """

    def __init__(self, C: float = 0.316, max_iter: int = 1000):
        self.C = C
        self.max_iter = max_iter

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)

        Returns
        -------
        LinearProbe

        Raises
        ------
        ValueError
            If shapes differ, an embedding is not finite, there is one class only, or C
            is not positive.
        """
        embeddings, y = validate_data(
            self, as_array(X), as_array(y), dtype=[np.float64, np.float32]
        )
        mean_square = float(np.mean(np.square(embeddings, dtype=np.float64)))
        self.scale_ = 1.0 / np.sqrt(mean_square) if mean_square > 0 else 1.0
        self.model_ = LogisticRegression(C=self.C, max_iter=self.max_iter, solver="newton-cg")
        self.model_.fit(embeddings * self.scale_, y)
        self.classes_ = self.model_.classes_
        self.n_iter_ = int(self.model_.n_iter_.max())
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Logits, shape (n_samples, n_classes), or (n_samples,) for two classes."""
        scaled = self._scaled(X)
        return self.model_.decision_function(scaled)

    def predict(self, X: ArrayLike) -> NDArray:
        """Most probable class, shape (n_samples,)."""
        scaled = self._scaled(X)
        return self.model_.predict(scaled)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Class probabilities, shape (n_samples, n_classes)."""
        scaled = self._scaled(X)
        return self.model_.predict_proba(scaled)

    def _scaled(self, X: ArrayLike) -> NDArray[np.floating]:
        check_is_fitted(self)
        embeddings = validate_data(self, as_array(X), dtype=[np.float64, np.float32], reset=False)
        return embeddings * self.scale_


def class_prompts(classes: Sequence[str], templates: Sequence[str]) -> tuple[list[str], list[str]]:
    """Every class name in every template.

    Parameters
    ----------
    classes : sequence of str
    templates : sequence of str
        Each with one ``{}`` for the class name, for example ``"a photo of a {}"``.

    Returns
    -------
    prompts, names : list of str
        The prompts, and the class that each one names.

    Raises
    ------
    TypeError
        If the classes or the templates are a single string.
    ValueError
        If there are no classes or templates, or a template has no ``{}``.
    """
    for what, given in (("classes", classes), ("templates", templates)):
        if isinstance(given, str):
            raise TypeError(
                f"{what} is {given!r}; expected a sequence of strings. Write [{given!r}]."
            )
    if not classes or not templates:
        raise ValueError(
            f"Got {len(classes)} classes and {len(templates)} templates; expected at least one "
            "each."
        )
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"The template {template!r} has no '{{}}' for the class name; add it.")
    pairs = [(template.replace("{}", name), name) for name in classes for template in templates]
    return [prompt for prompt, _ in pairs], [name for _, name in pairs]


def unit_rows(X: NDArray[np.floating]) -> NDArray[np.floating]:
    """Scale rows to unit length; a row of zeros stays."""
    norm = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norm > 0, norm, 1)
