"""A Gaussian shortcut in which information and both risks are known in closed form (T5.6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr
from scipy.stats import norm

_NODES = np.linspace(-9, 9, 4001)  # of the integral over a standard normal


@dataclass(frozen=True)
class GaussianShortcut:
    """Invariant factors seen through noise, beside a shortcut that the environment shifts.

    ``z_inv ~ N(0, I)``; ``y = ±1`` is the sign of ``w z_inv + τ ε``, with w a unit vector; the
    representation holds ``z_inv + σ ε``, and the shortcut ``ρ y + √(1 - ρ²) ε`` with the
    strength ρ of its environment. The noise σ says how much of z_inv is left.

    Attributes
    ----------
    n_invariant : int
        Invariant factors; only one direction of them tells the label.
    n_variant : int
        Variant factors of :meth:`pairs`, standard normal.
    source, target : float in (-1, 1)
        Strengths of the shortcut.
    label_noise : float
        τ.
    """

    n_invariant: int = 1
    n_variant: int = 1
    source: float = 0.9
    target: float = 0.0
    label_noise: float = 0.5

    def information(self, noise: float) -> float:
        """``I(Z_inv; Z)`` in bits, ``k/2 log2(1 + 1/σ²)``."""
        return 0.5 * self.n_invariant * float(np.log2(1 + 1 / noise**2))

    def noise(self, information: float) -> float:
        """Give the noise σ that leaves so many bits."""
        return float(1 / np.sqrt(2 ** (2 * information / self.n_invariant) - 1))

    def risks(self, noise: float) -> tuple[float, float]:
        """Give the risks in the target of the predictors that are best in the source.

        Returns
        -------
        (invariant, standard) : floats in [0, 1]
            Of the one that sees z_inv through its noise, and of the one that sees the
            shortcut too.
        """
        r = 1 / np.sqrt((1 + self.label_noise**2) * (1 + noise**2))
        slope = r / np.sqrt(1 - r**2)
        positive, weight = norm.cdf(slope * _NODES), norm.pdf(_NODES)
        log_odds = log_ndtr(slope * _NODES) - log_ndtr(-slope * _NODES)
        bound = -log_odds * (1 - self.source**2) / (2 * self.source)  # of the shortcut
        spread = np.sqrt(1 - self.target**2)
        missed = positive * norm.cdf((bound - self.target) / spread)
        wrong = missed + (1 - positive) * norm.sf((bound + self.target) / spread)
        return float(np.arccos(r) / np.pi), float(np.trapezoid(weight * wrong, _NODES))

    def threshold(self) -> float:
        """Find c: with more bits the invariant predictor has the lower risk.

        Returns
        -------
        float
            Bits; 0 where it always has, infinite where it never has.
        """

        def ahead(information: float) -> float:
            invariant, standard = self.risks(self.noise(information))
            return standard - invariant

        low, high = (self.n_invariant * bits for bits in (1e-4, 12.0))
        if ahead(high) <= 0:
            return float("inf")
        return 0.0 if ahead(low) >= 0 else float(brentq(ahead, low, high))

    def pairs(
        self, noise: float, n: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw embeddings, and what they become when all but z_inv is drawn anew.

        Returns
        -------
        X, X_do : ndarray of shape (n, n_invariant + n_variant)
            Mixed by one random invertible map.
        """
        size = self.n_invariant + self.n_variant
        mixing = rng.normal(size=(size, size))
        z = rng.normal(size=(n, self.n_invariant))
        seen = [
            np.hstack([z + noise * rng.normal(size=z.shape), rng.normal(size=(n, self.n_variant))])
            for _ in range(2)
        ]
        return seen[0] @ mixing.T, seen[1] @ mixing.T
