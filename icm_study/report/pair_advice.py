"""Are a user's pairs good enough? A diagnosis from the pairs alone, in plain words."""

from __future__ import annotations

import numpy as np
import pandas as pd

from icm_study.embedding.tables import EmbeddedData, available, pairs_in
from icm_study.experiments.information import invariant_information
from icm_study.experiments.linearity import LINEAR, NONLINEAR, linearity
from icm_study.experiments.pair_numbers import by_number_of_pairs
from icm_study.report.finding import Finding

SAME = 0.9  # overlap from which on two draws of pairs lead to the same subspace
CURVED = 0.1  # R² that a nonlinear reading must gain to be worth a word


def diagnose_pairs(data: EmbeddedData) -> Finding:
    """Ask whether there are pairs enough, what is invariant in them, and whether maps are linear.

    Parameters
    ----------
    data : EmbeddedData
        Of a folder, with every pair that the projection is estimated from.

    Returns
    -------
    Finding
        Its summary has a row for each kind of pairs: intervention, pairs, K, overlap and share
        (of two halves, see
        :func:`~icm_study.experiments.pair_numbers.by_number_of_pairs`), and bits, their low and
        high (see :func:`~icm_study.experiments.information.invariant_information`).
    """
    table = data.source if data.pairs is None else data.pairs
    rows, told = [], []
    for kind in sorted({"image", "text"} & set(available(table))):
        before, after = pairs_in(table, kind)
        changed = (before != after).any(axis=1)
        before, after = before[changed], after[changed]
        if len(before) < 20:
            told.append(f"**{kind} pairs**: {len(before)} that change anything, too few to ask")
            continue
        half = len(before) // 2
        found = by_number_of_pairs(before, after, (half,), n_draws=3)
        means = found[["K", "overlap", "share"]].mean().to_dict()
        bits = invariant_information(before, after)
        row = {"intervention": kind, "pairs": len(before), **bits._asdict()}
        rows.append(row | {str(name): value for name, value in means.items()})
        is_enough = means["overlap"] >= SAME
        told.append(
            f"**{kind} pairs**: two halves' subspaces overlap by {means['overlap']:.0%}, so "
            f"{len(before):,} are {'enough' if is_enough else 'too few'}"
        )
    return Finding(pd.DataFrame(rows), "; ".join(told) + ". " + _linearity_words(data))


def _linearity_words(data: EmbeddedData) -> str:
    """Say whether class and domain are read better by a curved map than by a linear one."""
    known = {"class": "label", "domain": "domain"}
    factors = {
        said: data.source[name].to_numpy()
        for said, name in known.items()
        if len(np.unique(data.source[name])) > 1
    }
    read = linearity(data.source["original"].to_numpy(), factors)
    back = read[read["way"] == "factor from embedding"]
    r2 = back.pivot_table("r2", "factor", "reading")
    listed = ", ".join(
        f"{factor} {row[LINEAR]:.2f} ({row[NONLINEAR]:.2f})" for factor, row in r2.iterrows()
    )
    curved = r2.index[r2[NONLINEAR] - r2[LINEAR] > CURVED]
    verdict = f"linear misses {' and '.join(curved)}" if len(curved) else "linear will do"
    return f"R² of linear (nonlinear) readings: {listed}: {verdict}."
