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

import math
import warnings
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from array_api_compat import array_namespace
from array_api_compat import device as device_of
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from icm_core.moments import (
    as_array,
    check_labelled,
    check_labels,
    check_new,
    check_order,
    check_same_rows,
    column_names,
)

if TYPE_CHECKING:
    import torch

_CG_DECREASE = 0.1  # of the squared residual, at which the system of a Newton step is solved
_BLOCK = 2**19  # numbers of rows times classes, or features, that are in a cache together


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
    device : str or torch.device, optional
        Where torch fits the probe, such as ``"cuda"``. By default numpy fits it, on the
        processor. The steps are the same, and results agree to rounding.

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

    def __init__(
        self,
        C: float = 0.316,
        max_iter: int = 100,
        tol: float = 1e-5,
        device: str | torch.device | None = None,
    ):
        self.C = C
        self.max_iter = max_iter
        self.tol = tol
        self.device = device

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
            the axes are not orthonormal, or torch has no such device with double precision.

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
        given = embeddings, label, axes
        if self.device is not None:
            given = _on_device(given, self.device)
        found = _logistic_regression(*given, self.scale_, C, self.max_iter, self.tol)
        weights, intercepts, self.n_iter_ = *map(as_array, found[:2]), found[2]
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


def _on_device(arrays: tuple[NDArray, ...], device: str | torch.device) -> tuple[Any, ...]:
    """Make them tensors on a device."""
    import torch

    try:
        return tuple(torch.asarray(array, device=device) for array in arrays)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"device is {str(device)!r}, and torch cannot fit the probe there: {reason}. Expected "
            "a device of this machine with double precision, such as 'cuda', or None for the "
            "processor."
        ) from error


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
    X: Any, label: Any, axes: Any, scale: float, C: float, max_iter: int, tol: float
) -> tuple[Any, Any, int]:
    """Weights (n_classes, n_features), intercepts (n_classes,) and steps; see LinearProbe.

    Arrays are of one library, on one device. Those of all rows are few, and changed in place.
    """
    xp, on = array_namespace(X), device_of(X)
    blocks = _blocks(*X.shape)
    mean = sum((X[block] * scale).sum(axis=0, dtype=float) for block in blocks) / len(X)
    n_classes, n_features = int(label.max()) + 1, X.shape[1]
    # rows in principal axes, and a one for the intercept, which has no penalty
    rows = xp.ones((len(X), n_features + 1), dtype=X.dtype, device=on)
    centre, into = xp.astype(mean, X.dtype), xp.astype(axes, X.dtype)
    for block in blocks:
        rows[block, :-1] = (X[block] * scale - centre) @ into
    penalty = xp.full((n_features + 1,), 1 / C, dtype=X.dtype, device=on)
    penalty[-1] = 0
    # a row for each class: sums over the few classes are then sums of long rows, which are quick
    W = xp.zeros((n_classes, n_features + 1), dtype=X.dtype, device=on)
    probability = xp.zeros((n_classes, len(X)), dtype=X.dtype, device=on)
    loss = _penalised_loss(rows, label, W, penalty, probability)
    n_iter = 0
    while n_iter < max_iter:
        n_iter += 1
        gradient, curvature = _derivatives(rows, label, probability, W, penalty)
        change = _newton_step(rows, probability, penalty, gradient, curvature)
        gain = -_dot(gradient, change)
        size, before = 1.0, loss
        W += change
        while True:
            loss = _penalised_loss(rows, label, W, penalty, probability)
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
    weights = xp.astype(W[:, :-1], xp.float64) @ axes.T
    intercepts = xp.astype(W[:, -1], xp.float64) - weights @ mean
    return xp.astype(weights, X.dtype), xp.astype(intercepts, X.dtype), n_iter


def _blocks(n_rows: int, width: int) -> list[slice]:
    """Cut the rows of embeddings, of each of which there are `width` numbers, into blocks."""
    size = max(1, _BLOCK // width)
    return [slice(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def _dot(a: Any, b: Any) -> float:
    return float(a.reshape(-1) @ b.reshape(-1))


def _derivatives(rows: Any, label: Any, probability: Any, W: Any, penalty: Any) -> tuple[Any, Any]:
    """Gradient of the penalised loss, and the diagonal of its Hessian, each shaped as `W`."""
    xp = array_namespace(rows)
    gradient, curvature = penalty * W, penalty + xp.zeros_like(W)
    for block in _blocks(len(rows), len(W)):
        own = probability[:, block]
        residual = xp.asarray(own, copy=True)
        residual[label[block], _places(label[block])] -= 1
        gradient += residual @ rows[block]
        curvature += (own * (1 - own)) @ rows[block] ** 2
    return gradient, curvature.clip(min=xp.finfo(rows.dtype).smallest_normal ** 0.5)


def _places(label: Any) -> Any:
    return array_namespace(label).arange(len(label), device=device_of(label))


def _newton_step(rows: Any, probability: Any, penalty: Any, gradient: Any, curvature: Any) -> Any:
    """Solve for the change of the weights by conjugate gradients."""
    xp = array_namespace(rows)
    change = xp.zeros_like(gradient)
    residual = -gradient
    direction = residual / curvature
    size = first = _dot(residual, direction)
    for _ in range(math.prod(gradient.shape)):
        if size <= _CG_DECREASE * first or not size > 0:
            break
        curved = penalty * direction
        for block in _blocks(len(rows), len(gradient)):
            weighted = probability[:, block] * (direction @ rows[block].T)
            weighted -= probability[:, block] * weighted.sum(axis=0)
            curved += weighted @ rows[block]
        along = _dot(direction, curved)
        if not along > 0:  # so little is left that it is rounded to nothing
            break
        length = size / along
        change += length * direction
        residual -= length * curved
        preconditioned = residual / curvature
        last, size = size, _dot(residual, preconditioned)
        direction = preconditioned + (size / last) * direction
    return change


def _penalised_loss(rows: Any, label: Any, W: Any, penalty: Any, probability: Any) -> float:
    """Log-loss of all rows with the penalty; sets the probabilities (n_classes, n)."""
    xp = array_namespace(rows)
    loss = 0.0
    for block in _blocks(len(rows), len(W)):
        logits = W @ rows[block].T
        logits -= xp.max(logits, axis=0)
        own = logits[label[block], _places(label[block])].sum(dtype=float)
        logits = xp.exp(logits)
        total = logits.sum(axis=0)
        probability[:, block] = logits / total
        loss += float(xp.log(total).sum(dtype=float) - own)
    return loss + float((penalty * W**2).sum(dtype=float)) / 2


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
