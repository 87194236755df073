"""Pairs that re-draw the domain of photographs and leave the class alone.

CLIP-ICM removes what its pairs change. Where no image can be rendered again, three kinds of
pairs can still be made from the labelled images of several domains: an image and *another
image of its class from another domain*; an image and itself with the *colour statistics* of
an image of another domain; and an *embedding* and itself with the mean and the spread of
another domain.

Beside the paper's trace form, which keeps directions with much second moment and little
change, there is a *discriminant* form: it keeps directions in which the means of the classes
differ much and the pairs change little. With the scatter within classes in the place of the
pairs it is linear discriminant analysis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

CLASS_PAIRS, ANY_PAIRS = "class pairs", "pairs of any classes"
EMBEDDED = "embedded statistics"
COLOURS, SEVEN = "colour statistics", "seven interventions"
LDA = "LDA"

Pairs = tuple[NDArray[np.floating], NDArray[np.floating]]


@dataclass(frozen=True)
class Labelled:
    """Embedded images with their classes and domains, and the copies that were made of them.

    Attributes
    ----------
    X : ndarray of shape (n, D)
    label, domain : ndarray of shape (n,)
        Numbers from 0 on.
    made : mapping of str to (after, of)
        Copies of the images by kind, (n, D), and the domain whose statistics each got, (n,);
        -1 where none was made.
    """

    X: NDArray[np.floating]
    label: NDArray[np.integer]
    domain: NDArray[np.integer]
    made: Mapping[str, tuple[NDArray[np.floating], NDArray[np.integer]]]

    def take(self, rows: NDArray[np.bool_]) -> Labelled:
        """Keep rows."""
        made = {kind: (after[rows], of[rows]) for kind, (after, of) in self.made.items()}
        return Labelled(self.X[rows], self.label[rows], self.domain[rows], made)

    def without(self, domain: int) -> Labelled:
        """Leave out a domain, and the copies that have its statistics."""
        kept = self.take(self.domain != domain)
        made = {
            kind: (after, np.where(of == domain, -1, of)) for kind, (after, of) in kept.made.items()
        }
        return Labelled(kept.X, kept.label, kept.domain, made)

    def projected(self, axes: NDArray[np.floating]) -> Labelled:
        """Project on axes, shape (D, K)."""
        made = {kind: (after @ axes, of) for kind, (after, of) in self.made.items()}
        return Labelled(self.X @ axes, self.label, self.domain, made)

    def pairs(self, kind: str) -> Pairs:
        """Give the pairs of a kind; those that need no new image are made here."""
        if kind in (CLASS_PAIRS, ANY_PAIRS):
            label = self.label if kind == CLASS_PAIRS else np.zeros_like(self.label)
            return partners_across_domains(self.X, self.domain, label)
        if kind == EMBEDDED:
            return with_statistics_of_another(self.X, self.domain)
        if kind == LDA:
            return self.X, class_means(self.X, self.label)
        after, of = self.made[kind]
        return self.X[of >= 0], after[of >= 0]


def partners_across_domains(
    X: NDArray[np.floating],
    domain: NDArray[np.integer],
    label: NDArray[np.integer],
    seed: int = 0,
) -> Pairs:
    """Pair each image with one of its own class from another domain, drawn at random.

    These pairs need no new image. They hold the class and re-draw all else, so their S is
    twice the scatter within classes, as far as that lies across domains.

    Parameters
    ----------
    X : ndarray of shape (n, D)
        Embeddings.
    domain, label : ndarray of shape (n,)
    seed : int

    Returns
    -------
    before, after : ndarray of shape (m, D)
        An image whose class is in no other domain has no partner and is left out.

    Raises
    ------
    ValueError
        If no class is in two domains.
    """
    rng = np.random.default_rng(seed)
    rows, partners = [], []
    for one, of in product(np.unique(label), np.unique(domain)):
        mine = np.flatnonzero((label == one) & (domain == of))
        others = np.flatnonzero((label == one) & (domain != of))
        if len(mine) and len(others):
            rows.append(mine)
            partners.append(rng.choice(others, len(mine)))
    if not rows:
        raise ValueError(
            f"No class is in two of the {len(np.unique(domain))} domains, so no image has a "
            "partner of its own class in another one; expected labelled images of two domains or "
            "more."
        )
    return X[np.concatenate(rows)], X[np.concatenate(partners)]


def with_statistics_of_another(
    X: NDArray[np.floating], domain: NDArray[np.integer], seed: int = 0, shrinkage: float = 0.1
) -> Pairs:
    """Pair each embedding with itself after it was given another domain's mean and covariance.

    x_do = Σ_b^½ Σ_a^-½ (x - m_a) + m_b for an image of domain a and a domain b that is drawn
    at random among the others.

    Parameters
    ----------
    X : ndarray of shape (n, D)
    domain : ndarray of shape (n,)
    seed : int
    shrinkage : float
        Every covariance gets this fraction of the mean variance on its diagonal.

    Returns
    -------
    before, after : ndarray of shape (n, D)

    Raises
    ------
    ValueError
        If there is one domain only.
    """
    names = np.unique(domain)
    if len(names) < 2:
        raise ValueError("All images are of one domain; expected two domains or more.")
    means = {one: X[domain == one].mean(axis=0) for one in names}
    spreads = {one: eigh(_covariance(X[domain == one], shrinkage)) for one in names}
    rng = np.random.default_rng(seed)
    step = rng.integers(1, len(names), len(X))
    other = names[(np.searchsorted(names, domain) + step) % len(names)]
    after = np.empty_like(X)
    for a, b in product(names, names):
        rows = (domain == a) & (other == b)
        (small, axes), (large, target) = spreads[a], spreads[b]
        move = (axes / np.sqrt(small)) @ axes.T @ (target * np.sqrt(large)) @ target.T
        after[rows] = (X[rows] - means[a]) @ move + means[b]
    return X, after


def discriminant_directions(
    X: NDArray[np.floating],
    label: NDArray[np.integer],
    S: NDArray[np.floating],
    shrinkage: float,
) -> NDArray[np.floating]:
    """Keep what tells the classes apart and interventions do not change: ``B v = μ (S + σ²I) v``.

    B is the scatter between the means of the classes, S that of the differences of pairs, and
    ``σ² = shrinkage tr(S) / D``. With the scatter within classes in the place of S this is
    linear discriminant analysis (Fisher 1936).

    Parameters
    ----------
    X : ndarray of shape (n, D)
    label : ndarray of shape (n,)
    S : ndarray of shape (D, D)
        Second moment of the differences of pairs.
    shrinkage : float
        Greater than 0.

    Returns
    -------
    ndarray of shape (n_classes - 1, D)
        Rows scaled so that pairs change each by as much.
    """
    means = class_means(X, label) - X.mean(axis=0)
    noise = shrinkage * np.trace(S) / len(S)
    _, columns = eigh(means.T @ means / len(X), S + noise * np.eye(len(S)))
    return columns[:, ::-1][:, : len(np.unique(label)) - 1].T


def class_means(X: NDArray[np.floating], label: NDArray[np.integer]) -> NDArray[np.floating]:
    """Give each row the mean of its class, (n, D)."""
    names, index = np.unique(label, return_inverse=True)
    return np.stack([X[label == one].mean(axis=0) for one in names])[index]


def _covariance(X: NDArray[np.floating], shrinkage: float) -> NDArray[np.floating]:
    covariance = np.cov(X.T, bias=True)
    return covariance + shrinkage * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
