"""The projection: exact, a proper scikit-learn citizen, clear about bad input."""

import doctest
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.linalg
import scipy.stats
import sklearn
import torch
import xarray as xr
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from icm_core import projection as projection_module
from icm_core import spectrum as spectrum_module
from icm_core.moments import PairMoments, combine
from icm_core.prediction import LinearProbe, ZeroShotClassifier
from icm_core.projection import (
    HELD_OUT_MARGIN,
    HELD_OUT_WEIGHTS,
    InvariantProjection,
    auto_consistency_weight,
    auto_n_components,
    subspace_angles,
)
from icm_core.spectrum import generalized_spectrum, rounding_tolerance, trace_spectrum
from icm_core.stiefel import minimize_on_stiefel
from icm_study.theory.linear import LinearGaussianSCM, largest_angle

OBJECTIVES = ("trace", "generalized")
REAL_CLIP = (
    Path(__file__).parents[3] / "shared" / "data" / "real_clip" / "ViT-B-16_openai_coco500.npy"
)
seeds = st.integers(0, 2**32 - 1)


def projection(n_components="auto", *, consistency_weight=1.0, **options):
    """With the paper's λ = 1, and K by the spectrum, where a test does not say otherwise."""
    return InvariantProjection(n_components, consistency_weight=consistency_weight, **options)


def random_pairs(seed, n=200, d=6, scale=1.0):
    """Pairs with nothing special about them: correlated, off-centre, partly changed."""
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(2))
    mixing = U * np.geomspace(2, 0.4, d) @ V
    latent = rng.normal(size=(n, d)) + 0.3
    redrawn = np.where(np.arange(d) < d // 2, latent, rng.normal(size=(n, d)) + 0.3)
    redrawn = redrawn + 0.1 * rng.normal(size=(n, d))
    return scale * latent @ mixing.T, scale * redrawn @ mixing.T


def second_moments(X, X_do):
    return X.T @ X / len(X), (X - X_do).T @ (X - X_do) / len(X)


def distance(A, B):
    """Sine of the largest principal angle between two row spaces."""
    return np.sin(subspace_angles(A.T, B.T).max())


def paper_objective(A, X, X_do, weight):
    """The objective as the paper writes it, from the samples and not from the moments."""
    reconstruction = np.mean(np.sum((X - X @ A.T @ A) ** 2, axis=1))
    return reconstruction + weight * np.mean(np.sum(((X - X_do) @ A.T) ** 2, axis=1))


# --- the mathematics


@settings(max_examples=50, deadline=None)
@given(seed=seeds, weight=st.floats(0, 100), k=st.integers(1, 6))
def test_trace_components_are_the_top_eigenvectors(seed, weight, k):
    X, X_do = random_pairs(seed)
    C, S = second_moments(X, X_do)
    fitted = projection(k, consistency_weight=weight).fit(X, X_do)
    A, M = fitted.components_, C - weight * S
    expected = scipy.linalg.eigvalsh(M)[::-1]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(fitted.eigenvalues_, expected, atol=1e-9 * scale)
    np.testing.assert_allclose(A @ A.T, np.eye(k), atol=1e-10)
    np.testing.assert_allclose(A @ M, expected[:k, None] * A, atol=1e-8 * scale)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, weight=st.floats(0, 20), k=st.integers(1, 5))
def test_no_other_orthonormal_matrix_has_a_lower_objective(seed, weight, k):
    X, X_do = random_pairs(seed)
    A = projection(k, consistency_weight=weight).fit(X, X_do).components_
    rng = np.random.default_rng(seed)
    best = paper_objective(A, X, X_do, weight)
    for spread in (1e-2, 1.0):
        rival = np.linalg.qr((A + spread * rng.normal(size=A.shape)).T)[0].T
        assert best <= paper_objective(rival, X, X_do, weight) * (1 + 1e-12)


@settings(deadline=None)
@given(seed=seeds, k=st.integers(1, 5))
def test_without_consistency_it_is_uncentred_principal_components(seed, k):
    X, X_do = random_pairs(seed)
    A = projection(k, consistency_weight=0).fit(X, X_do).components_
    svd = TruncatedSVD(k, algorithm="arpack", random_state=0).fit(X)
    assert distance(A, svd.components_) < 1e-6


@settings(max_examples=50, deadline=None)
@given(seed=seeds, k=st.integers(1, 6))
def test_generalized_components_solve_the_generalized_eigenproblem(seed, k):
    X, X_do = random_pairs(seed)
    C, S = second_moments(X, X_do)
    fitted = projection(k, objective="generalized", shrinkage=0).fit(X, X_do)
    mu = scipy.linalg.eigh(S, C, eigvals_only=True)
    np.testing.assert_allclose(fitted.eigenvalues_, mu, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(fitted.intervention_share_, mu[:k], rtol=1e-6, atol=1e-9)
    A = fitted.components_
    np.testing.assert_allclose(np.linalg.norm(A, axis=1), 1)
    gram = A @ C @ A.T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-8 * np.trace(C))


@settings(max_examples=50, deadline=None)
@given(seed=seeds, k=st.integers(1, 5))
def test_generalized_subspace_follows_any_invertible_map(seed, k):
    X, X_do = random_pairs(seed)
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))
    B = U * np.geomspace(1, 0.1, 6) @ V  # condition number 10
    plain = projection(k, objective="generalized", shrinkage=1e-9).fit(X, X_do)
    mapped = projection(k, objective="generalized", shrinkage=1e-9).fit(X @ B.T, X_do @ B.T)
    gap = plain.eigenvalues_[k] - plain.eigenvalues_[k - 1]
    np.testing.assert_allclose(mapped.eigenvalues_, plain.eigenvalues_, atol=1e-4)
    assert distance(mapped.components_ @ B, plain.components_) < 1e-4 / gap


@settings(deadline=None)
@given(seed=seeds, scale=st.floats(1e-3, 1e3), objective=st.sampled_from(OBJECTIVES))
def test_the_unit_of_the_embedding_does_not_matter(seed, scale, objective):
    X, X_do = random_pairs(seed)
    plain = projection(3, objective=objective).fit(X, X_do)
    scaled = projection(3, objective=objective).fit(scale * X, scale * X_do)
    np.testing.assert_allclose(
        scaled.intervention_share_, plain.intervention_share_, rtol=1e-4, atol=1e-9
    )


@settings(deadline=None)
@given(seed=seeds, objective=st.sampled_from(OBJECTIVES))
def test_nested_subspaces_one_fit_serves_every_k(seed, objective):
    X, X_do = random_pairs(seed)
    full = projection(6, objective=objective).fit(X, X_do)
    for k in range(1, 7):
        cut, own = full.truncate(k), projection(k, objective=objective).fit(X, X_do)
        np.testing.assert_array_equal(cut.components_, own.components_)
        np.testing.assert_allclose(
            cut.intervention_share_, own.intervention_share_, rtol=1e-9, atol=1e-9
        )
        np.testing.assert_array_equal(cut.transform(X), own.transform(X))
        assert cut.get_params() == own.get_params()
    assert full.n_components_ == 6


@settings(deadline=None)
@given(seed=seeds, objective=st.sampled_from(OBJECTIVES))
def test_signs_are_fixed(seed, objective):
    A = projection(6, objective=objective).fit(*random_pairs(seed)).components_
    assert (A[np.arange(6), np.abs(A).argmax(axis=1)] > 0).all()


@settings(deadline=None)
@given(seed=seeds, objective=st.sampled_from(OBJECTIVES), weight=st.floats(0, 100))
def test_intervention_share_of_an_exchangeable_redraw_is_between_zero_and_two(
    seed, objective, weight
):
    rng = np.random.default_rng(seed)
    mixing, kept, variants = (
        rng.normal(size=(5, 5)),
        rng.normal(size=(7, 2)),
        rng.normal(size=(4, 3)),
    )
    # every kept value with every pair of variant values: f and f_do are exchangeable, exactly
    rows = [(z, v, w) for z in kept for v in variants for w in variants]
    X, X_do = (np.array([np.r_[row[0], row[i]] for row in rows]) @ mixing.T for i in (1, 2))
    fitted = projection(5, objective=objective, consistency_weight=weight).fit(X, X_do)
    assert fitted.intervention_share_.min() >= -1e-6
    assert fitted.intervention_share_.max() <= 2 + 1e-6


def test_share_of_known_directions():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50_000, 3)) * [3, 2, 1]
    X_do = X.copy()
    X_do[:, 1] = 2 * rng.normal(size=50_000)
    fitted = projection(3, consistency_weight=0).fit(X, X_do)
    np.testing.assert_allclose(np.abs(fitted.components_), np.eye(3), atol=0.02)
    np.testing.assert_allclose(fitted.intervention_share_, [0, 2, 0], atol=0.03)


# --- directions in which nothing varies


def low_rank_pairs(n=400, d=10):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(d, 4)))[0]
    latent = rng.normal(size=(n, 4))
    redrawn = np.hstack([latent[:, :2], rng.normal(size=(n, 2))])
    return latent @ basis.T, redrawn @ basis.T, basis


@pytest.mark.parametrize("objective", ["trace", "generalized"])
def test_dead_directions_are_not_invariant_for_free(objective):
    X, X_do, basis = low_rank_pairs()
    fitted = projection(objective=objective, consistency_weight=100).fit(X, X_do)
    assert fitted.n_components_ == 2
    assert distance(fitted.components_, basis[:, :2].T) < 1e-2


def test_generalized_ranks_dead_directions_as_noise():
    X, X_do, _ = low_rank_pairs()
    fitted = projection(10, objective="generalized").fit(X, X_do)
    assert (fitted.eigenvalues_[:2] < 1e-3).all()
    np.testing.assert_allclose(fitted.eigenvalues_[2:], 2, atol=0.3)


def test_share_of_a_direction_with_nothing_in_it_is_undefined():
    X, X_do, _ = low_rank_pairs()
    share = projection(10, consistency_weight=0).fit(X, X_do).intervention_share_
    np.testing.assert_array_equal(np.isnan(share), [False] * 4 + [True] * 6)


def test_generalized_needs_shrinkage_for_a_low_rank_embedding():
    X, X_do, _ = low_rank_pairs()
    with pytest.raises(ValueError, match="C is singular at shrinkage=0"):
        projection(objective="generalized", shrinkage=0).fit(X, X_do)


# --- the rule for K


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=20), st.randoms())
def test_auto_counts_positive_eigenvalues_in_any_order(values, random):
    random.shuffle(values)
    rounding = len(values) * np.finfo(float).eps * max(map(abs, values))
    expected = max(1, sum(value > rounding for value in values))
    assert auto_n_components(values, "trace") == expected


@settings(deadline=None)
@given(
    low=st.lists(st.floats(0, 0.4), min_size=1, max_size=8),
    high=st.lists(st.floats(1.2, 2), min_size=1, max_size=8),
)
def test_auto_finds_the_gap(low, high):
    assert auto_n_components(low + high, "generalized") == len(low)


@pytest.mark.parametrize(
    ("values", "objective", "k"),
    [
        ([1.0], "generalized", 1),
        ([-1.0, -2.0], "trace", 1),
        ([0.0, 0.0], "trace", 1),
        ([2.0, 1e-17], "trace", 1),
    ],
)
def test_auto_at_the_edges(values, objective, k):
    assert auto_n_components(values, objective) == k


@pytest.mark.parametrize("values", [[], [np.nan, 1.0], [np.inf]])
def test_auto_refuses_spectra_without_finite_values(values):
    with pytest.raises(
        ValueError, match=r"eigenvalues are .*; expected at least one, all of them finite"
    ):
        auto_n_components(values, "trace")


def test_auto_refuses_unknown_objectives():
    with pytest.raises(ValueError, match="objective is 'tracé'; expected one of 'trace'"):
        auto_n_components([1.0], "tracé")


def test_auto_says_when_every_component_harms():
    X, X_do = random_pairs(0)
    with pytest.warns(
        UserWarning, match=r"No eigenvalue of C - λS is positive at consistency_weight=1000000\.0"
    ):
        fitted = projection(consistency_weight=1e6).fit(X, X_do)
    assert fitted.n_components_ == 1


def removed_pairs(kind, spread, n=1000, d=64):
    """Pairs of 12 factors: 4 stay, 8 are removed, re-drawn, or re-drawn in every second pair."""
    rng = np.random.default_rng(0)
    mixing = np.linalg.qr(rng.normal(size=(d, 12)))[0]
    z = rng.normal(size=(n, 12))
    z[:, :4] *= spread
    z_do = z.copy()
    rows = slice(None, None, 2 if kind == "half" else 1)
    z_do[rows, 4:] = 0 if kind == "removed" else rng.normal(size=(len(z_do[rows]), 8))
    return z @ mixing.T, z_do @ mixing.T


@pytest.mark.parametrize("spread", [1, 0.1, 0.01])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize(("kind", "k"), [("removed", 4), ("redrawn", 4), ("half", 8)])
def test_rounding_is_no_signal(kind, k, dtype, spread):
    pairs = [part.astype(dtype) for part in removed_pairs(kind, spread)]
    fitted = projection().fit(*pairs)
    assert fitted.n_components_ == fitted.auto_n_components_ == k
    assert projection(64).fit(*pairs).auto_n_components_ == k


@pytest.mark.parametrize("unit", [1e-3, 1e-5])
def test_rounding_of_tiny_numbers_is_no_signal(unit):
    pairs = [(unit * part).astype(np.float16) for part in removed_pairs("removed", 1, n=300, d=128)]
    assert projection().fit(*pairs).n_components_ == 4


@given(seed=seeds, weight=st.floats(0, 50))
def test_the_tolerance_is_above_what_rounding_does(seed, weight):
    X, X_do = random_pairs(seed)
    half, half_do = X.astype(np.float16), X_do.astype(np.float16)
    exact, rounded = (
        second_moments(a.astype(float), b.astype(float)) for a, b in ((X, X_do), (half, half_do))
    )
    error = np.sqrt(PairMoments(6).update(half, half_do).rounding) * (1 + np.sqrt(6 / len(X)))
    directions = np.eye(6)
    tolerance = rounding_tolerance(directions, *rounded, weight, error)
    change = np.diag(exact[0] - rounded[0]) - weight * np.diag(exact[1] - rounded[1])
    assert (np.abs(change) <= tolerance).all()


# --- the rule for λ


def widest_gap(shares):
    """Ends of the widest gap that begins below 1, in degrees; None if another is as wide."""
    ends = [*sorted(min(share, 2.0) for share in shares), 2.0]
    degrees = [2 * np.degrees(np.arcsin(np.sqrt(end) / 2)) for end in ends]
    gaps = {
        (a, b): y - x
        for a, b, x, y in zip(ends, ends[1:], degrees, degrees[1:], strict=False)
        if a < 1
    }
    width = max(gaps.values())
    widest = [ends for ends in gaps if gaps[ends] > width - 1e-6]
    return widest[0] if len(widest) == 1 else None


@settings(max_examples=200)
@given(st.lists(st.floats(1e-6, 5), min_size=1, max_size=12).filter(lambda shares: min(shares) < 1))
def test_auto_weight_is_in_the_widest_gap(shares):
    ends = widest_gap(shares)
    assume(ends is not None)
    width = np.diff([2 * np.degrees(np.arcsin(np.sqrt(end) / 2)) for end in ends])
    assume(abs(width - 22.5) > 1e-6)
    expected = np.sqrt(ends[0] * ends[1]) if width > 22.5 else 1
    assert 1 / auto_consistency_weight(shares) == pytest.approx(expected)


@settings(max_examples=200)
@given(st.lists(st.floats(-1e-12, 1e6), min_size=1, max_size=20), st.randoms())
def test_auto_weight_is_bounded_whatever_the_order(shares, random):
    weight = auto_consistency_weight(shares)
    random.shuffle(shares)
    assert 1 / np.sqrt(2) < weight < 1e8
    assert auto_consistency_weight(shares) == weight


@pytest.mark.parametrize(
    ("shares", "ends"),
    [
        ([0.01, 0.02, 1.5, 2.0], (0.02, 1.5)),
        ([1e-8, 1e-4, 0.02, 1.5], (0.02, 1.5)),  # by logarithms it would be lower
        ([0.01, 0.95, 0.98], (0.01, 0.95)),  # by differences it would be higher
        ([0.1, 1.2, 2.0, 8.0], (0.1, 1.2)),  # more than re-drawn is no gap
        ([0.4, 1.0, 2.0], (0.4, 1.0)),  # nor is what begins at half
        ([0.9, 1.0, 1.9], (1.0, 1.0)),  # nor is what is narrow
        (2 - 2 * np.cos(np.radians(np.arange(4, 90, 22))), (1.0, 1.0)),
        (2 - 2 * np.cos(np.radians([4, 27, 50, 75])), 2 - 2 * np.cos(np.radians([50, 75]))),
        ([0.1, 0.2], (0.2, 2.0)),  # everything is invariant
        ([0.5], (0.5, 2.0)),
        ([1.0, 1.5], (1.0, 1.0)),  # nothing is invariant
        ([3.0], (1.0, 1.0)),
    ],
)
def test_auto_weight_of_known_spectra(shares, ends):
    assert auto_consistency_weight(shares) == pytest.approx(1 / np.sqrt(ends[0] * ends[1]))


@pytest.mark.parametrize("values", [[], [np.nan, 1.0], [np.inf]])
def test_auto_weight_refuses_spectra_without_finite_values(values):
    with pytest.raises(
        ValueError, match=r"shares are .*; expected at least one, all of them finite"
    ):
        auto_consistency_weight(values)


@settings(max_examples=100)
@given(seed=seeds, weight=st.floats(0.05, 50))
def test_positive_eigenvalues_are_as_many_as_shares_below_one_over_the_weight(seed, weight):
    C, S = second_moments(*random_pairs(seed))
    shares, _ = generalized_spectrum(C, S, 0)
    assume(np.abs(shares - 1 / weight).min() > 1e-9)
    eigenvalues, _ = trace_spectrum(C, S, weight)
    count = np.count_nonzero(scipy.linalg.eigh(S, C, eigvals_only=True) < 1 / weight)
    assert np.count_nonzero(eigenvalues > 0) == np.count_nonzero(shares < 1 / weight) == count


@given(seed=seeds, shrinkage=st.floats(0, 0.3), offset=st.floats(-3, 3))
def test_auto_keeps_the_shares_below_the_gap(seed, shrinkage, offset):
    X, X_do = (part + offset for part in random_pairs(seed))
    fitted = projection(consistency_weight="auto", shrinkage=shrinkage).fit(X, X_do)
    C, S = second_moments(X, X_do)
    noise = shrinkage * np.var(X, axis=0).mean() * np.eye(6)
    shares = scipy.linalg.eigh(S + 2 * noise, np.cov(X.T, bias=True) + noise, eigvals_only=True)
    assert fitted.consistency_weight_ == pytest.approx(auto_consistency_weight(shares), rel=1e-6)
    shares = scipy.linalg.eigh(S + 2 * noise, C + noise, eigvals_only=True)  # the mean counts
    assert fitted.n_components_ == np.count_nonzero(shares < 1 / fitted.consistency_weight_)
    given_weight = projection(fitted.n_components_, consistency_weight=fitted.consistency_weight_)
    np.testing.assert_allclose(fitted.components_, given_weight.fit(X, X_do).components_)


@given(seed=seeds)
def test_auto_follows_any_invertible_map(seed):
    X, X_do = random_pairs(seed)
    rng = np.random.default_rng(seed)
    U, V = (np.linalg.qr(rng.normal(size=(6, 6)))[0] for _ in range(2))
    B = U * np.geomspace(1, 0.1, 6) @ V  # condition number 10
    plain, mapped = (
        projection(consistency_weight="auto", shrinkage=1e-9).fit(X @ M, X_do @ M)
        for M in (np.eye(6), B.T)
    )
    assert mapped.n_components_ == plain.n_components_
    assert mapped.consistency_weight_ == pytest.approx(plain.consistency_weight_, rel=1e-4)


def test_a_constant_opens_no_gap():
    rng = np.random.default_rng(0)
    kept = (
        1 - np.array([0.5, 0.55, 0.6, 1.7, 1.8, 2.0]) / 2
    )  # correlation of each factor with itself
    X, new = rng.normal(size=(2, 5000, 6))
    X_do = kept * X + np.sqrt(1 - kept**2) * new
    plain = projection(consistency_weight="auto", shrinkage=1e-9).fit(X, X_do)
    ones = np.ones((5000, 1))
    beside = clone(plain).fit(np.hstack([X, ones]), np.hstack([X_do, ones]))
    assert (plain.n_components_, beside.n_components_) == (
        3,
        4,
    )  # the constant is kept, but not alone
    assert beside.consistency_weight_ == pytest.approx(plain.consistency_weight_, rel=1e-6)


def test_two_kinds_of_pairs_with_other_means_open_no_gap():
    rng = np.random.default_rng(0)
    kept = (
        1 - np.array([0.5, 0.55, 0.6, 1.7, 1.8, 2.0]) / 2
    )  # correlation of each factor with itself
    X, new = rng.normal(size=(2, 5000, 6))
    X_do = kept * X + np.sqrt(1 - kept**2) * new
    apart = 5 * rng.normal(size=6)  # as the texts of CLIP are from its images
    same = PairMoments(6).update(X, X_do)
    mixed = combine([same, PairMoments(6).update(X + apart, X_do + apart)], [1, 1])
    alone, together = (
        projection(3, consistency_weight="auto", shrinkage=1e-9).fit_moments(m)
        for m in (same, mixed)
    )
    assert together.consistency_weight_ == pytest.approx(alone.consistency_weight_, rel=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-3])
def test_dead_directions_do_not_count(size):
    X, X_do, basis = low_rank_pairs()
    rest = scipy.linalg.null_space(basis.T) @ np.random.default_rng(1).normal(size=(6, 2))
    trace_left = size * np.cos(X @ basis[:, :2]) @ rest.T  # the same before and after
    fitted = projection(consistency_weight="auto").fit(X + trace_left, X_do + trace_left)
    assert fitted.n_components_ == 2
    assert distance(fitted.components_, basis[:, :2].T) < 0.02


def recovers(n_features, draw):
    """Whether auto finds the number of invariant factors of a model, whole or mostly dead."""
    rng = np.random.default_rng([n_features, draw])
    n_factors = n_features if draw % 2 else max(3, n_features * 17 // 64)
    n_invariant = int(rng.integers(1, n_factors))
    scm = LinearGaussianSCM(
        n_invariant,
        n_factors - n_invariant,
        n_features=n_features,
        condition_number=rng.choice([1, 10, 100]),
        seed=draw,
    )
    pairs = scm.sample_pairs(
        "source", max(1000, 8 * n_features), rng, leak=rng.choice([0, 0.05, 0.1])
    )
    fitted = projection(consistency_weight="auto").fit(*pairs)
    return fitted.n_components_ == n_invariant


@pytest.mark.slow
def test_auto_recovers_the_number_of_invariant_factors():
    draws = {16: 25, 64: 25, 256: 25, 512: 10}  # of the largest, all are to be right
    found = {d: [recovers(d, draw) for draw in range(n)] for d, n in draws.items()}
    assert {d: np.mean(hits) >= 0.95 for d, hits in found.items()} == dict.fromkeys(found, True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("leak", "degrees"), [(0.0, 1.0), (0.1, 6.0)])
def test_auto_finds_the_invariant_subspace(seed, leak, degrees):
    scm = LinearGaussianSCM(seed=seed)
    pairs = scm.sample_pairs("source", 1000, np.random.default_rng(seed), leak=leak)
    fitted = projection(consistency_weight="auto").fit(*pairs)
    assert fitted.n_components_ == scm.n_invariant
    assert largest_angle(fitted.components_, scm.invariant_subspace_) < degrees


@pytest.mark.parametrize("seed", range(10))
def test_auto_sees_what_only_half_of_the_pairs_redraw(seed):
    rng = np.random.default_rng(seed)
    X, new = rng.normal(size=(2, 2000, 6))
    X_do = X + 0.1 * rng.normal(size=X.shape)  # every intervention leaks
    X_do[:1000, 4], X_do[1000:, 5] = new[:1000, 4], new[1000:, 5]  # and each is blind to a factor
    mixing = np.linalg.qr(rng.normal(size=(6, 6)))[0] * np.geomspace(1, 0.3, 6)
    fitted = projection(consistency_weight="auto").fit(X @ mixing, X_do @ mixing)
    assert fitted.n_components_ == 4


@pytest.mark.parametrize("seed", range(5))
def test_ill_conditioned_mixing_spares_the_number_not_the_directions(seed):
    scm = LinearGaussianSCM(condition_number=100, seed=seed)
    pairs = scm.sample_pairs("source", 1000, np.random.default_rng(seed))
    auto = projection(consistency_weight="auto").fit(*pairs)
    assert auto.n_components_ == scm.n_invariant
    assert largest_angle(auto.components_, scm.invariant_subspace_) > 10
    generalized = projection(auto.n_components_, objective="generalized").fit(*pairs)
    assert largest_angle(generalized.components_, scm.invariant_subspace_) < 3


def test_auto_when_everything_is_invariant():
    X, _ = random_pairs(0)
    X_do = X + 0.01 * np.random.default_rng(1).normal(size=X.shape)
    assert projection(consistency_weight="auto").fit(X, X_do).n_components_ == 6
    one = projection(consistency_weight="auto").fit(X[:, :1], X_do[:, :1])
    assert one.n_components_ == 1


@pytest.mark.parametrize(("d", "constant"), [(1, 0), (6, 0), (6, 10)])
@pytest.mark.filterwarnings("ignore:No eigenvalue of C")
def test_auto_says_when_nothing_is_invariant(d, constant):
    X, X_do = np.random.default_rng(0).normal(size=(2, 500, d)) + constant
    with pytest.warns(UserWarning, match="re-draws half or more of every direction"):
        fitted = projection(consistency_weight="auto").fit(X, X_do)
    assert (fitted.consistency_weight_, fitted.n_components_) == (1, 1)


def test_auto_says_where_shares_spread_evenly():
    rng = np.random.default_rng(0)
    X, new = rng.normal(size=(2, 4000, 12))
    correlation = np.cos(np.radians(np.linspace(5, 85, 12)))
    X_do = correlation * X + np.sqrt(1 - correlation**2) * new
    with pytest.warns(
        UserWarning, match="spread evenly, so no group of directions stands apart: .* is set to 1"
    ):
        fitted = projection(consistency_weight="auto").fit(X, X_do)
    assert fitted.consistency_weight_ == 1
    assert fitted.n_components_ == np.count_nonzero(correlation > 0.5)


@pytest.mark.parametrize("rows", [1, 3])
def test_auto_needs_embeddings_that_differ(rows):
    X = np.tile([1.0, 2.0], (rows, 1))
    with pytest.raises(ValueError, match=rf"needs at least two that differ \(n_samples={rows}\)"):
        projection(consistency_weight="auto").fit(X, -X)


def test_auto_weight_by_every_way_to_fit():
    X, X_do = random_pairs(0)
    auto = projection(consistency_weight="auto")
    whole, parts = clone(auto).fit(X, X_do), clone(auto)
    for start in range(0, len(X), 37):
        parts.partial_fit(X[start : start + 37], X_do[start : start + 37])
    given_moments = clone(auto).fit_moments(PairMoments(6).update(X, X_do))
    for other in (parts, given_moments, pickle.loads(pickle.dumps(whole)), whole.truncate(3)):
        np.testing.assert_allclose(other.components_, whole.components_, atol=1e-9)
        assert other.consistency_weight_ == pytest.approx(whole.consistency_weight_)
        assert other.get_params()["consistency_weight"] == "auto"
    assert whole.n_components_ == 3
    assert clone(whole).get_params() == auto.get_params()
    cut = whole.truncate(2)
    own = clone(auto).set_params(n_components=2).fit(X, X_do)
    np.testing.assert_array_equal(cut.components_, own.components_)
    assert cut.consistency_weight_ == own.consistency_weight_


def test_auto_weight_serves_the_gradient_solver():
    X, X_do = random_pairs(3)
    exact = projection(consistency_weight="auto").fit(X, X_do)
    descent = projection(consistency_weight="auto", solver="gradient", random_state=0).fit(X, X_do)
    assert descent.consistency_weight_ == exact.consistency_weight_
    assert distance(exact.components_, descent.components_) < 1e-3


def test_the_weight_that_was_used_is_kept():
    X, X_do = random_pairs(0)
    assert projection(consistency_weight=3).fit(X, X_do).consistency_weight_ == 3
    none = projection(objective="generalized", consistency_weight="auto").fit(X, X_do)
    assert np.isnan(none.consistency_weight_)


# --- pairs held out


HELD_OUT = {"n_components": "held-out", "consistency_weight": "held-out"}


def wide_pairs(n, *, leak=0.0, heavy=False, mean=0.0, seed=0, d=128, invariant=5, variant=30):
    """Pairs of few factors in many dimensions, with noise in all; every seed has the same model."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(d, invariant + variant)) / np.sqrt(d)
    offset = mean * rng.normal(size=d)
    rng = np.random.default_rng(seed + 1)

    def draw(size):
        return rng.standard_t(3, size) / np.sqrt(3) if heavy else rng.normal(size=(n, size[1]))

    kept = draw((n, invariant))
    moved = np.sqrt(1 - leak**2) * kept + leak * draw((n, invariant))
    return tuple(
        np.hstack([z, draw((n, variant))]) @ mixing.T + 0.02 * rng.normal(size=(n, d)) + offset
        for z in (kept, moved)
    )


def redrawn_share(components, X, X_do):
    return np.sum(((X - X_do) @ components.T) ** 2) / np.sum((X @ components.T) ** 2)


@pytest.mark.parametrize("n", [60, 100, 300, 2000])
@pytest.mark.parametrize("model", [{}, {"leak": 0.1}, {"leak": 0.3}, {"heavy": True}])
def test_few_pairs_are_enough_for_the_number_of_invariant_factors(n, model):
    fitted = projection(**HELD_OUT).fit(*wide_pairs(n, **model))
    new = redrawn_share(fitted.components_, *wide_pairs(3000, seed=1, **model))
    assert fitted.n_components_ == 5 or (n == 60 and 4 <= fitted.n_components_ <= 6)
    assert new < 0.15 + 3 * model.get("leak", 0) ** 2
    assert fitted.held_out_share_.shape == (fitted.n_components_,)
    assert fitted.held_out_share_[-1] == pytest.approx(new, abs=0.1)


def test_a_constant_is_kept_beside_the_invariant_factors():
    fitted = projection(**HELD_OUT).fit(*wide_pairs(300, mean=1.0))
    assert fitted.n_components_ == 6


@settings(max_examples=25, deadline=None)
@given(
    seed=seeds,
    k=st.sampled_from(["held-out", 1, 3, 6]),
    weight=st.sampled_from(["held-out", "auto", 0.0, 0.5, 2.0]),
    objective=st.sampled_from(["trace", "generalized"]),
)
@pytest.mark.filterwarnings("ignore:On pairs held out")
def test_the_choice_is_the_best_on_rows_held_out(seed, k, weight, objective):
    X, X_do = random_pairs(seed, n=40)
    given_ = {"objective": objective, "consistency_weight": weight}
    fitted = projection(k, **given_).fit(X, X_do)
    fold = np.array(
        [
            np.argmax(PairMoments(6).update(x, y)._sum_pairs)
            for x, y in zip(X[:, None], X_do[:, None], strict=True)
        ]
    )
    chosen = weight == "held-out" or objective == "generalized"
    redrawn = HELD_OUT_MARGIN * (1.0 if chosen else fitted.consistency_weight_)

    def scores(weight, size):
        by_fold = []
        for held_out in set(fold):
            seen, new = fold != held_out, fold == held_out
            A = projection(size, objective=objective, consistency_weight=weight)
            basis = scipy.linalg.orth(A.fit(X[seen], X_do[seen]).components_.T)
            kept, moved = (np.sum((part[new] @ basis) ** 2) for part in (X, X - X_do))
            by_fold.append(kept - redrawn * moved)
        return np.array(by_fold)

    weights = (
        HELD_OUT_WEIGHTS
        if weight == "held-out"
        else [np.nan_to_num(fitted.consistency_weight_, nan=1.0)]
    )
    sizes = range(1, 7) if k == "held-out" else [k]
    table = {w: [scores(w, size) for size in sizes] for w in weights}
    best = {w: max(by_fold.sum() for by_fold in table[w]) for w in weights}
    used = np.nan_to_num(fitted.consistency_weight_, nan=1.0)
    assert best[used] == pytest.approx(max(best.values()), rel=1e-9, abs=1e-9)

    def beats(larger, smaller):
        gains = larger - smaller
        return scipy.stats.ttest_1samp(gains, 0).statistic > 1 + 1e-6 and gains.sum() > 1e-9

    unbeaten = [
        size
        for size, own in zip(sizes, table[used], strict=True)
        if not any(beats(larger, own) for larger in table[used][size:])
    ]
    assert fitted.n_components_ == (min(unbeaten) if k == "held-out" else k)


@pytest.mark.parametrize("n", [100, 300, 1000])
@pytest.mark.parametrize("spread", [1, 0.1])
@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_factors_that_an_intervention_empties_are_not_kept(n, spread, dtype):
    pairs = [part.astype(dtype) for part in removed_pairs("removed", spread, n=n)]
    new = [part.astype(float) for part in removed_pairs("removed", spread, n=2000)]
    for given_ in ({}, {"objective": "generalized"}):
        fitted = InvariantProjection(**given_).fit(*pairs)
        assert fitted.n_components_ == 4
        assert redrawn_share(fitted.components_, *new) < 0.1


def faint_pairs(n, kind, seed=0):
    """Pairs of 8 factors that stay, of spread 1 to 0.1, and 30 that do not, and noise, in 128."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(128, 38)) / np.sqrt(128)
    rng = np.random.default_rng(seed + 1)
    kept = rng.normal(size=(n, 8)) * np.geomspace(1, 0.1, 8)
    before, after = rng.normal(size=(2, n, 30))
    if kind == "removed":
        after = 0 * after
    elif kind == "half":
        after[::2] = before[::2]
    return tuple(
        np.hstack([kept, part]) @ mixing.T + 0.02 * rng.normal(size=(n, 128))
        for part in (before, after)
    )


@pytest.mark.parametrize("n", [100, 300])
@pytest.mark.parametrize("kind", ["redrawn", "removed"])
def test_faint_factors_that_stay_are_kept(n, kind):
    fitted = InvariantProjection().fit(*faint_pairs(n, kind))
    assert fitted.n_components_ == 8
    assert redrawn_share(fitted.components_, *faint_pairs(2000, kind, seed=1)) < 0.15


def test_factors_that_half_of_the_pairs_redraw_are_not_kept():
    assert InvariantProjection().fit(*faint_pairs(1000, "half")).n_components_ == 8
    assert InvariantProjection().fit(*removed_pairs("half", 1)).n_components_ == 4


def test_a_given_weight_keeps_no_emptied_factors():
    fitted = projection("held-out").fit(*removed_pairs("removed", 1))
    assert fitted.n_components_ == 4


@pytest.mark.parametrize(
    "parameters", [HELD_OUT, {"n_components": "held-out", "objective": "generalized"}]
)
def test_held_out_by_every_way_to_fit(parameters, tmp_path):
    X, X_do = random_pairs(0)
    chosen = projection(**parameters)
    whole, parts = clone(chosen).fit(X, X_do), clone(chosen)
    for start in range(0, len(X), 37):
        parts.partial_fit(X[start : start + 37], X_do[start : start + 37])
    shuffled = np.random.default_rng(0).permutation(len(X))
    first, rest = (PairMoments(6).update(X[rows], X_do[rows]) for rows in np.split(shuffled, [90]))
    rest.merge(first).save(tmp_path / "moments.npz")
    merged = clone(chosen).fit_moments(PairMoments.load(tmp_path / "moments.npz"))
    for other in (
        parts,
        merged,
        pickle.loads(pickle.dumps(whole)),
        whole.truncate(whole.n_components_),
    ):
        np.testing.assert_allclose(other.components_, whole.components_, atol=1e-9)
        np.testing.assert_allclose(other.held_out_share_, whole.held_out_share_, atol=1e-9)
        np.testing.assert_equal(other.consistency_weight_, whole.consistency_weight_)


def test_held_out_serves_the_gradient_solver():
    X, X_do = random_pairs(3)
    exact = projection(**HELD_OUT).fit(X, X_do)
    descent = projection(**HELD_OUT, solver="gradient", random_state=0).fit(X, X_do)
    assert descent.n_components_ == exact.n_components_
    assert distance(exact.components_, descent.components_) < 1e-3


def test_repeated_originals_are_held_out_together():
    X, X_do = wide_pairs(60)
    once = projection(**HELD_OUT).fit(X, X_do)
    often = projection(**HELD_OUT).fit(np.tile(X, (7, 1)), np.tile(X_do, (7, 1)))
    assert often.n_components_ == once.n_components_
    np.testing.assert_allclose(often.held_out_share_, once.held_out_share_, atol=1e-9)


@pytest.mark.parametrize("n_bursts", [60, 100])
def test_frames_of_a_burst_are_held_out_together(n_bursts):
    """Frames alike in all but noise make many pairs of few: new bursts say what they are worth."""
    X, X_do = (np.repeat(part, 8, axis=0) for part in wide_pairs(n_bursts))
    X, X_do = (part + 0.02 * np.random.default_rng(7).normal(size=X.shape) for part in (X, X_do))
    burst, new = np.repeat(np.arange(n_bursts), 8), wide_pairs(2000, seed=1)
    fitted = InvariantProjection().fit(X, X_do, groups=burst)
    assert fitted.n_components_ == 5
    share = redrawn_share(fitted.components_, *new)
    assert share < 0.05
    assert fitted.held_out_share_[-1] == pytest.approx(share, abs=0.05)
    blind = InvariantProjection().fit(X, X_do)
    assert redrawn_share(blind.components_, *new) > 0.3
    half = len(X) // 2
    parts = InvariantProjection().partial_fit(X[:half], X_do[:half], groups=burst[:half])
    parts.partial_fit(X[half:], X_do[half:], groups=burst[half:])
    np.testing.assert_allclose(parts.components_, fitted.components_, atol=1e-9)


@pytest.mark.parametrize("objective", ["trace", "generalized"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_dead_directions_do_no_better_on_pairs_held_out(objective, dtype):
    pairs = [part.astype(dtype) for part in low_rank_pairs()[:2]]
    weight = {"consistency_weight": "held-out"} if objective == "trace" else {}
    fitted = projection("held-out", objective=objective, **weight).fit(*pairs)
    assert fitted.n_components_ == 2


def test_too_few_pairs_are_reported():
    X, X_do = wide_pairs(25)
    with pytest.warns(
        UserWarning, match="Either 25 pairs are too few to tell what is invariant, or nothing is"
    ):
        projection("held-out").fit(X, X_do)
    with pytest.warns(
        UserWarning, match="'auto' keeps 25 components of 25 pairs: .* n_components='held-out'"
    ):
        projection().fit(X, X_do)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        projection(**HELD_OUT).fit(*wide_pairs(300))
        projection().fit(*random_pairs(0))


@pytest.mark.parametrize("pairs_a_dimension", [1, 3])
@pytest.mark.parametrize(
    "draw", [wide_pairs, lambda n: wide_pairs(n, heavy=True), lambda n: faint_pairs(n, "redrawn")]
)
def test_auto_says_where_pairs_cannot_tell_what_is_kept(draw, pairs_a_dimension):
    with pytest.warns(UserWarning, match="new pairs change them.* or n_components='held-out'"):
        projection().fit(*draw(128 * pairs_a_dimension))


@pytest.mark.parametrize("draw", [wide_pairs, lambda n: faint_pairs(n, "redrawn"), random_pairs])
def test_auto_is_silent_where_pairs_tell(draw):
    many = random_pairs(0, n=40) if draw is random_pairs else draw(128 * 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = projection().fit(*many)
    assert fitted.n_components_ == {wide_pairs: 5, random_pairs: 3}.get(draw, 8)


def test_auto_needs_no_second_original():
    X = np.tile([[1.0, 2.0]], (4, 1))
    assert projection().fit(X, X + np.eye(4, 2) / 10).n_components_ == 1


@pytest.mark.parametrize("mean", [0.0, 1.0, 30.0])
def test_nothing_invariant_is_reported_also_beside_a_mean(mean):
    X, X_do = np.random.default_rng(0).normal(size=(2, 1000, 6)) + mean
    with pytest.warns(
        UserWarning, match="are worse than none.*or nothing is. .* leave the embedding as it is"
    ):
        assert projection(**HELD_OUT).fit(X, X_do).n_components_ == 1
    said = "keeps 1 components of 1000 pairs, and they express the mean of the embeddings"
    with pytest.warns(UserWarning, match=said if mean else "No eigenvalue of C") as seen:
        assert projection("auto").fit(X, X_do).n_components_ == 1
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("n", "model"), [(120, {}), (100, {"heavy": True}), (120, {"mean": 1.0}), (120, {"leak": 0.1})]
)
def test_a_weight_that_needs_more_pairs_is_reported(n, model):
    model = model | {"variant": 40}
    with pytest.warns(UserWarning, match=r"a share of .* and consistency_weight=1.0 keep") as seen:
        few = projection("held-out").fit(*wide_pairs(n, **model))
    told, fitted = map(float, re.findall(r"share of (\S+) .* of (\S+) on", str(seen[0].message))[0])
    X, X_do = wide_pairs(3000, seed=1, **model)
    new = redrawn_share(few.components_, X - X.mean(axis=0), X_do - X.mean(axis=0))
    assert told == pytest.approx(new, abs=0.15)
    assert fitted < new / 1.8  # of the pairs that were fitted on it is no measure
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        projection("held-out").fit(*wide_pairs(2000, **model))
        projection(**HELD_OUT).fit(*wide_pairs(n, **model))


def test_pairs_that_leak_and_say_so_are_enough():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = projection("held-out").fit(*wide_pairs(3000, leak=0.7))
    assert fitted.held_out_share_[-1] > 0.5


@pytest.mark.parametrize(
    "parameters", [HELD_OUT, {"n_components": "held-out"}, {"consistency_weight": "held-out"}]
)
def test_one_original_cannot_be_held_out(parameters):
    X = np.tile([1.0, 2.0], (3, 1))
    with pytest.raises(
        ValueError,
        match=r"All pairs are in one fold \(n_samples=3\); expected .* different originals",
    ):
        projection(**parameters).fit(X, X + np.eye(3, 2))


@pytest.mark.skipif(not REAL_CLIP.exists(), reason="needs the real embeddings beside the checkout")
def test_held_out_on_real_embeddings():
    images, captions = np.load(REAL_CLIP)
    fitted = projection(**HELD_OUT).fit(images[:400], captions[:400])
    plain = redrawn_share(np.eye(512), images[400:], captions[400:])
    counted = projection().fit(images[:400], captions[:400])
    assert fitted.n_components_ < counted.n_components_ / 4
    new = redrawn_share(fitted.components_, images[400:], captions[400:])
    assert new == pytest.approx(fitted.held_out_share_[-1], abs=0.05)
    assert new < plain / 4


def test_held_out_is_the_default():
    X, X_do = wide_pairs(100)
    fitted, chosen = (
        InvariantProjection().fit(X, X_do),
        InvariantProjection(**HELD_OUT).fit(X, X_do),
    )
    np.testing.assert_array_equal(fitted.components_, chosen.components_)


# --- gradient solver


@pytest.mark.parametrize("weight", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("k", [1, 3, 6])
def test_gradient_agrees_with_the_closed_form(k, weight):
    X, X_do = random_pairs(3)
    exact = projection(k, consistency_weight=weight).fit(X, X_do)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        descent = projection(k, consistency_weight=weight, solver="gradient", random_state=0)
        descent.fit(X, X_do)
    assert distance(exact.components_, descent.components_) < 1e-3
    np.testing.assert_allclose(descent.components_ @ descent.components_.T, np.eye(k), atol=1e-10)
    np.testing.assert_allclose(descent.intervention_share_, exact.intervention_share_, atol=1e-3)
    path = descent.objective_path_
    assert len(path) == descent.n_iter_ + 1
    assert path[-1] <= path[0]
    expected = paper_objective(exact.components_, X, X_do, weight)
    assert path[-1] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_gradient_is_reproducible_from_its_seed():
    X, X_do = random_pairs(1)
    paths = [
        projection(2, solver="gradient", random_state=seed).fit(X, X_do).objective_path_
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(paths[0], paths[1])
    assert paths[0][0] != paths[2][0]


def test_gradient_warns_when_it_stops_early(monkeypatch):
    monkeypatch.setattr(projection_module, "_MAX_STEPS", 1)
    with pytest.warns(
        ConvergenceWarning, match=r"did not converge in 1 steps, .* Use solver='closed_form'"
    ):
        fitted = projection(2, solver="gradient", random_state=0).fit(*random_pairs(1))
    assert fitted.n_iter_ == 1


def test_gradient_refuses_other_objectives():
    with pytest.raises(ValueError, match="solver='gradient' minimises objective='trace', got"):
        projection(objective="generalized", solver="gradient").fit(*random_pairs(0))


def test_descent_stays_on_the_manifold_and_reports_a_floor_it_cannot_pass():
    M = np.diag([3.0, 2.0, 1.0])
    start = np.random.default_rng(0).normal(size=(2, 3))

    def objective(A):
        return -(A @ A.new_tensor(M) @ A.T).trace()

    result = minimize_on_stiefel(objective, start, gradient_tolerance=0.0, max_steps=1_000)
    assert not result.converged  # a tolerance of zero is below rounding
    np.testing.assert_allclose(result.point @ result.point.T, np.eye(2), atol=1e-12)
    assert result.objective_path[-1] == pytest.approx(-5.0)
    assert np.abs(result.point[:, 2]).max() < 1e-6


# --- ways to fit


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fit_partial_fit_and_moments_agree(objective):
    X, X_do = random_pairs(0)
    whole = projection(objective=objective).fit(X, X_do)
    parts = projection(objective=objective)
    for start in range(0, len(X), 37):
        parts.partial_fit(X[start : start + 37], X_do[start : start + 37])
    moments = PairMoments(6).update(X, X_do)
    given_moments = projection(objective=objective).fit_moments(moments)
    for other in (parts, given_moments):
        np.testing.assert_allclose(other.components_, whole.components_, atol=1e-9)
        assert other.n_features_in_ == 6
        assert other.moments_.n_pairs == 200


def test_partial_fit_leaves_the_moments_that_were_given():
    X, X_do = random_pairs(0)
    moments = PairMoments(6).update(X, X_do)
    fitted = projection().fit_moments(moments).partial_fit(X, X_do)
    assert (moments.n_pairs, fitted.moments_.n_pairs) == (200, 400)


def test_fit_forgets_earlier_pairs():
    first, second = random_pairs(0), random_pairs(1, d=4)
    refitted = projection().fit(*first).fit(*second)
    np.testing.assert_array_equal(refitted.components_, projection().fit(*second).components_)


def test_truncated_copy_is_independent():
    X, X_do = random_pairs(0)
    full = projection(4).fit(X, X_do)
    cut = full.truncate(2).set_output(transform="pandas")
    cut.components_[:] = 0
    assert isinstance(full.transform(X), np.ndarray)
    assert np.abs(full.components_[:2]).max() > 0


# --- scikit-learn


class PairedWithItself(InvariantProjection):
    """Make pairs of any X, so that scikit-learn's checks, which know labels only, can fit."""

    def fit(self, X, y=None):
        return super().fit(X, X)

    def partial_fit(self, X, y=None):
        return super().partial_fit(X, X)

    def fit_transform(self, X, y=None):
        return self.fit(X).transform(X)


@pytest.mark.filterwarnings("ignore:X_do equals X")
@parametrize_with_checks(
    [
        PairedWithItself("auto", consistency_weight=1.0),
        PairedWithItself("auto", consistency_weight="auto"),
        PairedWithItself(),
        PairedWithItself(objective="generalized"),
        PairedWithItself(1, solver="gradient"),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


NEEDS_PAIRS = "the check calls fit(X, y) with labels; this estimator needs pairs and says so"
CHECKS_THAT_FIT_LABELS = (
    "check_dict_unchanged",
    "check_dont_overwrite_parameters",
    "check_dtype_object",
    "check_estimators_dtypes",
    "check_estimators_fit_returns_self",
    "check_estimators_overwrite_params",
    "check_estimators_partial_fit_n_features",
    "check_estimators_pickle",
    "check_f_contiguous_array_estimator",
    "check_fit2d_1feature",
    "check_fit2d_1sample",
    "check_fit2d_predict1d",
    "check_fit_check_is_fitted",
    "check_fit_idempotent",
    "check_fit_score_takes_y",
    "check_methods_sample_order_invariance",
    "check_methods_subset_invariance",
    "check_n_features_in",
    "check_n_features_in_after_fitting",
    "check_pipeline_consistency",
    "check_positive_only_tag_during_fit",
    "check_readonly_memmap_input",
    "check_transformer_data_not_an_array",
    "check_transformer_general",
    "check_transformer_preserve_dtypes",
    "check_estimators_nan_inf",
)


@parametrize_with_checks(
    [InvariantProjection()],
    expected_failed_checks=lambda _: dict.fromkeys(CHECKS_THAT_FIT_LABELS, NEEDS_PAIRS),
)
def test_scikit_learn_contract_without_pairs(estimator, check):
    check(estimator)


def labelled_pairs(n=300):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    signal = (2 * y - 1)[:, None] + 0.3 * rng.normal(size=(n, 1))
    shortcut = (2 * y - 1)[:, None] * 3 + 0.1 * rng.normal(size=(n, 1))
    reversed_ = -shortcut
    redrawn = 3 * rng.choice([-1, 1], size=(n, 1))
    return (
        np.hstack([signal, shortcut]),
        np.hstack([signal, redrawn]),
        np.hstack([signal, reversed_]),
        y,
    )


def test_a_frozen_projection_makes_a_pipeline_invariant():
    X, X_do, X_target, y = labelled_pairs()
    frozen = FrozenEstimator(projection(1, consistency_weight=10).fit(X, X_do))
    pipeline = clone(make_pipeline(frozen, LogisticRegression())).fit(X, y)
    assert pipeline.score(X_target, y) > 0.95
    assert LogisticRegression().fit(X, y).score(X_target, y) < 0.05


def test_labels_instead_of_pairs_tell_the_way_out():
    X, _, _, y = labelled_pairs()
    message = r"got X_do of shape \(300,\), like labels, .*FrozenEstimator\(projection\)"
    with pytest.raises(ValueError, match=message):
        make_pipeline(projection(), LogisticRegression()).fit(X, y)
    with pytest.raises(ValueError, match=message):
        projection().fit(X, np.array(["bear", "cat"] * 150))


def test_grid_search_over_pairs_routed_as_metadata():
    X, X_do, X_target, y = labelled_pairs()
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = projection(1).set_fit_request(X_do=True)
        search = GridSearchCV(
            make_pipeline(estimator, LogisticRegression()),
            {"invariantprojection__consistency_weight": [0.0, 10.0]},
        ).fit(X, y, X_do=X_do)
    assert (
        search.cv_results_["mean_test_score"].min() > 0.9
    )  # the shortcut holds in X: both look good here
    best = search.best_estimator_.set_params(invariantprojection__consistency_weight=10.0)
    with sklearn.config_context(enable_metadata_routing=True):
        assert best.fit(X, y, X_do=X_do).score(X_target, y) > 0.95


def test_clone_forgets_the_fit_and_keeps_the_parameters():
    fitted = projection(3, objective="generalized", shrinkage=0.1).fit(*random_pairs(0))
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.transform(random_pairs(0)[0])
    with pytest.raises(NotFittedError):
        copy.truncate(1)


def test_frames_go_in_and_come_out():
    X, X_do = random_pairs(0)
    names = [f"dim{i}" for i in range(6)]
    frame, frame_do = pd.DataFrame(X, columns=names), pd.DataFrame(X_do, columns=names)
    fitted = projection(2).set_output(transform="pandas").fit(frame, frame_do)
    out = fitted.transform(frame)
    assert list(out.columns) == ["invariantprojection0", "invariantprojection1"]
    assert list(fitted.get_feature_names_out()) == list(out.columns)
    assert list(fitted.feature_names_in_) == names
    np.testing.assert_allclose(out, X @ fitted.components_.T)
    fitted.fit_moments(PairMoments(6).update(X, X_do))
    assert not hasattr(fitted, "feature_names_in_")


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (
            list("fedcba"),
            "in another order: X has a, b, c, d, .* X_do has f, e, d, c, .* X_do.X.columns.",
        ),
        (list("abcdeg"), r"with other names: .* X_do has a, b, c, d, … \(6 in all\)"),
    ],
)
def test_pairs_whose_columns_differ_are_refused(order, message):
    X, X_do = random_pairs(0)
    frame, frame_do = pd.DataFrame(X, columns=list("abcdef")), pd.DataFrame(X_do, columns=order)
    for fit in (
        projection().fit,
        projection().partial_fit,
        PairMoments(6).update,
    ):
        with pytest.raises(ValueError, match=message):
            fit(frame, frame_do)
    alike = projection().fit(frame, frame_do.set_axis(frame.columns, axis=1))
    for unnamed in (X_do, pd.DataFrame(X_do), pd.DataFrame(X_do, columns=range(6, 12))):
        np.testing.assert_array_equal(
            projection().fit(frame, unnamed).components_, alike.components_
        )


@pytest.mark.parametrize("kind", ["numbers", "numbers from 6", "xarray", "xarray of texts"])
def test_pairs_whose_columns_have_other_numbers_or_coordinates_are_refused(kind):
    X, X_do = random_pairs(0)
    names = list("abcdef") if kind == "xarray of texts" else list(range(6))
    other = [n + 6 for n in names] if kind == "numbers from 6" else names[::-1]

    def labelled(values, columns):
        if kind.startswith("xarray"):
            return xr.DataArray(values, dims=("row", "feature"), coords={"feature": columns})
        return pd.DataFrame(values, columns=columns)

    what = "with other names" if kind == "numbers from 6" else "in another order"
    for fit in (projection().fit, projection().partial_fit, PairMoments(6).update):
        with pytest.raises(ValueError, match=f"X_do has the columns of X {what}: X has "):
            fit(labelled(X, names), labelled(X_do, other))
    alike = projection().fit(labelled(X, names), labelled(X_do, names))
    np.testing.assert_array_equal(alike.components_, projection().fit(X, X_do).components_)
    unnamed = projection().fit(labelled(X, names), X_do)
    np.testing.assert_array_equal(unnamed.components_, alike.components_)


@pytest.mark.parametrize("given_to_fit", [True, False])
@pytest.mark.parametrize("kind", ["numbers", "numbers from 6", "xarray", "xarray of texts"])
def test_columns_in_another_order_than_those_of_the_fit_are_refused(kind, given_to_fit, tmp_path):
    X, X_do = random_pairs(0)
    start = 6 if kind == "numbers from 6" and given_to_fit else 0
    names = list("abcdef") if kind == "xarray of texts" else [n + start for n in range(6)]
    if kind == "xarray of texts" and not given_to_fit:
        return  # texts say no place

    def labelled(values, order):
        columns = [names[place] for place in order]
        if kind.startswith("xarray"):
            return xr.DataArray(values, dims=("row", "feature"), coords={"feature": columns})
        return pd.DataFrame(values, columns=columns)

    order, reverse = list(range(6)), list(range(6))[::-1]
    first = labelled(X, order) if given_to_fit else X
    fitted = projection(2).fit(first, labelled(X_do, order) if given_to_fit else X_do)
    probe, zero_shot = (
        kind_().fit(first, np.arange(len(X)) % 3) for kind_ in (LinearProbe, ZeroShotClassifier)
    )
    fitted.save(tmp_path / "p.safetensors", with_moments=True)
    loaded = InvariantProjection.load(tmp_path / "p.safetensors")
    for use in (fitted.transform, loaded.transform, probe.predict, zero_shot.predict):
        use(labelled(X, order))
        with pytest.raises(ValueError, match=r"fitted on in another order: .*; expected "):
            use(labelled(X, reverse))
    with pytest.raises(ValueError, match="fitted on in another order"):
        loaded.partial_fit(labelled(X, reverse), labelled(X_do, reverse))
    loaded.partial_fit(labelled(X, order), labelled(X_do, order))
    swapped = projection(2).fit(labelled(X, reverse), labelled(X_do, reverse))
    swapped.transform(labelled(X, reverse))


@pytest.mark.parametrize("kind", ["numbers", "texts", "xarray"])
def test_rows_that_are_labelled_in_another_order_are_refused(kind):
    X, X_do = random_pairs(0)
    groups, y = np.arange(200) // 2, np.arange(200) % 3
    names = [f"{n}.png" for n in range(200)] if kind == "texts" else list(range(200))
    order = np.random.default_rng(0).permutation(200)

    def labelled(values, order):
        labels = [names[row] for row in order]
        if kind == "xarray":
            dims = ("row", "feature")[: values.ndim]
            return xr.DataArray(values[order], dims=dims, coords={"row": labels})
        made = pd.DataFrame if values.ndim == 2 else pd.Series
        return made(values[order], index=labels)

    alike = [labelled(part, range(200)) for part in (X, X_do, groups)]
    expected = projection(2).fit(X, X_do, groups).components_
    np.testing.assert_array_equal(projection(2).fit(*alike).components_, expected)
    both = [labelled(part, order) for part in (X, X_do, groups)]
    np.testing.assert_allclose(projection(2).fit(*both).components_, expected)
    others = [*both[:1], X_do, *alike[2:]], [alike[0], both[1], groups]
    for fit in (projection(2).fit, projection(2).partial_fit, PairMoments(6).update):
        for pairs, name in zip(others, ("groups", "X_do"), strict=True):
            with pytest.raises(ValueError, match=f"{name} has the labels of the rows of X in an"):
                fit(*pairs)
    for predictor in (LinearProbe(), ZeroShotClassifier()):
        with pytest.raises(ValueError, match="y has the labels of the rows of X in another order"):
            predictor.fit(alike[0], labelled(y, order))
        predictor.fit(both[0], labelled(y, order)).predict(alike[0])
        with pytest.raises(ValueError, match="y has the labels of the rows of X in another order"):
            predictor.score(alike[0], labelled(y, order))
        expected = predictor.score(X, y)
        assert predictor.score(both[0], labelled(y, order)) == expected
        assert expected == (predictor.predict(X) == y).mean()
    projection(2).fit(alike[0], pd.DataFrame(X_do, index=[f"after {n}" for n in names]))


def test_two_columns_of_one_name_are_refused():
    X, X_do = random_pairs(0)
    frames = [pd.DataFrame(part, columns=list("abcdea")) for part in (X, X_do)]
    for fit in (projection(2).fit, PairMoments(6).update):
        with pytest.raises(ValueError, match="Columns have one name, such as 'a', 1 of 6"):
            fit(*frames)
    with pytest.raises(ValueError, match="Columns have one name"):
        LinearProbe().fit(frames[0], X[:, 0] > 0)


def test_dimensions_in_another_order_are_refused():
    X, X_do = (part[:6] for part in random_pairs(0))
    pair = xr.DataArray(X, dims=("row", "e")), xr.DataArray(X_do, dims=("e", "row"))
    with pytest.raises(ValueError, match=r"pass X_do.transpose\('row', 'e'\)"):
        projection(2).fit(*pair)
    projection(2).fit(pair[0], pair[1].transpose("row", "e"))


def test_masked_values_are_refused():
    X, X_do = random_pairs(0)
    hidden = np.ma.masked_greater(X, 2)
    for fit in (projection(2).fit, PairMoments(6).update):
        with pytest.raises(ValueError, match=f"hides {hidden.mask.sum()} of 1200 values"):
            fit(hidden, X_do)
    projection(2).fit(np.ma.masked_greater(X, 1e9), X_do)


def test_transform_keeps_single_precision():
    X, X_do = random_pairs(0)
    fitted = projection(2).fit(X.astype(np.float32), X_do.astype(np.float32))
    assert fitted.transform(X.astype(np.float32)).dtype == np.float32
    assert fitted.components_.dtype == np.float64
    np.testing.assert_allclose(fitted.fit_transform(X, X_do), X @ fitted.components_.T)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2]
)
def test_tensors_as_clip_gives_them(dtype):
    tensors = [torch.tensor(part, dtype=dtype, requires_grad=True) for part in random_pairs(0)]
    arrays = [tensor.detach().to(torch.float64).numpy() for tensor in tensors]
    fitted, expected = projection(3).fit(*tensors), projection(3).fit(*arrays)
    np.testing.assert_array_equal(fitted.components_, expected.components_)
    moments = PairMoments(6).update(*tensors)
    np.testing.assert_array_equal(fitted.moments_.S, moments.S)
    np.testing.assert_array_equal(
        clone(fitted).partial_fit(*tensors).components_, fitted.components_
    )
    np.testing.assert_allclose(
        fitted.transform(tensors[0]), expected.transform(arrays[0]), rtol=1e-4
    )
    error = np.sqrt(12 * moments.rounding / np.mean(np.square(arrays)))
    assert error == pytest.approx(torch.finfo(dtype).eps)
    assert fitted.moments_.rounding == moments.rounding


def test_rounding_to_bfloat16_is_no_signal():
    pairs = [torch.tensor(part).bfloat16() for part in removed_pairs("removed", 1)]
    assert projection().fit(*pairs).n_components_ == 4


# --- bad input


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"n_components": 0},
            "n_components is 0; expected 'auto', 'held-out' or an integer from 1",
        ),
        ({"n_components": -1}, "n_components is -1; expected 'auto'"),
        ({"n_components": 2.0}, r"n_components is 2\.0; expected 'auto'"),
        ({"n_components": True}, "n_components is True; expected 'auto'"),
        ({"n_components": "all"}, "n_components is 'all'; expected 'auto'"),
        ({"n_components": 7}, "n_components is 7; expected at most n_features, 6"),
        (
            {"consistency_weight": -1.0},
            r"consistency_weight is -1\.0; expected 'auto', 'held-out' or a finite number",
        ),
        (
            {"consistency_weight": np.nan},
            "consistency_weight is nan; expected 'auto', 'held-out' or a finite number",
        ),
        (
            {"consistency_weight": np.inf},
            "consistency_weight is inf; expected 'auto', 'held-out' or a finite number",
        ),
        (
            {"consistency_weight": "foo"},
            "consistency_weight is 'foo'; expected 'auto', 'held-out' or a finite number",
        ),
        (
            {"consistency_weight": None},
            "consistency_weight is None; expected 'auto', 'held-out' or a finite number",
        ),
        (
            {"consistency_weight": True},
            "consistency_weight is True; expected 'auto', 'held-out' or a finite number",
        ),
        ({"shrinkage": -0.1}, r"shrinkage is -0\.1; expected a finite number"),
        (
            {"objective": "pca"},
            "objective is 'pca'; expected one of 'trace', 'generalized'",
        ),
        ({"objective": None}, "objective is None; expected one of"),
        ({"solver": "newton"}, "solver is 'newton'; expected one of 'closed_form', 'gradient'"),
    ],
)
def test_bad_parameters_are_refused_by_every_way_to_fit(parameters, message):
    X, X_do = random_pairs(0)
    with pytest.raises(ValueError, match=message):
        projection(**parameters).fit(X, X_do)
    with pytest.raises(ValueError, match=message):
        projection(**parameters).partial_fit(X, X_do)
    with pytest.raises(ValueError, match=message):
        projection(**parameters).fit_moments(PairMoments(6).update(X, X_do))


ONES = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("X", "X_do", "message"),
    [
        (ONES, None, r"got no X_do and expected interventional pairs, X_do of shape \(4, 3\)"),
        (ONES, ONES[:3], r"X has shape \(4, 3\) but X_do has shape \(3, 3\)"),
        (ONES, ONES[:, :2], r"X_do has shape \(4, 2\); expected \(n_pairs, 3\)"),
        (ONES, ONES[None], "Found array with dim 3"),
        (ONES[0], ONES[0], "Expected 2D array, got 1D array"),
        (ONES[:0], ONES[:0], "Found array with 0 sample"),
        (ONES, ONES[:0], "X_do has no rows; expected at least one pair"),
        (np.where(ONES > 10, np.nan, ONES), ONES, "Input X contains NaN"),
        (ONES, np.where(ONES > 10, np.nan, ONES), "Input X_do contains NaN"),
        (ONES, np.where(ONES > 10, np.inf, ONES), "Input X_do contains infinity"),
        (0 * ONES, ONES, "Every embedding in X is zero"),
        (1e200 * ONES, ONES, "out of range .their sum is inf.; expected .* of a length like 1"),
    ],
)
def test_bad_pairs_are_refused(X, X_do, message):
    with pytest.raises(ValueError, match=message):
        projection().fit(X, X_do)


def test_pairs_that_do_not_differ_are_reported():
    X, _ = random_pairs(0)
    with pytest.warns(UserWarning, match="X_do equals X in every pair"):
        projection().fit(X, X)


def test_bad_moments_are_refused():
    with pytest.raises(TypeError, match="moments is a ndarray; expected PairMoments"):
        projection().fit_moments(np.eye(3))
    with pytest.raises(ValueError, match="zero pairs"):
        projection().fit_moments(PairMoments(3))


def test_other_dimensions_after_fitting_are_refused():
    fitted = projection().fit(*random_pairs(0))
    with pytest.raises(
        ValueError, match="X has 3 features, but InvariantProjection is expecting 6"
    ):
        fitted.transform(ONES)
    with pytest.raises(
        ValueError, match="X has 3 features, but InvariantProjection is expecting 6"
    ):
        fitted.partial_fit(ONES, ONES)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        fitted.transform(np.full((1, 6), np.nan))


@pytest.mark.parametrize("k", [0, 5, -1, 1.0, True, None])
def test_truncation_out_of_range_is_refused(k):
    fitted = projection(4).fit(*random_pairs(0))
    with pytest.raises(ValueError, match="expected an integer from 1 to the 4 fitted components"):
        fitted.truncate(k)


def test_examples_in_the_documentation():
    for module in (projection_module, spectrum_module):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
