"""Are a user's pairs good enough? A diagnosis from the pairs alone, in plain words."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from icm_study.embedding.tables import EmbeddedData, available, pairs_in
from icm_study.experiments.diagnosis import redrawn_share
from icm_study.experiments.information import invariant_information
from icm_study.experiments.linearity import LINEAR, NONLINEAR, linearity
from icm_study.experiments.pair_numbers import by_number_of_pairs
from icm_study.report.finding import Finding
from icm_study.report.tables import percent

SAME = 0.9  # overlap from which on two draws of pairs lead to the same subspace
LEAKY = 0.1  # share of the class that an intervention must re-draw to be worth a word
FEW = 20  # pairs below which nothing is asked of them
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
        if len(before) < FEW:
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
            f"**{kind} pairs**: two halves' subspaces overlap by {percent(means['overlap'])}, so "
            f"{len(before):,} are {'enough' if is_enough else 'too few'}; they show "
            f"{bits.bits:.1f} bits of what is invariant ({bits.low:.1f} to {bits.high:.1f})"
        )
    return Finding(pd.DataFrame(rows), "; ".join(told) + ". " + _linearity_words(data))


def diagnose_interventions(data: EmbeddedData, drawn: NDArray[np.str_]) -> Finding:
    """Ask of each image intervention what it re-draws of the domain, and whether it leaks.

    The *coverage* is the share of what can be read about the domain that an intervention re-draws,
    1 where the domain is drawn anew: only what is re-drawn can be removed. The *leak* is the
    share of the readout of the class that it re-draws, which is 0 for one that keeps what is
    invariant, as the method assumes (arXiv 2405.15289). An encoder that mixes both raises the leak
    too. The class and the domain of each image are all that is needed.

    Parameters
    ----------
    data : EmbeddedData
        Of a folder, with image pairs.
    drawn : ndarray of n str
        The image intervention that each of its n images got, see
        :attr:`~icm_study.experiments.study.Study.drawn`.

    Returns
    -------
    Finding
        Its summary has a row for each intervention: intervention, images, coverage and leak
        (shares, see :func:`~icm_study.experiments.diagnosis.redrawn_share`; NaN where the domain
        or the class cannot be read, or fewer than twenty images got it).
    """
    pairs = replace(data, source=data.source[["original", "image"]])
    shares = redrawn_share(pairs, drawn).pivot_table(
        "share", "intervention", "factor", dropna=False, sort=False
    )
    counts = pd.Series(drawn).value_counts()
    told = shares.reindex(columns=["domain", "label"]).where(counts[shares.index] >= FEW)
    told.columns = pd.Index(["coverage", "leak"])
    told = told.sort_values("coverage", ascending=False)
    summary = told.reset_index().assign(images=counts[told.index].to_numpy())
    known = told.dropna()
    if known.empty:
        words = "Leak and coverage of single interventions cannot be told here."
        return Finding(summary, words)
    most, least = known.index[0], known.index[-1]
    words = (
        f"Of the domain, `{most}` re-draws most ({percent(known['coverage'].iloc[0])}) and "
        f"`{least}` least ({percent(known['coverage'].iloc[-1])})"
    )
    leaky = known.index[known["leak"] > known["coverage"].clip(lower=LEAKY)]
    listed = ", ".join(f"`{name}` ({percent(known.loc[name, 'leak'])})" for name in leaky)
    verdict = (
        f"these change the class more than the domain, so try `interventions` without: {listed}"
        if listed
        else "none changes the class more than the domain"
    )
    return Finding(summary[["intervention", "images", "coverage", "leak"]], f"{words}; {verdict}.")


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
