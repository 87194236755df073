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

import warnings
from collections.abc import Sequence
from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from icm_core.moments import (
    check_labelled,
    check_labels,
    check_new,
    check_order,
    check_same_rows,
    column_names,
)

_CG_DECREASE = 0.1  # of the squared residual, at which the system of a Newton step is solved
_BLOCK = 2**19  # numbers of rows times classes that are looked at together, within a cache


class _Classifier(ClassifierMixin, BaseEstimator):
    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Give the accuracy on labelled embeddings.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            A class for each row.
        sample_weight : array-like of shape (n_samples,), optional

        Raises
        ------
        ValueError
            If rows have labels in another order than y has, and as ``predict``.
        """
        check_same_rows(X, y, "y")
        return float(super().score(X, check_labels(y), sample_weight))


class ZeroShotClassifier(_Classifier):
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
            If the temperature is not positive, shapes differ, rows have labels in another
            order than y has, or an embedding is not finite.
        """
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature!r}; expected a positive number.")
        self._columns: list[Any] = column_names(X)
        check_same_rows(X, y, "y")
        prompts, y = check_labelled(self, X, y)
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
        embeddings = check_new(self, X)
        check_order(X, self._columns)
        return unit_rows(embeddings) @ self.prototypes_.T


class LinearProbe(_Classifier):
    r"""Logistic regression on embeddings.

    Minimises :math:`C \sum_i \mathrm{loss}_i + \tfrac12 \lVert W \rVert^2`, as
    scikit-learn's ``LogisticRegression`` does, by a truncated Newton method (Nocedal &
    Wright 2006, *Numerical Optimization*, algorithm 7.1). Conjugate gradients solve for
    its steps, preconditioned by the diagonal of the Hessian in the principal axes of
    the embeddings. These are few and of very different scale, which is what makes other
    solvers slow; this one takes a third of the time, in double or single precision as
    the embeddings are.

    Parameters
    ----------
    C : float, default=0.316
        Inverse strength of the L2 penalty. The default is the number that the paper gives
        (arXiv 2405.15289), but not its penalty: embeddings are scaled here (see `scale_`)
        and not in its code, where C means what C times the mean square of a feature means
        here. Choose it on the sources where much hangs on it.
    max_iter : int, default=100
        Limit on the Newton steps.
    tol : float, default=1e-5
        A Newton step that is to lower the loss by a smaller share of it is the last, and
        leaves far less.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    scale_ : float
        The embeddings are multiplied by it, so that a feature has unit second moment on
        average: C then means the same for every encoder and every K.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
        Of the scaled embeddings.
    intercept_ : ndarray of shape (n_classes,), or (1,) for two classes
    n_iter_ : int
        Newton steps that were taken.
    """

    def __init__(self, C: float = 0.316, max_iter: int = 100, tol: float = 1e-5):
        self.C = C
        self.max_iter = max_iter
        self.tol = tol

    def fit(self, X: ArrayLike, y: ArrayLike, axes: NDArray[np.floating] | None = None) -> Self:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
        axes : ndarray of shape (n_features, n_features), optional
            What :func:`principal_axes` gives of `X`. Where several penalties are tried on wide
            embeddings, most of the time goes into them.

        Returns
        -------
        LinearProbe

        Raises
        ------
        ValueError
            If shapes differ, rows have labels in another order than y has, an embedding is
            not finite, there is one class only, C is not positive, tol is not between 0 and 1,
            or the axes are not orthonormal.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` steps were not enough.
        """
        if not (isinstance(self.C, Real) and 0 < self.C < np.inf):
            raise ValueError(f"C is {self.C!r}; expected a positive number.")
        if not (isinstance(self.tol, Real) and 0 < self.tol < 1):
            raise ValueError(f"tol is {self.tol!r}; expected a number between 0 and 1.")
        self._columns: list[Any] = column_names(X)
        check_same_rows(X, y, "y")
        embeddings, y = check_labelled(self, X, y)
        classes, label = np.unique(y, return_inverse=True)
        n_classes = len(classes)
        if n_classes < 2:
            raise ValueError(
                f"The labels name 1 class, {classes[0]!r}; expected at least two classes, to "
                "choose between."
            )
        mean_square = float(np.einsum("ij,ij->", embeddings, embeddings, dtype=float))
        mean_square /= embeddings.size
        self.classes_: NDArray = classes
        self.scale_: float = mean_square**-0.5 if mean_square > 0 else 1.0
        # two classes share one penalised weight vector, which is the difference of theirs
        C = self.C / 2 if n_classes == 2 else self.C
        axes = principal_axes(embeddings) if axes is None else _orthonormal(axes, embeddings)
        weights, intercepts, self.n_iter_ = _logistic_regression(
            embeddings * self.scale_, label, axes, C, self.max_iter, self.tol
        )
        if n_classes == 2:
            weights, intercepts = np.diff(weights, axis=0), np.diff(intercepts)
        self.coef_: NDArray[np.floating] = weights
        self.intercept_: NDArray[np.floating] = intercepts
        return self

    def decision_function(self, X: ArrayLike) -> NDArray[np.floating]:
        """Logits, shape (n_samples, n_classes), or (n_samples,) for two classes."""
        logits = self._logits(X)
        return logits if len(self.classes_) > 2 else logits[:, 0]

    def predict(self, X: ArrayLike) -> NDArray:
        """Most probable class, shape (n_samples,)."""
        logits = self._logits(X)
        chosen = logits.argmax(axis=1) if len(self.classes_) > 2 else (logits[:, 0] > 0).astype(int)
        return self.classes_[chosen]

    def predict_proba(self, X: ArrayLike) -> NDArray[np.floating]:
        """Class probabilities, shape (n_samples, n_classes)."""
        logits = self._logits(X)
        if len(self.classes_) > 2:
            return softmax(logits, axis=1)
        return np.hstack([expit(-logits), expit(logits)])

    def _logits(self, X: ArrayLike) -> NDArray[np.floating]:
        check_is_fitted(self)
        embeddings = check_new(self, X)
        check_order(X, self._columns)
        return (embeddings * self.scale_) @ self.coef_.T + self.intercept_


def principal_axes(X: NDArray[np.floating]) -> NDArray[np.floating]:
    """Eigenvectors of the covariance of embeddings (n_samples, n_features), each a column."""
    centred = X - X.mean(axis=0, dtype=float).astype(X.dtype)
    _, axes = np.linalg.eigh((centred.T @ centred).astype(float))
    return axes


def _orthonormal(axes: NDArray[np.floating], X: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return axes of the features of `X`; raise a ValueError if they are not orthonormal."""
    d = X.shape[1]
    if np.shape(axes) != (d, d) or not np.allclose(axes.T @ axes, np.eye(d), atol=1e-6):
        raise ValueError(
            f"axes has shape {np.shape(axes)}; expected orthonormal columns of shape {(d, d)}, as "
            "principal_axes gives them of the same embeddings. Leave them out to have them found."
        )
    return axes


def _logistic_regression(
    X: NDArray[np.floating],
    label: NDArray[np.intp],
    axes: NDArray[np.floating],
    C: float,
    max_iter: int,
    tol: float,
) -> tuple[NDArray[np.floating], NDArray[np.floating], int]:
    """Weights (n_classes, n_features), intercepts (n_classes,) and steps; see LinearProbe.

    `X` is centred in place. Arrays of all rows are few, and changed in place.
    """
    dtype, mean = X.dtype, X.mean(axis=0, dtype=float)
    X -= mean.astype(dtype)
    # rows in principal axes, and a one for the intercept, which has no penalty
    rows = np.ones((len(X), X.shape[1] + 1), dtype)
    np.matmul(X, axes.astype(dtype), out=rows[:, :-1])
    del X
    penalty = np.full(rows.shape[1], 1 / C, dtype)
    penalty[-1] = 0
    # a row for each class: sums over the few classes are then sums of long rows, which are quick
    W = np.zeros((label.max() + 1, rows.shape[1]), dtype)
    probability = np.zeros((len(W), len(rows)), dtype)
    loss = _penalised_loss(probability, label, W, penalty)
    n_iter = 0
    while n_iter < max_iter:
        n_iter += 1
        gradient, curvature = _derivatives(rows, label, probability, W, penalty)
        change = _newton_step(rows, probability, penalty, gradient, curvature)
        gain = -float(np.vdot(gradient, change))
        size, before = 1.0, loss
        W += change
        while True:
            np.matmul(W, rows.T, out=probability)
            loss = _penalised_loss(probability, label, W, penalty)
            if loss <= before - 1e-4 * size * gain or size < 1e-6:
                break
            size /= 2  # half of the step is taken back
            change /= 2
            W -= change
        if gain / 2 <= tol * loss:
            break
    else:
        warnings.warn(
            f"The probe was still changing after {max_iter} Newton steps; give more as max_iter, "
            f"or a smaller C than {C:g}.",
            ConvergenceWarning,
            stacklevel=3,
        )
    W -= W.mean(axis=0)  # what all classes share says nothing
    weights = W[:, :-1] @ axes.T
    return weights.astype(dtype), (W[:, -1] - weights @ mean).astype(dtype), n_iter


def _blocks(probability: NDArray[np.floating]) -> list[slice]:
    """Cut the rows of embeddings, which are columns here, into blocks."""
    n_classes, n_rows = probability.shape
    size = max(1, _BLOCK // n_classes)
    return [slice(start, start + size) for start in range(0, n_rows, size)]


def _derivatives(
    rows: NDArray[np.floating],
    label: NDArray[np.intp],
    probability: NDArray[np.floating],
    W: NDArray[np.floating],
    penalty: NDArray[np.floating],
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Gradient of the penalised loss, and the diagonal of its Hessian, each shaped as `W`."""
    gradient, curvature = penalty * W, np.broadcast_to(penalty, W.shape).copy()
    for block in _blocks(probability):
        own = probability[:, block]
        residual = own.copy()
        residual[label[block], np.arange(own.shape[1])] -= 1
        gradient += residual @ rows[block]
        curvature += (own * (1 - own)) @ rows[block] ** 2
    return gradient, np.maximum(curvature, np.finfo(rows.dtype).tiny ** 0.5)


def _newton_step(
    rows: NDArray[np.floating],
    probability: NDArray[np.floating],
    penalty: NDArray[np.floating],
    gradient: NDArray[np.floating],
    curvature: NDArray[np.floating],
) -> NDArray[np.floating]:
    """Solve for the change of the weights by conjugate gradients."""
    change = np.zeros_like(gradient)
    residual = -gradient
    direction = residual / curvature
    size = first = float(np.vdot(residual, direction))
    for _ in range(gradient.size):
        if size <= _CG_DECREASE * first or not size > 0:
            break
        curved = penalty * direction
        for block in _blocks(probability):
            weighted = probability[:, block] * (direction @ rows[block].T)
            weighted -= probability[:, block] * weighted.sum(axis=0)
            curved += weighted @ rows[block]
        along = float(np.vdot(direction, curved))
        if not along > 0:  # so little is left that it is rounded to nothing
            break
        length = size / along
        change += length * direction
        residual -= length * curved
        preconditioned = residual / curvature
        last, size = size, float(np.vdot(residual, preconditioned))
        direction = preconditioned + (size / last) * direction
    return change


def _penalised_loss(
    logits: NDArray[np.floating],
    label: NDArray[np.intp],
    W: NDArray[np.floating],
    penalty: NDArray[np.floating],
) -> float:
    """Log-loss of all rows with the penalty; makes the logits (n_classes, n) probabilities."""
    logits -= logits.max(axis=0)
    own = logits[label, np.arange(len(label))].sum(dtype=float)
    probability = np.exp(logits, out=logits)
    total = probability.sum(axis=0)
    probability /= total
    return float(np.log(total).sum(dtype=float) - own + (penalty * W**2).sum(dtype=float) / 2)


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
