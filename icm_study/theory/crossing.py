"""T5.6: where the risks cross, and how well the information is estimated where it is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from icm_study.theory.gaussian import GaussianShortcut

TARGETS = (-0.9, 0.0, 0.2, 0.3, 0.4, 0.5, 0.9)  # strengths of the shortcut, 0.9 in the source


def crossing(given: Mapping[str, Any]) -> pd.DataFrame:
    """Compute both risks of Gaussian shortcut models exactly, by information and target.

    Returns
    -------
    DataFrame
        Columns n_invariant, target (strength of its shortcut), information (bits), invariant
        and standard (risks in percent), and threshold (c in bits; infinite where the invariant
        predictor never has the lower risk).
    """
    rows = []
    for n_invariant in (1, 4):
        for target in TARGETS:
            model = GaussianShortcut(n_invariant, target=target)
            threshold = model.threshold()
            for noise in np.geomspace(0.05, 20, 41):
                invariant, standard = (100 * risk for risk in model.risks(noise))
                rows.append(
                    {
                        "n_invariant": n_invariant, "target": target,
                        "information": model.information(noise), "invariant": invariant,
                        "standard": standard, "threshold": threshold,
                    }
                )  # fmt: skip
    return pd.DataFrame(rows)


def estimates(
    estimate: Callable[[NDArray, NDArray], tuple[float, float, float]],
    given: Mapping[str, Any],
    sizes: Sequence[int] = (100, 300, 1000, 3000, 10_000),
) -> pd.DataFrame:
    """Estimate the information where it is known.

    Parameters
    ----------
    estimate : callable
        From embeddings before and after an intervention to bits, with their low and high.
    given : mapping of str to value
        *seeds*.
    sizes : sequence of int
        Numbers of pairs.

    Returns
    -------
    DataFrame
        Columns seed, world ("Gaussian", or "shuffled" for the control), n_pairs, truth (bits),
        bits, low and high.
    """
    rows = []
    for seed in given["seeds"]:
        for truth in (1.0, 2.0, 4.0, 8.0):
            model = GaussianShortcut(4, n_variant=12)
            X, X_do = model.pairs(model.noise(truth), max(sizes), np.random.default_rng(seed))
            for n in sizes:
                partners = {"Gaussian": (X_do[:n], truth), "shuffled": (np.roll(X_do[:n], 1, 0), 0)}
                for world, (partner, bits) in partners.items():
                    found = dict(
                        zip(("bits", "low", "high"), estimate(X[:n], partner), strict=True)
                    )
                    rows.append(
                        {"seed": seed, "world": world, "n_pairs": n, "truth": float(bits), **found}
                    )
    return pd.DataFrame(rows)
