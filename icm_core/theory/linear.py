"""Recovering the invariant subspace where it is known: experiments on the linear model.

Each function draws linear-Gaussian models (:class:`icm_core.theory.scm.LinearGaussianSCM`), fits projections on
pairs and measures them against the truth. It returns a tidy table with one row a run. The propositions
are those of the CLIP-ICM paper, arXiv 2405.15289.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression

from icm_core.moments import PairMoments
from icm_core.projection import InvariantProjection, auto_n_components, subspace_angles
from icm_core.theory.scm import LinearGaussianSCM


def largest_angle(components: NDArray[np.float64], basis: NDArray[np.float64]) -> float:
    """Largest principal angle in degrees between the rows of one matrix and the columns of another.

    Parameters
    ----------
    components : ndarray of shape (K, D)
        A projection.
    basis : ndarray of shape (D, k)
        The true subspace.

    Returns
    -------
    float
    """
    return float(np.degrees(subspace_angles(components.T, basis).max()))


def recovery(
    methods: Mapping[str, Mapping[str, Any]],
    *,
    seeds: Iterable[int],
    n_pairs: Sequence[int] = (3000,),
    leaks: Sequence[float] = (0.0,),
    condition_numbers: Sequence[float] = (1.0,),
    n_invariant: int = 4,
    n_variant: int = 8,
    n_features: int | None = None,
) -> pd.DataFrame:
    """Estimate the invariant subspace of linear models and measure the angle to the true one.

    Parameters
    ----------
    methods : mapping of str to mapping
        Parameters of :class:`~icm_core.projection.InvariantProjection`, by the name of the method. The
        number of components is the true one.
    seeds : iterable of int
        One model and one set of pairs for each.
    n_pairs, leaks, condition_numbers : sequence
        Values to run over; every combination is run.
    n_invariant, n_variant, n_features : int
        Numbers of factors, and dimension of the embedding (default: as many as there are factors).

    Returns
    -------
    DataFrame
        Columns method, n_pairs, leak, condition_number, seed, angle (degrees) and auto_k (the number of
        components that "auto" chooses).
    """
    rows = []
    for seed, condition_number in itertools.product(seeds, condition_numbers):
        scm = LinearGaussianSCM(
            n_invariant, n_variant, n_features=n_features, condition_number=condition_number, seed=seed
        )
        for n, leak in itertools.product(n_pairs, leaks):
            pairs = scm.sample_pairs("source", n, np.random.default_rng(seed), leak=leak)
            moments = PairMoments(scm.n_features).update(*pairs)
            for method, parameters in methods.items():
                fitted = InvariantProjection(n_invariant, **parameters).fit_moments(moments)
                rows.append(
                    {
                        "method": method,
                        "n_pairs": n,
                        "leak": leak,
                        "condition_number": condition_number,
                        "seed": seed,
                        "angle": largest_angle(fitted.components_, scm.invariant_subspace_),
                        "auto_k": auto_n_components(fitted.eigenvalues_, fitted.objective),
                    }
                )
    return pd.DataFrame(rows)


def size_recovery(
    rules: Mapping[str, Mapping[str, Any]],
    *,
    seeds: Iterable[int],
    n_features: Sequence[int] = (16, 64, 256),
    leaks: Sequence[float] = (0.0, 0.1),
    condition_numbers: Sequence[float] = (1.0, 10.0, 100.0),
) -> pd.DataFrame:
    """Let rules choose the number of components, on linear models of several sizes, and compare with the truth.

    Each model has as many factors as features; how many of these are invariant is drawn. There are eight pairs a
    dimension, and 1,000 at least.

    Parameters
    ----------
    rules : mapping of str to mapping
        Parameters of :class:`~icm_core.projection.InvariantProjection`, whose ``n_components`` is "auto".
    seeds : iterable of int
    n_features, leaks, condition_numbers : sequence
        Values to run over; every combination with a seed is run, on a model and pairs of its own.

    Returns
    -------
    DataFrame
        Columns rule, n_features, leak, condition_number, seed, n_invariant (the truth) and chosen.
    """
    rows = []
    for seed, size, leak, condition in itertools.product(seeds, n_features, leaks, condition_numbers):
        # a draw of its own for every row: rules must not be right on the same model again and again
        draw = [seed, size, leaks.index(leak), condition_numbers.index(condition)]
        rng = np.random.default_rng(draw)
        n_invariant = int(rng.integers(1, size))
        own_seed = int(rng.integers(2**31))
        scm = LinearGaussianSCM(n_invariant, size - n_invariant, condition_number=condition, seed=own_seed)
        moments = PairMoments(size).update(*scm.sample_pairs("source", max(1000, 8 * size), rng, leak=leak))
        for rule, parameters in rules.items():
            fitted = InvariantProjection(**parameters).fit_moments(moments)
            rows.append(
                {
                    "rule": rule, "n_features": size, "leak": leak, "condition_number": condition,
                    "seed": seed, "n_invariant": n_invariant, "chosen": fitted.n_components_,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def solver_agreement(
    *,
    seeds: Iterable[int],
    n_pairs: int,
    consistency_weights: Sequence[float],
    condition_numbers: Sequence[float],
) -> pd.DataFrame:
    """Compare gradient descent on the Stiefel manifold with the closed form.

    Parameters
    ----------
    seeds : iterable of int
        One model, one set of pairs and one start of the descent for each.
    n_pairs : int
        Number of pairs.
    consistency_weights, condition_numbers : sequence of float
        Values to run over.

    Returns
    -------
    DataFrame
        Columns consistency_weight, condition_number, seed, distance (sine of the largest principal angle
        between the two subspaces) and steps.
    """
    rows = []
    for seed, condition_number in itertools.product(seeds, condition_numbers):
        scm = LinearGaussianSCM(condition_number=condition_number, seed=seed)
        pairs = scm.sample_pairs("source", n_pairs, np.random.default_rng(seed))
        moments = PairMoments(scm.n_features).update(*pairs)
        for weight in consistency_weights:
            exact = InvariantProjection(scm.n_invariant, consistency_weight=weight).fit_moments(moments)
            descent = InvariantProjection(
                scm.n_invariant, consistency_weight=weight, solver="gradient", random_state=seed
            ).fit_moments(moments)
            rows.append(
                {
                    "consistency_weight": weight,
                    "condition_number": condition_number,
                    "seed": seed,
                    "distance": np.sin(subspace_angles(exact.components_.T, descent.components_.T).max()),
                    "steps": descent.n_iter_,
                }
            )
    return pd.DataFrame(rows)


def consistency(
    methods: Mapping[str, Mapping[str, Any]], *, seeds: Iterable[int], n_pairs: int
) -> pd.DataFrame:
    """Test P5.5: a map exists that sends differences of intervened embeddings to zero, and keeps z_inv.

    Two interventions on the same observation share z_inv. The share ``E‖A Δ‖² / E‖A f‖²`` that is left of
    their difference Δ is measured on new pairs, as is how much of z_inv a linear map can read off ``A
    f``: sending everything to zero would be no achievement.

    Parameters
    ----------
    methods : mapping of str to mapping
        Parameters of :class:`~icm_core.projection.InvariantProjection`, by the name of the method. The true
        subspace and a random one of the same dimension are added.
    seeds : iterable of int
        One model and one set of pairs for each.
    n_pairs : int
        Number of pairs to fit on, and of new pairs to measure on.

    Returns
    -------
    DataFrame
        Columns method, seed, residual and r2 (of z_inv).
    """
    rows = []
    for seed in seeds:
        scm, rng = LinearGaussianSCM(seed=seed), np.random.default_rng(seed)
        pairs = scm.sample_pairs("source", n_pairs, rng)
        random = np.linalg.qr(rng.normal(size=(scm.n_features, scm.n_invariant)))[0].T
        maps = {"true subspace": scm.invariant_subspace_.T} | {
            name: InvariantProjection(scm.n_invariant, **parameters).fit(*pairs).components_
            for name, parameters in methods.items()
        }
        X, X_do = scm.sample_pairs("target", n_pairs, rng)
        z_inv = X @ np.linalg.inv(scm.mixing_).T[:, : scm.n_invariant]
        for method, A in {**maps, "random subspace": random}.items():
            kept, difference = X @ A.T, (X - X_do) @ A.T
            r2 = LinearRegression().fit(kept, z_inv).score(kept, z_inv)
            rows.append(
                {
                    "method": method,
                    "seed": seed,
                    "residual": np.sum(difference**2) / np.sum(kept**2),
                    "r2": r2,
                }
            )
    return pd.DataFrame(rows)
