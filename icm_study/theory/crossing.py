"""T5.6: where the risks cross, and how well the information is estimated where it is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from icm_study.embedding.tables import pairs_in
from icm_study.experiments.information import invariant_information
from icm_study.experiments.questions import open_animals
from icm_study.theory.gaussian import GaussianShortcut

TARGETS = (-0.9, 0.0, 0.2, 0.3, 0.4, 0.5, 0.9)  # strengths of the shortcut, 0.9 in the source


def run_crossing(given: Mapping[str, Any]) -> pd.DataFrame:
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


def run_estimates(
    given: Mapping[str, Any], sizes: Sequence[int] = (100, 300, 1000, 3000, 10_000)
) -> pd.DataFrame:
    """Estimate the information where it is known, and in the animal world.

    Parameters
    ----------
    given : mapping of str to value
        *encoder*, *seeds*, *n_images* and *cache*.
    sizes : sequence of int
        Numbers of pairs of the Gaussian models.

    Returns
    -------
    DataFrame
        Columns seed, world, n_pairs, truth and threshold (bits; NaN in the animal world) and
        bits, low and high. Worlds: Gaussian models by their bits, with own and with shuffled
        pairs; the animal world by the kind of its pairs.
    """
    rows = []
    for seed in given["seeds"]:
        for truth in (1.0, 2.0, 4.0, 8.0):
            model = GaussianShortcut(4, n_variant=12, target=0.0)
            X, X_do = model.pairs(model.noise(truth), max(sizes), np.random.default_rng(seed))
            for n in sizes:
                told = {"seed": seed, "n_pairs": n, "threshold": model.threshold()}
                one, other = X[:n], X_do[:n]
                rows.append(
                    told | {"world": "Gaussian", "truth": truth}
                    | invariant_information(one, other)._asdict()
                )  # fmt: skip
                shuffled = invariant_information(one, np.roll(other, 1, axis=0))
                rows.append(told | {"world": "shuffled", "truth": 0.0} | shuffled._asdict())
    for seed, _, _, data in open_animals(given):
        for kind in ("image", "oracle"):
            pairs = pairs_in(data.source, kind)
            told = {"seed": seed, "world": kind, "n_pairs": len(pairs[0])}
            rows.append(told | invariant_information(*pairs)._asdict())
    return pd.DataFrame(rows)
