"""Recovering the invariant subspace where it is known: experiments on the linear model.

Each function draws linear-Gaussian models
(:class:`icm_study.theory.linear.LinearGaussianSCM`), fits projections on pairs and
measures them against the truth. It returns a tidy table with one row a run. The
propositions are those of the CLIP-ICM paper, arXiv 2405.15289.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import orth
from sklearn.base import clone
from sklearn.linear_model import LinearRegression

from icm_core.moments import PairMoments
from icm_core.projection import InvariantProjection, subspace_angles


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


#: Factors of the linear models that are recovered.
N_INVARIANT, N_VARIANT = 4, 8


def recovery(
    methods: Mapping[str, InvariantProjection],
    *,
    seeds: Iterable[int],
    n_pairs: Sequence[int] = (3000,),
    leaks: Sequence[float] = (0.0,),
    condition_numbers: Sequence[float] = (1.0,),
    n_features: int | None = None,
) -> pd.DataFrame:
    """Estimate the invariant subspace of linear models and measure the angle to the true one.

    Parameters
    ----------
    methods : mapping of str to InvariantProjection
        Unfitted, by the name of the method. The number of components is the true one.
    seeds : iterable of int
        One model and one set of pairs for each.
    n_pairs, leaks, condition_numbers : sequence
        Values to run over; every combination is run.
    n_features : int
        Dimension of the embedding (default: as many as there are factors,
        :data:`N_INVARIANT` invariant and :data:`N_VARIANT` variant ones).

    Returns
    -------
    DataFrame
        Columns method, n_pairs, leak, condition_number, seed, angle (degrees) and
        auto_k (the number of components that "auto" chooses).
    """
    rows = []
    for seed, condition_number in itertools.product(seeds, condition_numbers):
        scm = LinearGaussianSCM(
            N_INVARIANT,
            N_VARIANT,
            n_features=n_features,
            condition_number=condition_number,
            seed=seed,
        )
        for n, leak in itertools.product(n_pairs, leaks):
            pairs = scm.sample_pairs("source", n, np.random.default_rng(seed), leak=leak)
            moments = PairMoments(scm.n_features).update(*pairs)
            for method, projection in methods.items():
                fitted = clone(projection).set_params(n_components=N_INVARIANT)
                fitted.fit_moments(moments)
                rows.append(
                    {
                        "method": method,
                        "n_pairs": n,
                        "leak": leak,
                        "condition_number": condition_number,
                        "seed": seed,
                        "angle": largest_angle(fitted.components_, scm.invariant_subspace_),
                        "auto_k": fitted.auto_n_components_,
                    }
                )
    return pd.DataFrame(rows)


def size_recovery(
    rules: Mapping[str, InvariantProjection],
    *,
    seeds: Iterable[int],
    n_features: Sequence[int] = (16, 64, 256),
    leaks: Sequence[float] = (0.0, 0.1),
    condition_numbers: Sequence[float] = (1.0, 10.0, 100.0),
) -> pd.DataFrame:
    """Let rules choose the number of components on linear models of several sizes.

    Each model has as many factors as features; how many of these are invariant is
    drawn. There are eight pairs a dimension, and 1,000 at least.

    Parameters
    ----------
    rules : mapping of str to InvariantProjection
        Unfitted, by the name of the rule; ``n_components`` says how it chooses.
    seeds : iterable of int
    n_features, leaks, condition_numbers : sequence
        Values to run over; every combination with a seed is run, on a model and pairs of its own.

    Returns
    -------
    DataFrame
        Columns rule, n_features, leak, condition_number, seed, n_invariant (the truth) and chosen.
    """
    rows = []
    for seed, size, leak, condition in itertools.product(
        seeds, n_features, leaks, condition_numbers
    ):
        # a draw of its own for every row: rules must not be right on the same model again and again
        draw = [seed, size, leaks.index(leak), condition_numbers.index(condition)]
        rng = np.random.default_rng(draw)
        n_invariant = int(rng.integers(1, size))
        own_seed = int(rng.integers(2**31))
        scm = LinearGaussianSCM(
            n_invariant, size - n_invariant, condition_number=condition, seed=own_seed
        )
        moments = PairMoments(size).update(
            *scm.sample_pairs("source", max(1000, 8 * size), rng, leak=leak)
        )
        for rule, projection in rules.items():
            fitted, is_auto = clone(projection), projection.n_components == "auto"
            if is_auto:  # asked for, it would also look whether there are pairs enough: slow
                fitted.set_params(n_components=1)
            fitted.fit_moments(moments)
            chosen = fitted.auto_n_components_ if is_auto else fitted.n_components_
            rows.append(
                {
                    "rule": rule, "n_features": size, "leak": leak, "condition_number": condition,
                    "seed": seed, "n_invariant": n_invariant, "chosen": chosen,
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
        Columns consistency_weight, condition_number, seed, distance (sine of the
        largest principal angle between the two subspaces) and steps.
    """
    rows = []
    for seed, condition_number in itertools.product(seeds, condition_numbers):
        scm = LinearGaussianSCM(condition_number=condition_number, seed=seed)
        pairs = scm.sample_pairs("source", n_pairs, np.random.default_rng(seed))
        moments = PairMoments(scm.n_features).update(*pairs)
        for weight in consistency_weights:
            exact = InvariantProjection(scm.n_invariant, consistency_weight=weight).fit_moments(
                moments
            )
            descent = InvariantProjection(
                scm.n_invariant, consistency_weight=weight, solver="gradient", random_state=seed
            ).fit_moments(moments)
            rows.append(
                {
                    "consistency_weight": weight,
                    "condition_number": condition_number,
                    "seed": seed,
                    "distance": np.sin(
                        subspace_angles(exact.components_.T, descent.components_.T).max()
                    ),
                    "steps": descent.n_iter_,
                }
            )
    return pd.DataFrame(rows)


def consistency(
    methods: Mapping[str, InvariantProjection], *, seeds: Iterable[int], n_pairs: int
) -> pd.DataFrame:
    """Test P5.5: a map sends differences of intervened embeddings to zero, and keeps z_inv.

    Two interventions on the same observation share z_inv. The share ``E‖A Δ‖² / E‖A
    f‖²`` that is left of their difference Δ is measured on new pairs, as is how much of
    z_inv a linear map can read off ``A f``: sending everything to zero would be no
    achievement.

    Parameters
    ----------
    methods : mapping of str to InvariantProjection
        Unfitted, by the name of the method. The true subspace and a random one of the same
        dimension are added.
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
            name: clone(projection).set_params(n_components=scm.n_invariant).fit(*pairs).components_
            for name, projection in methods.items()
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


DEFAULT_ENVIRONMENTS = {"source": 0.9, "target": 0.0, "reversed": -0.9}


class Sample(NamedTuple):
    """Observations of an environment.

    Attributes
    ----------
    X : ndarray of shape (n, n_features)
        Embeddings.
    y : ndarray of shape (n,)
        Labels, 0 or 1.
    z : ndarray of shape (n, n_invariant + n_variant)
        Latent factors, the invariant ones first.
    """

    X: NDArray[np.float64]
    y: NDArray[np.int64]
    z: NDArray[np.float64]


class LinearGaussianSCM:
    """A linear embedding of Gaussian factors with a known invariant subspace.

    ``z_inv ~ N(0, I)``; ``y = 1`` where a fixed direction of z_inv plus noise is
    positive; the first variant factor is ``ρ (2y - 1) + √(1 - ρ²) ε`` with the
    environment's shortcut strength ρ, the others are standard normal; and ``x = A z``.

    Parameters
    ----------
    n_invariant, n_variant : int
        Numbers of invariant and of variant factors.
    n_features : int, optional
        Dimension D of the embedding, at least the number of factors, which is the
        default. With more, the embedding has low rank.
    condition_number : float, default=1.0
        Ratio of the largest to the smallest singular value of A: 1 is an orthogonal mixing.
    environments : mapping of str to float
        Shortcut strength ρ in [-1, 1] of each environment, by name.
    label_noise : float, default=0.5
        Standard deviation of the noise in y, in units of the spread of z_inv.
    seed : int, default=0
        Seed for A and for the direction of y.

    Attributes
    ----------
    mixing_ : ndarray of shape (n_features, n_invariant + n_variant)
        A, the columns of the invariant factors first.
    invariant_subspace_ : ndarray of shape (n_features, n_invariant)
        Orthonormal basis of the directions of the embedding that no variant factor
        enters: the part of the column space of A that is orthogonal to A's variant
        columns. (For a general A this is not the span of its invariant columns.)

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> scm = LinearGaussianSCM(2, 3, seed=0)
    >>> sample = scm.sample("source", 10, np.random.default_rng(0))
    >>> bool(np.allclose(sample.X, sample.z @ scm.mixing_.T))
    True
    """

    def __init__(
        self,
        n_invariant: int = 4,
        n_variant: int = 8,
        *,
        n_features: int | None = None,
        condition_number: float = 1.0,
        environments: Mapping[str, float] = DEFAULT_ENVIRONMENTS,
        label_noise: float = 0.5,
        seed: int = 0,
    ) -> None:
        n_factors = n_invariant + n_variant
        n_features = n_factors if n_features is None else n_features
        if n_invariant < 1 or n_variant < 1 or n_features < n_factors:
            raise ValueError(
                f"Got n_invariant={n_invariant}, n_variant={n_variant}, n_features={n_features}; "
                "expected at least one factor of each kind, and at least as many features as "
                "factors."
            )
        if not 1 <= condition_number < np.inf:
            raise ValueError(
                f"condition_number is {condition_number}; expected a finite number, at least 1."
            )
        if not environments or any(not -1 <= strength <= 1 for strength in environments.values()):
            raise ValueError(
                f"environments are {dict(environments)}; expected at least one name with a "
                "shortcut strength from -1 to 1."
            )
        if not 0 <= label_noise < np.inf:
            raise ValueError(f"label_noise is {label_noise}; expected a finite number, at least 0.")
        self.n_invariant, self.n_variant, self.n_features = n_invariant, n_variant, n_features
        self.environments, self.label_noise = dict(environments), label_noise
        rng = np.random.default_rng(seed)
        left = np.linalg.qr(rng.normal(size=(n_features, n_factors)))[0]
        right = np.linalg.qr(rng.normal(size=(n_factors, n_factors)))[0]
        self.mixing_ = left * np.geomspace(1, 1 / condition_number, n_factors) @ right
        direction = rng.normal(size=n_invariant)
        self._label_direction = direction / np.linalg.norm(direction)
        invariant, variant = np.hsplit(self.mixing_, [n_invariant])
        basis = np.linalg.qr(variant)[0]
        self.invariant_subspace_ = orth(invariant - basis @ (basis.T @ invariant))

    def sample(self, environment: str, n: int, rng: np.random.Generator) -> Sample:
        """Draw observations.

        Parameters
        ----------
        environment : str
            Name of the environment.
        n : int
            Number of observations.
        rng : numpy.random.Generator
            Source of randomness.

        Returns
        -------
        Sample

        Raises
        ------
        ValueError
            If the environment is unknown or n is not positive.
        """
        z, y = self._draw(environment, n, rng)
        return Sample(z @ self.mixing_.T, y, z)

    def sample_pairs(
        self, environment: str, n: int, rng: np.random.Generator, *, leak: float = 0.0
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw observations and what they become under ``do(z_var)``, with z_var standard normal.

        Parameters
        ----------
        environment : str
            Name of the environment of the observations.
        n : int
            Number of pairs.
        rng : numpy.random.Generator
            Source of randomness.
        leak : float, default=0.0
            The intervention also moves every invariant factor, by Gaussian noise of this standard
            deviation (in units of the factor's own spread). 0 is a clean intervention.

        Returns
        -------
        X, X_do : ndarray of shape (n, n_features)

        Raises
        ------
        ValueError
            If the environment is unknown, n is not positive or the leak is negative.
        """
        if not 0 <= leak < np.inf:
            raise ValueError(f"leak is {leak}; expected a finite number, at least 0.")
        z, _ = self._draw(environment, n, rng)
        z_inv = z[:, : self.n_invariant] + leak * rng.normal(size=(n, self.n_invariant))
        z_do = np.hstack([z_inv, rng.normal(size=(n, self.n_variant))])
        return z @ self.mixing_.T, z_do @ self.mixing_.T

    def _draw(
        self, environment: str, n: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        if environment not in self.environments:
            raise ValueError(
                f"environment is {environment!r}; expected one of "
                f"{', '.join(map(repr, self.environments))}."
            )
        if n < 1:
            raise ValueError(f"n is {n}; expected at least one observation.")
        strength = self.environments[environment]
        z = rng.normal(size=(n, self.n_invariant + self.n_variant))
        score = z[:, : self.n_invariant] @ self._label_direction + self.label_noise * rng.normal(
            size=n
        )
        y = (score > 0).astype(np.int64)
        shortcut = z[:, self.n_invariant]
        z[:, self.n_invariant] = strength * (2 * y - 1) + np.sqrt(1 - strength**2) * shortcut
        return z, y
