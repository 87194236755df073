"""How strictly must an intervention keep what is invariant? Pairs in which the animal changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from icm_study.embedding.tables import EmbeddedData
from icm_study.experiments.questions import accuracies, open_animals, projected

SAME_CLASS, ANY_ANIMAL = "another animal of its class", "any animal"
SHARES = (0.0, 0.05, 0.1, 0.2, 0.5, 1.0)


def exchanged(
    label: NDArray[np.integer], share: float, rng: np.random.Generator, *, within: bool
) -> NDArray[np.intp]:
    """Tell which row each row's partner is taken from, where some get that of another.

    Parameters
    ----------
    label : ndarray of shape (n,)
        The class of each row.
    share : float in [0, 1]
        Share of the rows that get another row's partner.
    rng : numpy.random.Generator
    within : bool
        Only among rows of one class; otherwise among all.

    Returns
    -------
    ndarray of shape (n,)
        A permutation of the rows; the others keep their own.

    Raises
    ------
    ValueError
        If the share is not in [0, 1].
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected a number in [0, 1].")
    rows = np.arange(len(label))
    for group in [rows[label == one] for one in np.unique(label)] if within else [rows]:
        chosen = rng.permutation(group)[: round(share * len(group))]
        rows[chosen] = np.roll(chosen, 1)
    return rows


def run_leaks(given: Mapping[str, Any], shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Dial up the share of the oracle's pairs that show another animal.

    Parameters
    ----------
    given : mapping of str to value
        *encoder*, *seeds*, *n_images* and *cache*.
    shares : sequence of float

    Returns
    -------
    DataFrame
        Columns seed, shown (which animals are; "none" is the plain embedding), share, K,
        and the accuracies in_distribution, unseen and reversed of a probe behind ICM.
    """
    rows = []
    for seed, _, _, data in open_animals(given):
        rows.append({"seed": seed, "shown": "none", "share": 0.0, **accuracies(data)})
        for leak in (SAME_CLASS, ANY_ANIMAL):
            for share in shares:
                leaky = _leaky(data, share, seed, within=leak == SAME_CLASS)
                got = accuracies(leaky, projected("oracle"))
                rows.append({"seed": seed, "shown": leak, "share": share, **got})
    return pd.DataFrame(rows)


def _leaky(data: EmbeddedData, share: float, seed: int, *, within: bool) -> EmbeddedData:
    """Let some rows have the oracle's copy, and its style, of another row."""
    label = data.source["label"].to_numpy()
    order = exchanged(label, share, np.random.default_rng([seed, 5]), within=within)
    copies = data.source[["oracle", "oracle_domain"]].isel(row=order)
    oracle = ("row", copies["oracle_domain"].to_numpy())
    source = data.source.assign(oracle=(("row", "feature"), copies["oracle"].to_numpy()))
    return replace(data, source=source.assign_coords(oracle_domain=oracle))
