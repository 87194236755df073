"""Second moments of interventional pairs, streamed.

An interventional pair is the embedding ``f`` of an observation and the embedding
``f_do`` of the same observation after an intervention that re-draws its variant factors
and keeps its invariant ones. The invariant subspace depends on such pairs through two D
x D matrices only,

    C = E[f fᵀ]                          what the embedding expresses,
    S = E[(f - f_do) (f - f_do)ᵀ]        what the intervention changes.

:class:`PairMoments` accumulates them batch by batch in float64, so millions of pairs
need O(D²) memory, and moments of shards add up: ``a.merge(b)`` equals one pass over
both. They are kept for five folds of the pairs, so that each can be held out: what is
left of the others is a difference of sums. :func:`combine` mixes kinds of pairs, such
as image and text interventions, whatever the number of pairs behind each. A
:class:`PairMoments` is saved as plain arrays (``.npz``, never pickled objects) and is
all that :class:`icm_core.projection.InvariantProjection` needs to be fitted.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data

_FORMAT_VERSION = 4
_FOLDS = 5
_SUMS = (
    "sum_outer",
    "sum_difference_outer",
    "sum_original",
    "sum_intervened",
    "sum_between_kinds",
    "sum_rounding",
    "sum_pairs",
)

_BLOCK_ROWS = 4096  # rows cast to float64 at a time, to bound the memory of `update`


class Fold(NamedTuple):
    """Moments of the pairs without those of one fold, and what that fold adds to all.

    Attributes
    ----------
    C, S : ndarray of shape (D, D)
        Second moments of the originals and of the differences of all other pairs.
    C_out, S_out : ndarray of shape (D, D)
        The same of the pairs held out, times their share of all pairs: over the folds
        they sum to the moments of all.
    share : float
        The share that is held out of all pairs.
    """

    C: NDArray[np.float64]
    S: NDArray[np.float64]
    C_out: NDArray[np.float64]
    S_out: NDArray[np.float64]
    share: float


class PairMoments:
    """Streaming first and second moments of interventional pairs.

    Parameters
    ----------
    n_features : int
        Dimension D of the embedding.

    Attributes
    ----------
    n_pairs : int
        Number of pairs seen.
    n_folds : int
        Number of :meth:`folds` that hold pairs: five, or fewer where there are few
        different originals or groups.
    columns : list
        Names of the columns of the first batch that had some: what has them in another order
        is refused.
    C : ndarray of shape (n_features, n_features)
        ``E[f fᵀ]``, uncentred, over the original embeddings only, as in the paper.
    S : ndarray of shape (n_features, n_features)
        ``E[(f - f_do) (f - f_do)ᵀ]``.
    mean, mean_do : ndarray of shape (n_features,)
        ``E[f]`` and ``E[f_do]``.
    covariance : ndarray of shape (n_features, n_features)
        Of the original embeddings, each about the mean of its own kind of pairs, see
        :func:`combine`.
    rounding : float
        Variance of the rounding error of an entry of an embedding, by the precision in
        which the embeddings were given: pass half precision as it is, not cast to a
        higher one.

    Raises
    ------
    ValueError
        If ``n_features`` is not a positive integer; from ``C``, ``S``, ``mean``,
        ``mean_do``, ``covariance`` and ``rounding``, if no pair has been seen.

    Notes
    -----
    C and S are the matrices of the reconstruction and of the consistency term of
    CLIP-ICM, arXiv 2405.15289.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [0.0, 1.0]])
    >>> X_do = np.array([[1.0, 2.0], [0.0, 3.0]])
    >>> moments = PairMoments(2).update(X, X_do)
    >>> moments.S
    array([[0., 0.],
           [0., 4.]])
    """

    def __init__(self, n_features: int) -> None:
        is_integer = isinstance(n_features, (int, np.integer)) and not isinstance(n_features, bool)
        if not is_integer or n_features < 1:
            raise ValueError(
                f"n_features is {n_features!r}; expected a positive integer, the dimension of the "
                "embedding."
            )
        d = int(n_features)
        self.n_features = d
        self.n_pairs = 0
        self._sum_outer = np.zeros((_FOLDS, d, d))
        self._sum_difference_outer = np.zeros((_FOLDS, d, d))
        self._sum_original = np.zeros(d)
        self._sum_intervened = np.zeros(d)
        self._sum_between_kinds = np.zeros((d, d))
        self._sum_rounding = np.zeros(())
        self._sum_pairs = np.zeros(_FOLDS)
        self.columns: list[Any] = []

    def __repr__(self) -> str:
        return f"PairMoments(n_features={self.n_features}, n_pairs={self.n_pairs})"

    def update(self, X: ArrayLike, X_do: ArrayLike, groups: ArrayLike | None = None) -> PairMoments:
        """Add a batch of pairs.

        Parameters
        ----------
        X : array-like or Tensor of shape (n_pairs, n_features)
            Embeddings of the observations.
        X_do : array-like of shape (n_pairs, n_features)
            Row i is the embedding of observation i after the intervention.
        groups : array-like of shape (n_pairs,), optional
            A name or number for each pair: pairs of one group, such as frames of a burst or
            pictures of a patient, are held out together. By default each original is a
            group.

        Returns
        -------
        PairMoments
            This object.

        Raises
        ------
        ValueError
            If an array is not two-dimensional, has no rows, has the wrong number of
            columns or holds NaN or infinity, if the two shapes or the names of their
            columns differ, columns are in another order than in earlier batches, rows have
            labels in another order, or the groups are not one for each pair. The moments are
            then left as they were.
        """
        check_same_columns(X, X_do)
        if self.n_pairs:
            check_order(X, self.columns)
        check_same_rows(X, X_do, "X_do")
        check_same_rows(X, groups, "groups")
        original, intervened = self._validated(X, "X"), self._validated(X_do, "X_do")
        errors = _rounding_error(X, original.dtype), _rounding_error(X_do, intervened.dtype)
        if original.shape != intervened.shape:
            raise ValueError(
                f"X has shape {original.shape} but X_do has shape {intervened.shape}. Pairs must "
                "be aligned: row i of X_do is row i of X after the intervention. Pass two arrays "
                "of the same shape."
            )
        named = None if groups is None else _checked_groups(groups, len(original))
        for start in range(0, len(original), _BLOCK_ROWS):
            block = original[start : start + _BLOCK_ROWS].astype(np.float64, order="C")
            block_do = intervened[start : start + _BLOCK_ROWS].astype(np.float64)
            keys = block if named is None else named[start : start + _BLOCK_ROWS]
            fold_of_row = np.array([crc32(key) % _FOLDS for key in keys])
            for fold in range(_FOLDS):
                rows = block[fold_of_row == fold]
                difference = rows - block_do[fold_of_row == fold]
                self._sum_outer[fold] += rows.T @ rows
                self._sum_difference_outer[fold] += difference.T @ difference
                self._sum_pairs[fold] += len(rows)
            self._sum_original += block.sum(axis=0)
            self._sum_intervened += block_do.sum(axis=0)
            for rows, (relative, absolute) in zip((block, block_do), errors, strict=True):
                squares = (rows**2).sum() / self.n_features
                self._sum_rounding += (relative * squares + absolute * len(rows)) / 2
        self.n_pairs += len(original)
        self.columns = self.columns or column_names(X)
        return self

    def merge(self, other: PairMoments) -> PairMoments:
        """Moments of the pairs of this object and of another one, as of one pass over both.

        Parameters
        ----------
        other : PairMoments
            Moments of other pairs in the same embedding space.

        Returns
        -------
        PairMoments
            A new object; the two that are merged stay as they are.

        Raises
        ------
        TypeError
            If ``other`` is not a :class:`PairMoments`.
        ValueError
            If the dimensions differ, or the same columns are in another order.
        """
        _check_same_space([self, other])
        return _weighted_sum([self, other], [1.0, 1.0])

    @property
    def C(self) -> NDArray[np.float64]:
        """Second moment of the original embeddings, shape (n_features, n_features)."""
        return self._average(self._sum_outer.sum(axis=0))

    @property
    def S(self) -> NDArray[np.float64]:
        """Second moment of the differences, shape (n_features, n_features)."""
        return self._average(self._sum_difference_outer.sum(axis=0))

    @property
    def mean(self) -> NDArray[np.float64]:
        """Mean of the original embeddings, shape (n_features,)."""
        return self._average(self._sum_original)

    @property
    def mean_do(self) -> NDArray[np.float64]:
        """Mean of the intervened embeddings, shape (n_features,)."""
        return self._average(self._sum_intervened)

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Covariance of the originals within their kind of pairs, shape (D, D)."""
        return self.C - np.outer(self.mean, self.mean) - self._average(self._sum_between_kinds)

    @property
    def rounding(self) -> float:
        """Variance of the rounding error of an entry of an embedding."""
        return float(self._average(self._sum_rounding))

    @property
    def n_folds(self) -> int:
        """Number of folds that hold pairs."""
        return int(np.count_nonzero(self._sum_pairs))

    def folds(self) -> list[Fold]:
        """Hold out a fifth of the pairs at a time.

        The content of an original, or its group where there are groups, decides which fold
        its pairs are in. All pairs of the same original or group are therefore held out
        together, and neither the order of the pairs, nor batches, nor shards make a
        difference.

        Returns
        -------
        list of Fold
            Five, or fewer where there are few different originals or groups.

        Raises
        ------
        ValueError
            If all pairs are in the same fold.
        """
        if self.n_folds < 2:
            raise ValueError(
                f"All pairs are in one fold (n_samples={self.n_pairs}); expected pairs of several "
                "different originals, and of several groups where there are groups, to hold some "
                "out. Pass more pairs, or numbers as n_components and consistency_weight."
            )
        C, S, folds = self.C, self.S, []
        for fold in np.flatnonzero(self._sum_pairs):
            C_out, S_out = (
                self._average(total[fold])
                for total in (self._sum_outer, self._sum_difference_outer)
            )
            share = float(self._sum_pairs[fold] / self.n_pairs)
            rest = 1 - share
            folds.append(Fold((C - C_out) / rest, (S - S_out) / rest, C_out, S_out, share))
        return folds

    def save(self, path: str | PathLike[str]) -> None:
        """Write the moments to a ``.npz`` file of plain arrays, whole or not at all.

        Parameters
        ----------
        path : path-like
            Where to write; the name is used as given.
        """
        named: dict[str, Any] = dict(self.sums())
        if all(isinstance(name, (str, int)) for name in self.columns):  # as JSON keeps them
            named["columns"] = np.array(json.dumps(self.columns))
        path = Path(path)
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(aside, "wb") as file:
                np.savez(file, format_version=_FORMAT_VERSION, n_pairs=self.n_pairs, **named)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> PairMoments:
        """Read moments that :meth:`save` wrote.

        Parameters
        ----------
        path : path-like
            The ``.npz`` file.

        Returns
        -------
        PairMoments

        Raises
        ------
        ValueError
            If the file does not hold moments, is damaged, or has another format
            version. Pickled objects are refused.
        """
        advice = f"Write the file again with PairMoments.save (format version {_FORMAT_VERSION})."
        # the file is opened here: np.load leaks its handle when the content is not an archive
        with open(path, "rb") as file:
            try:
                with np.load(file, allow_pickle=False) as archive:
                    arrays = dict(archive)
            except Exception as error:
                raise ValueError(
                    f"{path} is not a readable .npz file of pair moments ({error}). {advice}"
                ) from error
        missing = {"format_version", "n_pairs", *_SUMS} - arrays.keys()
        if missing:
            raise ValueError(f"{path} holds no pair moments: {sorted(missing)} missing. {advice}")
        if arrays["format_version"] != _FORMAT_VERSION:
            raise ValueError(f"{path} has format version {arrays['format_version']}. {advice}")
        moments = cls.from_sums(int(arrays["n_pairs"]), arrays, source=f"{path}")
        moments.columns = json.loads(str(arrays.get("columns", "[]")))
        return moments

    def sums(self) -> dict[str, NDArray[np.float64]]:
        """Give the sums that the moments are the averages of, by name, to be saved."""
        return {name: getattr(self, f"_{name}") for name in _SUMS}

    @classmethod
    def from_sums(
        cls, n_pairs: int, sums: Mapping[str, NDArray[np.float64]], source: str
    ) -> PairMoments:
        """Build moments from what :meth:`sums` gave.

        Parameters
        ----------
        n_pairs : int
        sums : mapping of str to ndarray
        source : str
            Where they come from, for the message.

        Returns
        -------
        PairMoments

        Raises
        ------
        ValueError
            If the shapes do not belong together, or a value is not finite.
        """
        moments = cls(max(np.atleast_1d(sums[_SUMS[0]]).shape[-1], 1))
        for name in _SUMS:
            values, expected = sums[name], getattr(moments, f"_{name}").shape
            if values.shape != expected or not np.isfinite(values).all() or n_pairs < 0:
                raise ValueError(
                    f"{source} is damaged: {name} has shape {values.shape} with n_pairs={n_pairs}; "
                    f"expected finite values of shape {expected}. Compute the moments again."
                )
            setattr(moments, f"_{name}", values.astype(np.float64))
        moments.n_pairs = n_pairs
        return moments

    def _validated(self, array: ArrayLike, name: str) -> NDArray[np.floating]:
        values = np.asarray(as_array(array))
        if values.dtype.kind not in "fiub":
            raise ValueError(
                f"{name} has dtype {values.dtype}; expected real numbers. Pass a numeric array of "
                f"shape (n_pairs, {self.n_features})."
            )
        if values.ndim != 2 or values.shape[1] != self.n_features:
            raise ValueError(
                f"{name} has shape {values.shape}; expected (n_pairs, {self.n_features}): one "
                "embedding a row."
            )
        if len(values) == 0:
            raise ValueError(
                f"{name} has no rows; expected at least one pair. Pass a non-empty batch."
            )
        if not np.isfinite(values).all():
            raise ValueError(
                f"{name} contains NaN or infinity in "
                f"{np.count_nonzero(~np.isfinite(values).all(axis=1))} of {len(values)} rows; "
                "expected finite embeddings. Drop these rows from X and X_do together."
            )
        return values

    def _average(self, total: NDArray[np.float64]) -> NDArray[np.float64]:
        if self.n_pairs == 0:
            raise ValueError(
                "The moments of zero pairs are undefined; expected at least one. Call update(X, "
                "X_do) first."
            )
        return total / self.n_pairs


def combine(moments: Sequence[PairMoments], weights: Sequence[float]) -> PairMoments:
    """Mix several kinds of pairs in given proportions, whatever the number of pairs behind each.

    The result has ``C = Σ w_i C_i`` and ``S = Σ w_i S_i`` with the weights scaled to
    sum to one: the moments of pairs of which a share ``w_i`` is of kind i.
    (:meth:`PairMoments.merge`, in contrast, counts every pair once.) Images and texts
    have different means; the covariance of the result leaves the difference out, since
    it tells kinds of pairs apart and not observations.

    Parameters
    ----------
    moments : sequence of PairMoments
        One for each kind of pair, for example image-based and text-based.
    weights : sequence of float
        One non-negative weight for each; only their ratios matter.

    Returns
    -------
    PairMoments
        New moments; ``n_pairs`` is the total over the kinds with a positive weight.

    Raises
    ------
    TypeError
        If an entry is not a :class:`PairMoments`.
    ValueError
        If there is nothing to combine, the lengths or dimensions differ, the same columns
        are in another order, a weight is negative or not finite, all weights are zero, or an
        entry with a positive weight has no pairs.

    Examples
    --------
    >>> import numpy as np
    >>> few = PairMoments(1).update([[1.0]], [[3.0]])
    >>> many = PairMoments(1).update(np.ones((99, 1)), np.ones((99, 1)))
    >>> combine([few, many], [1, 1]).S
    array([[2.]])
    """
    if len(moments) == 0 or len(moments) != len(weights):
        raise ValueError(
            f"Got {len(moments)} moments and {len(weights)} weights; expected one weight for "
            "each of at least one PairMoments."
        )
    _check_same_space(moments)
    shares = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(shares).all() or (shares < 0).any() or shares.sum() == 0:
        raise ValueError(
            f"weights are {list(weights)}; expected finite, non-negative numbers, at least one "
            "of them positive."
        )
    used = [(item, share) for item, share in zip(moments, shares, strict=True) if share > 0]
    if any(item.n_pairs == 0 for item, _ in used):
        raise ValueError(
            "An entry with a positive weight has zero pairs; expected at least one. Call "
            "update(X, X_do) on it first, or give it weight 0."
        )
    total = sum(item.n_pairs for item, _ in used)
    factors = [total * share / shares.sum() / item.n_pairs for item, share in used]
    result = _weighted_sum([item for item, _ in used], factors)
    for (item, _), factor in zip(used, factors, strict=True):
        apart = item.mean - result.mean
        result._sum_between_kinds += factor * item.n_pairs * np.outer(apart, apart)
    return result


def as_array(X: Any) -> Any:
    """Give a torch tensor as an array, on whatever device it is and with or without gradients.

    Parameters
    ----------
    X : array-like or Tensor

    Returns
    -------
    array-like
        bfloat16 and smaller types, which numpy does not know, become float32. What is no
        tensor comes back as it is.

    Raises
    ------
    ValueError
        If a masked array masks something: numpy would take what is behind the mask.
    """
    if np.ma.is_masked(X):
        raise ValueError(
            f"A masked array hides {np.ma.count_masked(X)} of {X.size} values; expected whole "
            "embeddings. Drop their rows, or pass X.filled(value)."
        )
    if not hasattr(X, "detach"):
        return X
    tensor = X.detach().cpu()
    return (tensor.float() if _is_unknown_to_numpy(tensor) else tensor).numpy()


def check_new(estimator: Any, X: ArrayLike) -> NDArray[np.floating]:
    """Validate embeddings for a fitted estimator, as scikit-learn's ``validate_data`` does.

    That asks every input which of many kinds of frames it is. Of a few thousand
    embeddings this takes as long as to classify them, so an array that it would hand back
    as it is goes without.

    Parameters
    ----------
    estimator : estimator
        With ``n_features_in_``, and where it was fitted on a frame ``feature_names_in_``.
    X : array-like or Tensor of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_features), float32 or float64

    Raises
    ------
    ValueError
        If X has another shape, or holds NaN or infinity.
    """
    given = as_array(X)
    if (
        _is_plain(given)
        and given.shape[1] == estimator.n_features_in_
        and not hasattr(estimator, "feature_names_in_")
    ):
        return given
    return validate_data(estimator, given, dtype=[np.float64, np.float32], reset=False)


def check_labelled(
    estimator: Any, X: ArrayLike, y: ArrayLike
) -> tuple[NDArray[np.floating], NDArray]:
    """Validate what a classifier is fitted on, as :func:`check_new` does.

    Parameters
    ----------
    estimator : estimator
        Gets ``n_features_in_``, and where X is a frame ``feature_names_in_``.
    X : array-like or Tensor of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        A class for each row.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features), float32 or float64
    y : ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If shapes differ, X holds NaN or infinity, or the labels name no classes.
    """
    given, labels = as_array(X), check_labels(y)
    if (
        _is_plain(given)
        and type(labels) is np.ndarray
        and (labels.dtype.kind, labels.shape) == ("i", given.shape[:1])
        and not hasattr(estimator, "feature_names_in_")
    ):
        estimator.n_features_in_ = given.shape[1]
        return given, labels
    given, labels = validate_data(estimator, given, labels, dtype=[np.float64, np.float32])
    check_classification_targets(labels)
    return given, labels


def check_labels(y: ArrayLike) -> Any:
    """Refuse labels of which some are missing, or that are of kinds that have no order.

    Parameters
    ----------
    y : array-like of shape (n_samples,)

    Returns
    -------
    array-like
        As :func:`as_array` gives it.

    Raises
    ------
    ValueError
    """
    labels = as_array(y)
    # of a list numpy would write numbers, and NaN too, as the texts that they stand among
    values = np.asarray(labels, dtype=object if isinstance(labels, (list, tuple)) else None)
    if values.dtype.kind != "O" or not values.shape:
        return labels
    missing = sum(map(_is_missing, values.flat))
    if missing:
        raise ValueError(
            f"y lacks {missing} of {values.size} labels (None or NaN); expected a class for each "
            "row. Drop these rows from X and y together."
        )
    if len({isinstance(value, str) for value in values.flat}) > 1:
        raise ValueError(
            "y has labels that are texts and labels that are not; expected one kind. Write all as "
            "texts, or count all in numbers."
        )
    return labels


def _is_missing(value: Any) -> bool:
    """Tell whether a value is None, NaN, NaT, or pandas' NA, which equals nothing."""
    return value is None or type(value).__name__ == "NAType" or bool(value != value)


def _is_plain(X: Any) -> bool:
    """Say whether scikit-learn's checks would hand embeddings back as they are."""
    return (
        type(X) is np.ndarray
        and X.dtype in (np.float64, np.float32)
        and X.ndim == 2
        and X.size > 0
        and bool(np.isfinite(X).all())
    )


def _checked_groups(groups: ArrayLike, n: int) -> list[bytes]:
    """Write the group of each pair as bytes; numbers and their texts are alike."""
    values = np.asarray(groups, dtype=object)
    if values.shape != (n,):
        raise ValueError(
            f"groups has shape {values.shape}; expected {(n,)}, a name or number for each pair."
        )
    missing = sum(map(_is_missing, values))
    if missing:
        raise ValueError(
            f"groups lacks {missing} of {n} pairs (None or NaN); expected a name or number for "
            "each. Give a pair that belongs to no other a group of its own."
        )
    return [str(value).encode() for value in values]


def _is_unknown_to_numpy(X: Any) -> bool:
    """Tell whether a tensor has a floating-point type that numpy has not."""
    name = str(getattr(X, "dtype", "")).removeprefix("torch.")
    return name.startswith(("bfloat", "float")) and not hasattr(np, name)


def _rounding_error(given: Any, dtype: np.dtype) -> tuple[float, float]:
    """Variance of the rounding error of a number, relative to its square, and at least.

    It is as of ±eps/2, uniform; numbers near zero have the spacing of the smallest one.
    """
    if dtype.kind != "f":
        return 0.0, 0.0
    if _is_unknown_to_numpy(given):
        from torch import finfo  # whose tensor it is

        eps = finfo(given.dtype).eps
    else:
        eps = float(np.finfo(dtype).eps)
    return eps**2 / 12, float(np.finfo(dtype).smallest_subnormal) ** 2 / 12


def check_same_columns(X: Any, X_do: Any) -> None:
    """Refuse two frames whose columns have other names, or the same ones in another order.

    Parameters
    ----------
    X, X_do : array-like
        Embeddings of pairs: frames, or xarray's arrays, whose second dimension may have a
        coordinate. What has no columns with names is not looked at.

    Raises
    ------
    ValueError
        If both have column names of one kind (strings, or numbers), and not the same ones in
        the same order.
    """
    names, names_do = (column_names(part) for part in (X, X_do))
    dims, dims_do = (getattr(part, "dims", ()) for part in (X, X_do))
    if dims and dims_do and dims[::-1] == dims_do != dims:
        raise ValueError(
            f"X has the dimensions {dims} and X_do has {dims_do}; expected the same ones in the "
            f"same order: pass X_do.transpose{dims}."
        )
    if names and names_do and names != names_do:
        if {type(name) for name in names} != {type(name) for name in names_do}:
            return  # one of them has the numbers that pandas gives where there are no names
        what = "in another order" if set(names) == set(names_do) else "with other names"
        raise ValueError(
            f"X_do has the columns of X {what}: X has {_some(names)}, X_do has {_some(names_do)}. "
            "Expected the same ones in the same order: pass X_do[X.columns] if they mean the same "
            "(of xarray's arrays X_do.reindex_like(X)), or X.to_numpy() and X_do.to_numpy()."
        )


def check_order(X: Any, known: Sequence[Any]) -> None:
    """Refuse a frame whose columns are those that were fitted on, in another order.

    scikit-learn looks at names that are texts, of pandas' frames, only.

    Parameters
    ----------
    X : array-like
        Embeddings, as for :func:`check_same_columns`.
    known : sequence
        What :func:`column_names` gave of those that were fitted on; empty if they had no
        names, and their places 0, 1, 2 and so on count.

    Raises
    ------
    ValueError
    """
    names = column_names(X)
    expected = list(known) or list(range(len(names)))
    if names != expected and len(names) == len(expected) and set(names) == set(expected):
        raise ValueError(
            f"X has the columns that were fitted on in another order: {_some(names)}; expected "
            f"{_some(expected)}. Put them in that order, or pass X.to_numpy() if they are in it."
        )


def column_names(X: Any) -> list[Any]:
    """Give the names of the columns of a frame or an xarray array, if it has some.

    Raises
    ------
    ValueError
        If a name is there twice.
    """
    names = list(getattr(X, "column_names", getattr(X, "columns", ())))
    _, *rest = getattr(X, "dims", None) or [None]
    if rest:
        names = [*X.indexes.get(rest[0], [])]
    twice = len(names) - len(set(names))
    if twice:
        first = next(name for name, n in Counter(names).items() if n > 1)
        raise ValueError(
            f"Columns have one name, such as {first!r}, {twice} of {len(names)} more than once; "
            "expected a name for each: rename them, or pass X.to_numpy()."
        )
    return names


def check_same_rows(X: Any, other: Any, name: str) -> None:
    """Refuse what has the labels of the rows of X in another order.

    Parameters
    ----------
    X, other : array-like
        Frames, series, or xarray's arrays, whose rows have labels. What has none, or others, is
        not looked at.
    name : str
        What to call `other` in the message.

    Raises
    ------
    ValueError
    """
    rows, of_other = (_row_names(part) for part in (X, other))
    if rows is None or of_other is None or len(rows) != len(of_other) or rows.equals(of_other):
        return
    if rows.is_unique and of_other.is_unique and rows.isin(of_other).all():
        raise ValueError(
            f"{name} has the labels of the rows of X in another order, first {of_other[0]} and "
            f"{rows[0]}; expected row i of both to belong together. Sort both alike, such as by "
            f"{name}.loc[X.index], or pass both with to_numpy() if they are in order."
        )


def _row_names(X: Any) -> Any:
    """Give the labels of the rows of a frame, a series or an xarray array; None if it has none."""
    dims = getattr(X, "dims", None)
    if dims:
        return X.indexes.get(dims[0])
    index = getattr(X, "index", None)
    return index if hasattr(index, "isin") else None


def _some(names: Sequence[Any]) -> str:
    shown = ", ".join(map(str, names[:4]))
    return f"{shown}, … ({len(names)} in all)" if len(names) > 4 else shown


def _check_same_space(moments: Sequence[PairMoments]) -> None:
    for item in moments:
        if not isinstance(item, PairMoments):
            raise TypeError(f"Got {type(item).__name__}; expected PairMoments.")
    dimensions = sorted({item.n_features for item in moments})
    if len(dimensions) > 1:
        raise ValueError(
            f"The moments have dimensions {dimensions}; expected one. Only pairs from the same "
            "embedding space can be added."
        )
    first, *others = [item.columns for item in moments if item.columns] or [[]]
    for columns in others:
        if columns != first and set(columns) == set(first):
            raise ValueError(
                f"The moments are of the same columns in another order: {_some(first)}, and "
                f"{_some(columns)}. Put the frames in one order, and compute them again."
            )


def _weighted_sum(moments: Sequence[PairMoments], factors: Sequence[float]) -> PairMoments:
    result = PairMoments(moments[0].n_features)
    result.n_pairs = sum(item.n_pairs for item in moments)
    for name in _SUMS:
        terms = (
            factor * getattr(item, f"_{name}")
            for item, factor in zip(moments, factors, strict=True)
        )
        setattr(result, f"_{name}", sum(terms))
    result.columns = next((item.columns for item in moments if item.columns), [])
    return result
