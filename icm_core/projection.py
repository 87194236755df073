"""Estimate the invariant subspace of an embedding from interventional pairs.

An intervention re-draws the variant factors of an observation and keeps the invariant
ones. The directions of the embedding that it leaves alone therefore carry the invariant
factors, and :class:`InvariantProjection` keeps these directions. Two matrices hold all
it needs (see :mod:`icm_core.moments`): ``C = E[f fᵀ]``, what the embedding expresses,
and ``S = E[(f - f_do) (f - f_do)ᵀ]``, what the intervention changes.

The paper's objective trades reconstruction against consistency under an orthonormal
constraint,

    min over A of  E‖f - AᵀA f‖² + λ E‖A (f - f_do)‖²   with  A Aᵀ = I,

which equals ``tr C`` minus ``tr A (C - λS) Aᵀ``. Its minimisers span the eigenvectors
of ``C - λS`` with the largest eigenvalues, so the closed form is exact and the
subspaces for growing K are nested. The generalised objective ``S v = μ C v`` needs no
λ: μ is the share of a direction's second moment that the intervention re-draws. The
same shares choose λ for the trace objective, without labels.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from numbers import Real
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import safe_open
from safetensors.numpy import save as to_safetensors
from scipy.linalg import subspace_angles
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from icm_core.moments import (
    PairMoments,
    as_array,
    check_new,
    check_order,
    check_same_columns,
    check_same_rows,
    column_names,
)
from icm_core.spectrum import (
    OBJECTIVES,
    auto_consistency_weight,
    auto_n_components,
    generalized_spectrum,
    held_out_n_components,
    intervention_share,
    quadratic,
    rounding_tolerance,
    trace_spectrum,
)
from icm_core.stiefel import minimize_on_stiefel

__all__ = ["InvariantProjection", "auto_consistency_weight", "auto_n_components", "subspace_angles"]

SOLVERS = ("closed_form", "gradient")
#: Values of λ among which "held-out" chooses: 1 suits many pairs, and few need more.
HELD_OUT_WEIGHTS = 10.0 ** np.arange(0, 2.5, 0.5)
#: The weight of what is re-drawn on pairs held out: above 1, for what is half re-drawn to lose.
HELD_OUT_MARGIN = 1.1
#: Held-out share from which on it matters that the pairs fitted on told less than half of it: a
#: quarter of what is kept is then re-drawn on new pairs, and a half is the border of invariant.
_MUCH_REDRAWN = 0.5
#: With fewer pairs for each dimension, directions that are re-drawn can look kept, see Notes.
_ENOUGH_PAIRS = 15
PRECISIONS = (np.float64, np.float32, np.float16)
_KIND = "invariant projection"
_FORMAT_VERSION = 1
_METADATA = "clip_icm"  # one entry, since safetensors keeps several in no fixed order
_MAX_STEPS = 2000
_GRADIENT_TOLERANCE = (
    1e-3  # relative to the eigengap: the subspace is then exact to half of this (Davis-Kahan)
)


class InvariantProjection(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Project embeddings onto the subspace that interventions leave invariant.

    Parameters
    ----------
    n_components : int, "auto" or "held-out", default="held-out"
        Dimension K of the subspace. "auto" reads it off the spectrum by
        :func:`~icm_core.spectrum.auto_n_components`, and counts too many, with a
        warning, where there are not many pairs for each dimension of the embedding.
        "held-out" takes the smallest K that no larger one beats on pairs that were not
        fitted on, with a warning where it does not do well on these, see Notes.
    objective : {"trace", "generalized"}, default="trace"
        ``"trace"`` is the paper's objective: the largest eigenvalues of ``C - λS``.
        ``"generalized"`` solves ``S v = μ C v``, smallest μ first; it ignores
        ``consistency_weight`` and, up to ``shrinkage``, its subspace follows any
        invertible linear map of the embedding.
    consistency_weight : float, "auto" or "held-out", default="held-out"
        λ ≥ 0, the weight of consistency against reconstruction. At 0 the projection is
        an uncentred principal component analysis of the original embeddings. "auto"
        looks for the gap in what the intervention re-draws, without labels, by
        :func:`~icm_core.spectrum.auto_consistency_weight`; with ``n_components="auto"``
        too, K is the number of eigenvalues of ``C - λS`` that stay positive under the
        noise of `shrinkage`. "held-out" takes the λ from 1 to 100 that does best on
        pairs that were not fitted on, at the given K or at the best, see Notes.
    solver : {"closed_form", "gradient"}, default="closed_form"
        Exact eigendecomposition, or (for the trace objective) gradient descent on the
        Stiefel manifold, as in the paper.
    shrinkage : float, default=1e-4
        For the generalised objective, and for ``consistency_weight="auto"``, which
        takes the covariance for C: the variance, as a fraction of ``tr(C) / D``, of
        independent isotropic noise assumed in f and in f_do. With variance σ² it solves
        ``(S + 2σ²I) v = μ (C + σ²I) v``. A direction in which nothing varies then has μ
        = 2, as noise has, and does not count as invariant for free.
    random_state : int, Generator or None, default=None
        Seed for the start of the gradient solver; nothing else is random.

    Attributes
    ----------
    components_ : ndarray of shape (n_components_, n_features_in_)
        Rows of A, the best first, of unit length, with the largest entry in absolute
        value positive. Orthonormal for the trace objective. For the generalised
        objective they are orthogonal in ``C + σ²I`` instead: the components are
        uncorrelated, not at right angles.
    n_components_ : int
        K.
    auto_n_components_ : int
        The K that ``n_components="auto"`` takes, whichever was asked for: one fit
        serves every K.
    consistency_weight_ : float
        λ, given or chosen. NaN for the generalised objective, which has none.
    eigenvalues_ : ndarray of shape (n_features_in_,)
        The whole spectrum in the order of selection: eigenvalues of ``C - λS`` from the
        largest, or μ from the smallest.
    intervention_share_ : ndarray of shape (n_components_,)
        ``a S aᵀ / a C aᵀ`` for each component a: 0 means untouched by the intervention,
        2 (for a direction of mean zero) re-drawn entirely. It lies in [0, 2] when f_do
        is an exchangeable re-draw of f and can exceed 2 otherwise. NaN where the
        component has no second moment at all.
    held_out_share_ : ndarray of shape (n_components_,)
        ``tr A S Aᵀ / tr A C Aᵀ`` of the first 1, 2, ..., K components, on pairs held
        out: what an intervention re-draws on new pairs. With few pairs it is far above
        ``intervention_share_``, which is of the pairs fitted on. Each access solves an
        eigenproblem for every fold.
    moments_ : PairMoments
        The moments of all pairs seen. Not there after :meth:`load`, unless they were
        saved; then nothing can be added by :meth:`partial_fit`, and there is no
        ``held_out_share_``.
    made_from_ : dict of str to JSON value
        What the embeddings of the pairs were made from, as it was told to :meth:`save`;
        empty after a fit. *weights* is the fingerprint of the encoder: embeddings that
        say they are of another one are refused.
    n_features_in_ : int
        D. ``feature_names_in_`` is also set when X has string column names.
    n_iter_ : int
        Gradient solver only: the number of descent steps.
    objective_path_ : ndarray of shape (n_iter_ + 1,)
        Gradient solver only: the paper's objective at the start and after each step.

    Notes
    -----
    Source: the objective of CLIP-ICM, arXiv 2405.15289. Directions with nothing in them
    have eigenvalue 0 of ``C - λS``: "auto" leaves them out, and a K above the number of
    positive eigenvalues fills up with them.

    **Held out.** The pairs are in five folds (see
    :meth:`~icm_core.moments.PairMoments.folds`). The components of K and λ are
    estimated without a fold, and judged on it by ``tr A (C - 1.1 S) Aᵀ``, to which a
    direction adds as long as clearly less than half of it is re-drawn; where λ is
    given, by ``tr A (C - 1.1 λS) Aᵀ``. λ is the one with the largest sum over the
    folds. K is the smallest that no larger one beats: a larger K must gain, summed over
    the folds, more than one standard error of its gains in the folds. The projection is
    then estimated from all pairs. Few pairs show too little change in directions that
    they leave alone by chance; a larger λ makes up for it, and with ever more pairs λ
    falls to 1. The gradient solver takes the K and λ of the closed form. To choose both
    takes 31 eigenproblems instead of one. The mean of the embeddings, which no
    intervention changes, counts as a component; a warning says where nothing else that
    is kept holds on pairs held out, and where most of what is re-drawn on these did not
    show on the pairs fitted on.

    The factor 1.1 is for interventions that *empty* a factor (grey for colour, a word
    left out) or re-draw it in half of the pairs. Then S = C on it, ``tr A (C - S) Aᵀ``
    does not tell it from nothing, and the little of the invariant factors that the
    estimate spills into it would decide to keep it, in every fold. The standard error
    is for noise: what gains in one fold and loses in the next is no reason for more
    directions, and a direction of little variance that gains in all is kept. The rule
    errs towards few directions: where there are fewer pairs than dimensions, it can
    leave out invariant directions of little variance, and it leaves out those that the
    intervention re-draws by 45 to 50 %.

    **Auto.** Of directions that are all re-drawn, some look re-drawn by less than half
    by chance as long as their largest sample correlation with the copies exceeds 1/2:
    with n pairs in p dimensions it is near ``2 √(p/n (1 - p/n))`` (Wachter 1980, *The
    limiting empirical measure of multiple discriminant ratios*), which is 1/2 at 15
    pairs a dimension. With fewer, "auto" is compared with the rule above, which takes
    five more eigenproblems, and a warning says where K is more than twice as large.

    The K that ``consistency_weight="auto"`` finds does not change under an invertible
    map of the embedding (up to `shrinkage`), but the directions of the trace objective
    do not follow such a map: where the mixing of the factors is ill-conditioned, they
    stay far from the invariant subspace at every λ that keeps K of them. Those of the
    generalised objective, at the same K, reach it.

    **In a pipeline** the second argument of ``fit`` is the label, not X_do. Pairs need
    no labels and are mostly another set of observations, so the recommended way is to
    fit the projection on pairs and to freeze it (first example). To search over its
    parameters, route the pairs of the training rows as metadata:
    ``InvariantProjection().set_fit_request(X_do=True)`` with
    ``sklearn.set_config(enable_metadata_routing=True)``, then ``pipeline.fit(X, y,
    X_do=X_do)``.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.frozen import FrozenEstimator
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 4))
    >>> X_do = X.copy()
    >>> X_do[:, 2:] = rng.normal(size=(500, 2))  # the intervention re-draws the last two
    >>> projection = InvariantProjection().fit(X, X_do)
    >>> projection.n_components_
    2
    >>> y = (X[:, 0] > 0).astype(int)
    >>> pipeline = make_pipeline(FrozenEstimator(projection), LogisticRegression()).fit(X, y)
    >>> bool(pipeline.score(X_do, y) > 0.95)
    True

    Pairs that do not fit in memory are streamed through their moments:

    >>> moments = PairMoments(4).update(X[:250], X_do[:250]).update(X[250:], X_do[250:])
    >>> InvariantProjection().fit_moments(moments).truncate(1).components_.shape
    (1, 4)
    """

    def __init__(
        self,
        n_components: int | str = "held-out",
        *,
        objective: str = "trace",
        consistency_weight: float | str = "held-out",
        solver: str = "closed_form",
        shrinkage: float = 1e-4,
        random_state: int | np.random.Generator | None = None,
    ) -> None:
        self.n_components = n_components
        self.objective = objective
        self.consistency_weight = consistency_weight
        self.solver = solver
        self.shrinkage = shrinkage
        self.random_state = random_state

    def fit(
        self, X: ArrayLike, X_do: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Self:
        """Estimate the projection from pairs.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_pairs, n_features)
            Embeddings of the observations.
        X_do : array-like or Tensor of shape (n_pairs, n_features)
            Row i is the embedding of observation i after the intervention. (It has a
            default only because scikit-learn calls ``fit(X)``; without it, an error
            tells what to do.)
        groups : array-like of shape (n_pairs,), optional
            What belongs together, such as frames of a burst, and is held out together, see
            :meth:`~icm_core.moments.PairMoments.update`. It counts for the rules that hold
            out, and for ``held_out_share_``.

        Returns
        -------
        InvariantProjection
            This estimator, fitted.

        Raises
        ------
        ValueError
            If a parameter is out of range, X_do is missing or one-dimensional (labels),
            the shapes or the names of the columns differ, rows have labels in another
            order, an array is empty or holds NaN or infinity, the groups are not one for
            each pair, n_components exceeds n_features, or every embedding is zero.
        """
        return self._fit_pairs(X, X_do, groups, earlier=None)

    def partial_fit(
        self, X: ArrayLike, X_do: ArrayLike | None = None, groups: ArrayLike | None = None
    ) -> Self:
        """Add a batch of pairs to those seen so far and estimate the projection from all of them.

        Each call solves anew, in O(D³). To stream many batches and solve once, update a
        :class:`~icm_core.moments.PairMoments` and call :meth:`fit_moments`.

        Parameters
        ----------
        X, X_do : array-like or Tensor of shape (n_pairs, n_features)
        groups : array-like of shape (n_pairs,), optional
            As for :meth:`fit`.

        Returns
        -------
        InvariantProjection
            This estimator, fitted.

        Raises
        ------
        ValueError
            As for :meth:`fit`, if the number of features differs from that of earlier
            batches, or if the moments of these were not saved with a loaded projection.
        """
        is_fitted = hasattr(self, "components_")
        earlier = self._moments_or_refuse("partial_fit") if is_fitted else None
        return self._fit_pairs(X, X_do, groups, earlier=earlier)

    def fit_moments(self, moments: PairMoments) -> Self:
        """Estimate the projection from moments instead of pairs.

        Parameters
        ----------
        moments : PairMoments
            Moments of at least one pair; they are kept as ``moments_`` and never
            changed.

        Returns
        -------
        InvariantProjection
            This estimator, fitted.

        Raises
        ------
        TypeError
            If ``moments`` is not a :class:`~icm_core.moments.PairMoments`.
        ValueError
            If a parameter is out of range, the moments are of zero pairs, n_components
            exceeds n_features, or every embedding is zero.
        """
        if not isinstance(moments, PairMoments):
            raise TypeError(
                f"moments is a {type(moments).__name__}; expected PairMoments. Use fit(X, X_do) "
                "for arrays."
            )
        self.n_features_in_ = moments.n_features
        self._columns: list[Any] = moments.columns
        if hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        return self._solve(moments)

    def fit_transform(
        self, X: ArrayLike, y: ArrayLike | None = None, X_do: ArrayLike | None = None
    ) -> NDArray[np.floating]:
        """Fit on pairs and project the originals.

        Parameters
        ----------
        X : array-like of shape (n_pairs, n_features)
            Embeddings of the observations.
        y, X_do : array-like
            ``fit_transform(X, X_do)`` by position. In a pipeline with metadata routing
            y is the label, which is ignored, and X_do comes by name.

        Returns
        -------
        ndarray of shape (n_pairs, n_components_)
        """
        return self.fit(X, y if X_do is None else X_do).transform(X)

    def transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Project embeddings: ``X @ components_.T``.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_features)
            Embeddings, of images or of text.

        Returns
        -------
        ndarray of shape (n_samples, n_components_)
            In the precision of X (float32 or float64).

        Raises
        ------
        NotFittedError
            If the projection is not fitted.
        ValueError
            If X has another number of features, has the columns that were fitted on in
            another order, holds NaN or infinity, or says that it is of another encoder,
            see :meth:`check_encoder`.
        """
        check_is_fitted(self)
        told = getattr(X, "attrs", {}).get("weights")
        if isinstance(told, str):
            self.check_encoder(told)
        embeddings = check_new(self, X)
        check_order(X, self._columns)
        return embeddings @ self.components_.T.astype(embeddings.dtype)

    def inverse_transform(self, X: ArrayLike) -> NDArray[np.floating]:
        """Put projected embeddings back into the embedding's space.

        After :meth:`transform` this is ``AᵀA f``, the part of f in the invariant
        subspace. (Where the components are not orthonormal, Aᵀ gives way to the
        pseudoinverse of A, with which the same holds.)

        Parameters
        ----------
        X : array-like or Tensor of shape (n_samples, n_components_)
            Projected embeddings.

        Returns
        -------
        ndarray of shape (n_samples, n_features_in_)
            In the precision of X (float32 or float64).

        Raises
        ------
        NotFittedError
            If the projection is not fitted.
        ValueError
            If X has another number of columns, or holds NaN or infinity.
        """
        check_is_fitted(self)
        projected = check_array(as_array(X), dtype=[np.float64, np.float32], input_name="X")
        if projected.shape[1] != self.n_components_:
            raise ValueError(
                f"X has {projected.shape[1]} columns; expected the {self.n_components_} that "
                "transform gives."
            )
        is_orthonormal = self.objective == "trace"
        back = self.components_ if is_orthonormal else np.linalg.pinv(self.components_).T
        return projected @ back.astype(projected.dtype)

    def check_encoder(self, weights: str) -> None:
        """Refuse an encoder that the projection was not made for.

        Parameters
        ----------
        weights : str
            The encoder's fingerprint. Tables of embeddings that have it in their
            attributes (``X.attrs["weights"]``) are checked by :meth:`transform`.

        Raises
        ------
        ValueError
            If ``made_from_`` tells another one. Where it tells none, nothing is checked.
        """
        own = self.made_from_.get("weights", weights)
        if own != weights:
            name = self.made_from_.get("encoder", "another encoder")
            raise ValueError(
                f"The projection was made from embeddings of {name!r} with the fingerprint "
                f"{own:.12}…; got an encoder with the fingerprint {weights:.12}…, whose embeddings "
                "mean something else. Embed with the encoder that it was made for, or fit again."
            )

    def save(
        self,
        path: str | PathLike[str],
        *,
        made_from: Mapping[str, Any] | None = None,
        with_moments: bool = False,
    ) -> None:
        """Write the fitted projection to a safetensors file, whole or not at all.

        Equal projections give equal bytes. ``components`` is the array A, for readers
        that know nothing else.

        Parameters
        ----------
        path : path-like
            Where to write; the name is used as given.
        made_from : mapping of str to JSON value, optional
            What the pairs were made from, such as the names and fingerprints of encoder
            (*encoder*, *weights*) and data. By default what ``made_from_`` tells.
        with_moments : bool
            Keep the moments too: 10 D² numbers, with which pairs can be added later.

        Raises
        ------
        NotFittedError
            If the projection is not fitted.
        TypeError
            If `made_from` holds something else than JSON values.
        ValueError
            If moments are asked for and are not there.
        """
        check_is_fitted(self)
        arrays = {
            "components": self.components_,
            "eigenvalues": self.eigenvalues_,
            "intervention_share": self.intervention_share_,
            "consistency_weight": np.array(self.consistency_weight_),
        }
        parameters = {name: _plain(value) for name, value in self.get_params().items()}
        told = {
            "parameters": parameters,
            "auto_n_components": self.auto_n_components_,
            "feature_names": [*map(str, getattr(self, "feature_names_in_", ()))],
            "columns": [_plain(name) for name in self._columns if isinstance(name, (int, str))],
            "made_from": dict(self.made_from_ if made_from is None else made_from),
        }
        if hasattr(self, "objective_path_"):
            arrays["objective_path"] = np.array(self.objective_path_)
        if with_moments:
            moments = self._moments_or_refuse("with_moments=True")
            told["n_pairs"] = moments.n_pairs
            arrays |= {f"moments.{name}": values for name, values in moments.sums().items()}
        write_arrays(path, arrays, {"kind": _KIND, "format_version": _FORMAT_VERSION} | told)

    @classmethod
    def load(cls, path: str | PathLike[str], *, weights: str | None = None) -> Self:
        """Read a projection that :meth:`save` wrote.

        Parameters
        ----------
        path : path-like
            The file.
        weights : str, optional
            Fingerprint of the encoder whose embeddings are to be projected.

        Returns
        -------
        InvariantProjection
            Fitted; equal to the bit to the one that was saved. A generator as
            `random_state` is not kept.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        ValueError
            If the file is damaged, is no projection, has another format version, or was
            made from another encoder's embeddings.
        """
        arrays, told = read_arrays(path, _KIND, _FORMAT_VERSION)
        projection = cls(**told["parameters"])
        projection.components_ = arrays["components"]
        projection.n_components_, projection.n_features_in_ = projection.components_.shape
        projection.eigenvalues_ = arrays["eigenvalues"]
        projection.consistency_weight_ = float(arrays["consistency_weight"])
        projection.auto_n_components_ = told["auto_n_components"]
        projection.made_from_ = told["made_from"]
        projection._share = arrays["intervention_share"]
        projection._columns = told.get("columns", [])
        if told["feature_names"]:
            projection.feature_names_in_ = np.array(told["feature_names"], dtype=object)
        if "objective_path" in arrays:
            projection.objective_path_ = arrays["objective_path"]
            projection.n_iter_ = len(projection.objective_path_) - 1
        if "n_pairs" in told:
            sums = {
                name.removeprefix("moments."): values
                for name, values in arrays.items()
                if name.startswith("moments.")
            }
            projection.moments_ = PairMoments.from_sums(told["n_pairs"], sums, source=f"{path}")
            projection.moments_.columns = projection._columns
        if weights is not None:
            projection.check_encoder(weights)
        return projection

    def truncate(self, k: int) -> InvariantProjection:
        """Keep the first k components: the projection that a fit with ``n_components=k`` gives.

        The subspaces are nested, so one fit with a large K serves every smaller one.
        (For the gradient solver this holds up to its convergence.)

        Parameters
        ----------
        k : int
            Between 1 and ``n_components_``.

        Returns
        -------
        InvariantProjection
            A fitted copy.

        Raises
        ------
        NotFittedError
            If the projection is not fitted.
        ValueError
            If k is out of range.
        """
        check_is_fitted(self)
        if not _is_count(k) or k > self.n_components_:
            raise ValueError(
                f"k is {k!r}; expected an integer from 1 to the {self.n_components_} fitted "
                "components. Fit with a larger n_components to truncate at more."
            )
        result = copy.deepcopy(self)
        result.n_components = result.n_components_ = int(k)
        result.components_ = result.components_[:k]
        return result

    @property
    def intervention_share_(self) -> NDArray[np.float64]:
        """Share of each component that the intervention re-draws, from the moments of the fit."""
        if not hasattr(self, "moments_") and hasattr(self, "_share"):
            return self._share[: self.n_components_]
        return intervention_share(self.components_, self.moments_.C, self.moments_.S)

    @property
    def held_out_share_(self) -> NDArray[np.float64]:
        """Share of the first K components that is re-drawn on pairs held out, for every K."""
        moments = self._moments_or_refuse("held_out_share_")
        expressed, changed, _ = self._held_out(moments, self.consistency_weight_).sum(axis=1)
        share = np.divide(
            changed, expressed, out=np.full_like(changed, np.nan), where=expressed > 0
        )
        return share[: self.n_components_]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.n_components_

    def _fit_pairs(
        self,
        X: ArrayLike,
        X_do: ArrayLike | None,
        groups: ArrayLike | None,
        earlier: PairMoments | None,
    ) -> Self:
        self._check_parameters()
        columns = column_names(X)
        originals = validate_data(self, as_array(X), dtype=PRECISIONS, reset=earlier is None)
        shape = np.asarray(as_array(X_do)).shape
        if len(shape) < 2:
            got = "no X_do" if X_do is None else f"X_do of shape {shape}, like labels,"
            raise ValueError(
                f"InvariantProjection got {got} and expected interventional pairs, X_do of shape "
                f"{originals.shape}. Call fit(X, X_do). In a pipeline, fit the projection on "
                "pairs first and put sklearn.frozen.FrozenEstimator(projection) into the pipeline."
            )
        check_same_columns(X, X_do)
        check_same_rows(X, X_do, "X_do")
        check_same_rows(X, groups, "groups")
        if earlier is None:
            self._columns = columns
        check_order(X, self._columns)
        intervened = check_array(
            as_array(X_do), dtype=PRECISIONS, input_name="X_do", ensure_min_samples=0
        )
        pairs: tuple[tuple[Any, NDArray], ...] = ((X, originals), (X_do, intervened))
        # a tensor is handed on as it is, for the moments to see its precision
        before, after = (given if hasattr(given, "detach") else checked for given, checked in pairs)
        moments = PairMoments(originals.shape[1]).update(before, after, groups)
        moments.columns = self._columns
        return self._solve(moments if earlier is None else earlier.merge(moments))

    def _solve(self, moments: PairMoments) -> Self:
        self._check_parameters()
        C, S = moments.C, moments.S
        if isinstance(self.n_components, (int, np.integer)) and self.n_components > len(C):
            raise ValueError(
                f"n_components is {self.n_components}; expected at most n_features, {len(C)}. The "
                "subspace cannot be larger than the embedding."
            )
        if not np.isfinite(np.trace(C) + np.trace(S)) or not np.trace(C) > 0:
            raise ValueError(
                "Every embedding in X is zero, or the squares of its values are out of range "
                f"(their sum is {np.trace(C):g}); expected embeddings that vary, of a length like "
                "1. Check the encoder."
            )
        if not S.any():
            _warn(
                "X_do equals X in every pair: the intervention changed nothing, so nothing tells "
                "which directions are invariant."
            )
        self.consistency_weight_, noise = self._choose_weight(moments)
        eigenvalues, directions = self._spectrum(C, S, self.consistency_weight_)
        self.auto_n_components_ = self._count(eigenvalues, directions, moments, noise)
        k = self._choose_k(moments, directions)
        if self.solver == "gradient":
            eigengap = (
                eigenvalues[k - 1] - eigenvalues[k] if k < len(C) else np.abs(eigenvalues).max()
            )
            components = self._descend(C, S, k, tolerance=_GRADIENT_TOLERANCE * eigengap)
        else:
            components = directions[:k]
        self.components_ = _with_fixed_signs(components)
        self.n_components_ = k
        self.eigenvalues_ = eigenvalues
        self.moments_ = moments
        self.made_from_: dict[str, Any] = {}
        return self

    def _moments_or_refuse(self, what: str) -> PairMoments:
        if not hasattr(self, "moments_"):
            raise ValueError(
                f"{what} needs the moments of the pairs, and the file that this projection was "
                "loaded from has none. Fit again, or save the fitted one with_moments=True."
            )
        return self.moments_

    def _spectrum(
        self, C: NDArray[np.float64], S: NDArray[np.float64], weight: float
    ) -> tuple[NDArray, NDArray]:
        """All eigenvalues and directions (rows), the best first; a subclass may rank otherwise."""
        if self.objective == "generalized":
            return generalized_spectrum(C, S, self.shrinkage)
        return trace_spectrum(C, S, weight)

    def _choose_weight(self, moments: PairMoments) -> tuple[float, float]:
        """λ, and the variance of the noise that it was chosen under (0 if it was given)."""
        if self.objective == "generalized":
            return float("nan"), 0.0
        if isinstance(self.consistency_weight, Real):
            return float(self.consistency_weight), 0.0
        if self.consistency_weight == "held-out":
            scores = [self._held_out_score(weight, moments) for weight in HELD_OUT_WEIGHTS]
            return float(HELD_OUT_WEIGHTS[np.argmax(scores)]), 0.0
        covariance = moments.covariance
        variance = np.trace(covariance) / len(covariance)
        if variance <= np.finfo(np.float64).eps * np.trace(moments.C):
            raise ValueError(
                "Every embedding in X is the same, and consistency_weight='auto' needs at least "
                f"two that differ (n_samples={moments.n_pairs}). Pass more pairs, or a number as "
                "consistency_weight."
            )
        shares, _ = generalized_spectrum(covariance, moments.S, self.shrinkage)
        weight = auto_consistency_weight(shares)
        if weight == 1:
            reason = (
                "The intervention re-draws half or more of every direction, so none looks invariant"
                if shares[0] >= 1
                else "The shares that the intervention re-draws spread evenly, so no group of "
                "directions stands apart"
            )
            _warn(f"{reason}: consistency_weight='auto' is set to 1.")
        return weight, self.shrinkage * variance

    def _choose_k(self, moments: PairMoments, directions: NDArray[np.float64]) -> int:
        k = self.auto_n_components_ if self.n_components == "auto" else self.n_components
        if self._holds_out():
            return self._choose_held_out(moments, k, directions)
        if self.n_components == "auto":
            self._warn_of_auto(int(k), moments, directions)
        return int(k)

    def _warn_of_auto(self, k: int, moments: PairMoments, directions: NDArray[np.float64]) -> None:
        kept = f"n_components='auto' keeps {k} components of {moments.n_pairs} pairs"
        if self._is_chance(k, moments):
            _warn(
                f"{kept}: so few pairs leave directions alone by chance, and new pairs change "
                "them. Pass more pairs, or n_components='held-out' and "
                "consistency_weight='held-out'."
            )
        elif self.objective == "trace":
            expressed, varied, changed = (
                quadratic(directions[:k], M).sum()
                for M in (moments.C, moments.covariance, moments.S)
            )
            if varied <= self.consistency_weight_ * changed < expressed:
                _warn(
                    f"{kept}, and they express the mean of the embeddings and little else that "
                    "the intervention leaves alone. Pass pairs of another intervention, or leave "
                    "the embedding as it is."
                )

    def _is_chance(self, k: int, moments: PairMoments) -> bool:
        """Whether so few pairs were given that most of k components look kept by chance."""
        if k > moments.n_pairs / 2:
            return True
        if moments.n_pairs >= _ENOUGH_PAIRS * moments.n_features or moments.n_folds < 2:
            return False
        objective = self._held_out_objective(moments, self.consistency_weight_)
        return k > 2 * held_out_n_components(objective, _rounding(moments))

    def _choose_held_out(
        self, moments: PairMoments, k: int | str, directions: NDArray[np.float64]
    ) -> int:
        """Choose K by the held-out objective, if it is not given, and say where that fails."""
        expressed, changed, constant = held = self._held_out(moments, self.consistency_weight_)
        objective = self._judged(held, self.consistency_weight_)
        if k == "held-out":
            k = held_out_n_components(objective, _rounding(moments))
        k = int(k)
        # the mean, which no intervention changes, is no reason to keep anything
        gains, gain = objective[:, k - 1], (objective - constant)[:, k - 1].sum()
        redrawn = _ratio(changed[:, k - 1].sum(), (expressed - constant)[:, k - 1].sum())
        kept = self._orthonormal(directions[:k])
        fitted = _ratio(*(quadratic(kept, M).sum() for M in (moments.S, moments.covariance)))
        few = f"{moments.n_pairs} pairs are too few"
        if gains.min() <= 0 or gain <= 0:
            _warn(
                f"On pairs held out, the {k} components that n_components={self.n_components!r} "
                f"and consistency_weight={self.consistency_weight!r} keep are worse than none. "
                f"Either {few} to tell what is invariant, or nothing is. Pass more pairs, or leave "
                "the embedding as it is."
            )
        elif redrawn >= _MUCH_REDRAWN and redrawn > 2 * fitted:
            rule = self.objective == "generalized" or self.consistency_weight == "held-out"
            _warn(
                f"On pairs held out, a share of {redrawn:.2f} of the variance in the {k} "
                f"components that n_components={self.n_components!r} and consistency_weight="
                f"{self.consistency_weight!r} keep is re-drawn, and of {fitted:.2f} on those that "
                f"were fitted on (2 is all of it): {few} for this choice. Pass more pairs"
                + ("." if rule else ", or consistency_weight='held-out'.")
            )
        return k

    def _holds_out(self) -> bool:
        weighted = self.objective != "generalized"
        return self.n_components == "held-out" or (
            weighted and self.consistency_weight == "held-out"
        )

    def _held_out_score(self, weight: float, moments: PairMoments) -> float:
        """Judge λ by the held-out objective at the given K, or else at the best."""
        total = self._held_out_objective(moments, weight).sum(axis=0)
        best = isinstance(self.n_components, str)
        return float(total.max() if best else total[int(self.n_components) - 1])

    def _held_out_objective(self, moments: PairMoments, weight: float) -> NDArray[np.float64]:
        """``tr A (C - 1.1 wS) Aᵀ`` on pairs held out, by fold and K; w is 1, or λ if given."""
        return self._judged(self._held_out(moments, weight), weight)

    def _judged(self, held: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
        """``tr A (C - 1.1 wS) Aᵀ`` from what :meth:`_held_out` gives."""
        expressed, changed, _ = held
        chosen = self.objective == "generalized" or self.consistency_weight == "held-out"
        return expressed - HELD_OUT_MARGIN * (1.0 if chosen else weight) * changed

    def _held_out(self, moments: PairMoments, weight: float) -> NDArray[np.float64]:
        """``tr A M Aᵀ`` on pairs held out, of C, S and the part of C that the mean makes.

        Shape (3, n_folds, D): by fold and K.
        """
        of_mean, folds = moments.C - moments.covariance, []
        for fold in moments.folds():
            rows = self._orthonormal(self._spectrum(fold.C, fold.S, weight)[1])
            matrices = fold.C_out, fold.S_out, fold.share * of_mean
            folds.append([quadratic(rows, matrix).cumsum() for matrix in matrices])
        return np.swapaxes(folds, 0, 1)

    def _orthonormal(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give an orthonormal basis of the first 1, 2, ... rows."""
        if self.objective == "generalized":  # its components are not at right angles
            return np.linalg.qr(rows.T)[0].T
        return rows

    def _count(
        self,
        eigenvalues: NDArray[np.float64],
        directions: NDArray[np.float64],
        moments: PairMoments,
        noise: float,
    ) -> int:
        """K by the spectrum."""
        if self.objective == "generalized":
            return auto_n_components(eigenvalues, self.objective)
        C, S, weight = moments.C, moments.S, self.consistency_weight_
        # errors of one variance in every entry: their largest singular value, by the number of
        # pairs
        entry_error = np.sqrt(moments.rounding) * (1 + np.sqrt(len(C) / moments.n_pairs))
        tolerance = rounding_tolerance(directions, C, S, weight, entry_error)
        # noise adds σ² to C and 2σ² to S (see generalized_spectrum): C - λS then has these
        # eigenvalues
        eigenvalues = eigenvalues - (2 * weight - 1) * noise
        if self.n_components == "auto" and (eigenvalues <= tolerance).all():
            _warn(
                f"No eigenvalue of C - λS is positive at consistency_weight={weight}: "
                "every component raises the objective. One is kept. Lower consistency_weight."
            )
        return auto_n_components(eigenvalues, self.objective, tolerance)

    def _descend(
        self, C: NDArray[np.float64], S: NDArray[np.float64], k: int, tolerance: float
    ) -> NDArray[np.float64]:
        """Minimise the paper's objective by gradient descent; rows in order of their eigenvalue."""
        import torch

        weight = self.consistency_weight_
        second, change = torch.from_numpy(C), torch.from_numpy(S)

        def objective(A: torch.Tensor) -> torch.Tensor:
            # E‖f - AᵀA f‖² = tr C - tr A C Aᵀ, because A Aᵀ = I
            reconstruction = torch.trace(second) - torch.trace(A @ second @ A.T)
            return reconstruction + weight * torch.trace(A @ change @ A.T)

        start = np.random.default_rng(self.random_state).normal(size=(k, len(C)))
        descent = minimize_on_stiefel(
            objective, start, gradient_tolerance=tolerance, max_steps=_MAX_STEPS
        )
        self.objective_path_ = descent.objective_path
        self.n_iter_ = len(descent.objective_path) - 1
        if not descent.converged:
            _warn(
                f"Gradient descent did not converge in {self.n_iter_} steps, because the "
                "eigenvalues that are kept and those that are not lie close together. Use "
                "solver='closed_form', which is exact.",
                ConvergenceWarning,
            )
        _, rotation = np.linalg.eigh(descent.point @ (C - weight * S) @ descent.point.T)
        return rotation.T[::-1] @ descent.point

    def _check_parameters(self) -> None:
        _check_choice("objective", self.objective, OBJECTIVES)
        _check_choice("solver", self.solver, SOLVERS)
        if self.solver == "gradient" and self.objective != "trace":
            raise ValueError(
                f"solver='gradient' minimises objective='trace', got objective={self.objective!r}. "
                "Use solver='closed_form'."
            )
        if not (_is_rule(self.n_components) or _is_count(self.n_components)):
            raise ValueError(
                f"n_components is {self.n_components!r}; expected 'auto', 'held-out' or an "
                "integer from 1 to n_features."
            )
        if not _is_weight(self.shrinkage):
            raise ValueError(
                f"shrinkage is {self.shrinkage!r}; expected a finite number, at least 0."
            )
        if not (_is_rule(self.consistency_weight) or _is_weight(self.consistency_weight)):
            raise ValueError(
                f"consistency_weight is {self.consistency_weight!r}; expected 'auto', 'held-out' "
                "or a finite number, at least 0."
            )


def _ratio(changed: float, expressed: float) -> float:
    return float(changed / expressed) if expressed > 0 else 0.0


def _rounding(moments: PairMoments) -> float:
    """How far rounding alone can move the held-out objective."""
    double = np.finfo(np.float64).eps * np.trace(moments.C)
    return moments.n_features * (double + moments.rounding)


def write_arrays(
    path: str | PathLike[str], arrays: Mapping[str, NDArray], told: Mapping[str, Any]
) -> None:
    """Write arrays and what is told of them to a safetensors file, whole or not at all.

    Parameters
    ----------
    path : path-like
    arrays : mapping of str to ndarray
    told : mapping of str to JSON value
        With *kind* and *format_version*; kept as JSON in the metadata, with a checksum of
        everything.

    Raises
    ------
    TypeError
        If `told` holds something else than JSON values.
    """
    path, plain = Path(path), {name: np.array(values, order="C") for name, values in arrays.items()}
    try:
        text = json.dumps(dict(told), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"What is told in the file holds something else than JSON values ({error}); expected "
            "texts, finite numbers, truth values, None, lists and mappings of these."
        ) from error
    metadata = f'{{"checksum": "{_checksum(plain, text)}", "told": {text}}}'
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(to_safetensors(plain, {_METADATA: metadata}))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_arrays(
    path: str | PathLike[str], kind: str, format_version: int
) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """Read what :func:`write_arrays` wrote.

    Parameters
    ----------
    path : path-like
    kind : str
        What the file should be.
    format_version : int

    Returns
    -------
    arrays : dict of str to ndarray
    told : dict of str to JSON value

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, is of another kind, or has another format version.
    """
    try:
        with safe_open(path, "numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist; expected a saved {kind}.") from error
    except PermissionError as error:
        raise PermissionError(f"{path} may not be read; expected a saved {kind}.") from error
    except Exception as error:
        raise ValueError(
            f"{path} is {'a folder' if Path(path).is_dir() else 'not a whole safetensors file'} "
            f"({error}); expected a saved {kind}. Give its file, copy it again, or save it again."
        ) from error
    try:
        checked = json.loads(metadata[_METADATA])
        told = checked["told"]
        found = told["kind"], told["format_version"]
        text = json.dumps(told, sort_keys=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say that it is a saved {kind}: it was written by something else. "
            "Give the file that the method save wrote."
        ) from error
    if checked.get("checksum") != _checksum(arrays, text):
        raise ValueError(
            f"{path} is damaged: its checksum does not match its contents. Copy it again, or save "
            "it again."
        )
    if found != (kind, format_version):
        raise ValueError(
            f"{path} is a saved {found[0]} of format version {found[1]}; expected a saved {kind} "
            f"of version {format_version}. Give another file, or save it again."
        )
    return arrays, told


def _checksum(arrays: Mapping[str, NDArray], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _plain(value: Any) -> Any:
    """Give a parameter as a JSON value; a generator has none."""
    if isinstance(value, np.generic):
        return value.item()
    return None if isinstance(value, np.random.Generator) else value


def _with_fixed_signs(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flip rows so that the entry that is largest in absolute value is positive."""
    largest = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)
    return np.where(largest < 0, -rows, rows)


def _warn(message: str, category: type[Warning] = UserWarning) -> None:
    warnings.warn(message, category, stacklevel=2)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, choices))}.")


def _is_rule(value: Any) -> bool:
    return isinstance(value, str) and value in ("auto", "held-out")


def _is_count(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and int(value) >= 1


def _is_weight(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < np.inf
