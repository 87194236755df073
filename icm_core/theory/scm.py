"""Structural causal models in which the truth is known.

Latent factors ``z = (z_inv, z_var)`` generate an observation; the label ``y`` depends on ``z_inv``, and
the environment shifts ``z_var`` only, including how it goes with ``y`` (the shortcut). Two models make
the claims about this setting testable without any learning. In :class:`LinearGaussianSCM` the embedding
is ``x = A z`` with a known A, so the invariant subspace is known and an estimate can be measured by its
angle to it. :class:`DiscreteSCM` is a set of small probability tables, so that every observational and
every interventional distribution is exact, by enumeration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import orth

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

    ``z_inv ~ N(0, I)``; ``y = 1`` where a fixed direction of z_inv plus noise is positive; the first
    variant factor is ``ρ (2y - 1) + √(1 - ρ²) ε`` with the environment's shortcut strength ρ, the others
    are standard normal; and ``x = A z``.

    Parameters
    ----------
    n_invariant, n_variant : int
        Numbers of invariant and of variant factors.
    n_features : int, optional
        Dimension D of the embedding, at least the number of factors, which is the default. With more, the
        embedding has low rank.
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
        Orthonormal basis of the directions of the embedding that no variant factor enters: the part of
        the column space of A that is orthogonal to A's variant columns. (For a general A this is not the
        span of its invariant columns.)

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
                f"Got n_invariant={n_invariant}, n_variant={n_variant}, n_features={n_features}; expected at "
                "least one factor of each kind, and at least as many features as factors."
            )
        if not 1 <= condition_number < np.inf:
            raise ValueError(f"condition_number is {condition_number}; expected a finite number, at least 1.")
        if not environments or any(not -1 <= strength <= 1 for strength in environments.values()):
            raise ValueError(
                f"environments are {dict(environments)}; expected at least one name with a shortcut strength "
                "from -1 to 1."
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
                f"environment is {environment!r}; expected one of {', '.join(map(repr, self.environments))}."
            )
        if n < 1:
            raise ValueError(f"n is {n}; expected at least one observation.")
        strength = self.environments[environment]
        z = rng.normal(size=(n, self.n_invariant + self.n_variant))
        score = z[:, : self.n_invariant] @ self._label_direction + self.label_noise * rng.normal(size=n)
        y = (score > 0).astype(np.int64)
        shortcut = z[:, self.n_invariant]
        z[:, self.n_invariant] = strength * (2 * y - 1) + np.sqrt(1 - strength**2) * shortcut
        return z, y


class DiscreteSCM:
    """A structural causal model of a few discrete variables, enumerated exactly.

    Parameters
    ----------
    tables : mapping of str to (sequence of str, array-like)
        For each variable, in causal order, its parents and its table ``P(variable | parents)``: one axis
        for each parent in the order given, and the variable's own axis last, along which the table sums
        to one.

    Raises
    ------
    ValueError
        If a parent is not an earlier variable, or a table has the wrong shape or is no probability.

    Examples
    --------
    Rain makes the grass wet; wetting the grass does not make it rain.

    >>> scm = DiscreteSCM({"rain": ((), [0.8, 0.2]), "wet": (("rain",), [[0.9, 0.1], [0.1, 0.9]])})
    >>> scm.probability("rain", given={"wet": 1}).round(2)
    array([0.31, 0.69])
    >>> scm.probability("rain", do={"wet": 1})
    array([0.8, 0.2])
    """

    def __init__(self, tables: Mapping[str, tuple[Sequence[str], ArrayLike]]) -> None:
        self.tables: dict[str, tuple[tuple[str, ...], NDArray[np.float64]]] = {}
        for name, (parents, values) in tables.items():
            table = np.asarray(values, dtype=np.float64)
            unknown = [parent for parent in parents if parent not in self.tables]
            if unknown:
                raise ValueError(
                    f"{name!r} has parents {unknown}, which are not earlier variables. List causes first."
                )
            expected = tuple(self.n_states(parent) for parent in parents)
            if table.ndim != len(expected) + 1 or table.shape[:-1] != expected:
                raise ValueError(
                    f"The table of {name!r} has shape {table.shape}; expected {(*expected, 'n_states')}: an "
                    "axis for each parent and the variable's own last."
                )
            if not (table >= 0).all() or not np.allclose(table.sum(axis=-1), 1):
                raise ValueError(
                    f"The table of {name!r} is no probability; expected non-negative values that sum to one "
                    "along the last axis."
                )
            self.tables[name] = (tuple(parents), table)

    def n_states(self, variable: str) -> int:
        """Return the number of states of a variable."""
        self._check([variable])
        return self.tables[variable][1].shape[-1]

    def probability(
        self,
        *variables: str,
        given: Mapping[str, int] | None = None,
        do: Mapping[str, int] | None = None,
    ) -> NDArray[np.float64]:
        """Distribution of some variables, exactly: ``P(variables | given, do(...))``.

        Parameters
        ----------
        *variables : str
            What the distribution is of.
        given : mapping of str to int, optional
            States that are observed (after the intervention).
        do : mapping of str to int, optional
            States that are set by an intervention, whatever the causes of these variables.

        Returns
        -------
        ndarray
            One axis for each variable, in the order given. NaN if what is given has probability zero.

        Raises
        ------
        ValueError
            If a variable is unknown, is asked for twice or a state is out of range.
        """
        given, do = dict(given or {}), dict(do or {})
        self._check([*variables, *given, *do])
        if len({*variables, *given}) < len(variables) + len(given):
            raise ValueError(f"Got variables {variables} given {sorted(given)}; expected each at most once.")
        axes = {name: axis for axis, name in enumerate(self.tables)}
        operands: list = []
        for name, (parents, table) in self.tables.items():
            if name in do:
                parents, table = (), self._point(name, do[name])
            operands += [table, [axes[parent] for parent in parents] + [axes[name]]]
        for name, state in given.items():
            operands += [self._point(name, state), [axes[name]]]
        joint = np.einsum(*operands, [axes[name] for name in variables])
        with np.errstate(invalid="ignore"):
            return joint / joint.sum()

    def mutual_information(self, a: str, b: str, *, given: Mapping[str, int] | None = None) -> float:
        """Mutual information of two variables in bits.

        Parameters
        ----------
        a, b : str
            The variables.
        given : mapping of str to int, optional
            States that are observed, for example the environment.

        Returns
        -------
        float
        """
        joint = self.probability(a, b, given=given)
        independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
        used = joint > 0
        return float(np.sum(joint[used] * np.log2(joint[used] / independent[used])))

    def bayes_risk(
        self,
        label: str,
        features: Sequence[str],
        *,
        source: Mapping[str, int],
        target: Mapping[str, int],
    ) -> float:
        """Probability of a wrong label in one environment under the best predictor of another.

        The predictor chooses the most probable label given the features in the source (the first of
        several; for features that never occur in the source, the most probable label there). It is then
        used in the target.

        Parameters
        ----------
        label : str
            The variable to predict.
        features : sequence of str
            The variables that the predictor sees.
        source, target : mapping of str to int
            The environments, as observed states.

        Returns
        -------
        float
        """
        learnt = self.probability(*features, label, given=source)
        marginal = learnt.reshape(-1, learnt.shape[-1]).sum(axis=0)
        seen = learnt.sum(axis=-1, keepdims=True) > 0
        choice = np.where(seen, learnt, marginal).argmax(axis=-1)
        met = self.probability(*features, label, given=target)
        return float(1 - np.take_along_axis(met, choice[..., None], axis=-1).sum())

    def _point(self, variable: str, state: int) -> NDArray[np.float64]:
        n_states = self.n_states(variable)
        if not 0 <= state < n_states:
            raise ValueError(f"State {state} of {variable!r} is out of range; expected 0 to {n_states - 1}.")
        return np.eye(n_states)[state]

    def _check(self, variables: Sequence[str]) -> None:
        unknown = [name for name in variables if name not in self.tables]
        if unknown:
            raise ValueError(f"Unknown variables {unknown}; expected {', '.join(self.tables)}.")
