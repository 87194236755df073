"""Both ends of the spectrum of C - λS, by λ: what they keep, and what predictors make of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from icm_study.experiments.departures import Bench, Way, benches, scatters

LARGEST, SMALLEST, RANDOM = "largest (paper)", "smallest (released)", "random"
SHUFFLED = "smallest, other pairs"
#: What is kept, by name; of the others only λ and K differ.
ENDS = {
    LARGEST: Way(),
    SMALLEST: Way(kept="smallest"),
    SHUFFLED: Way(kept="smallest", pairs="shuffled"),
    RANDOM: Way(kept="random"),
}
BALANCE = "balance"


def eigenvalue_orders(given: Mapping[str, Any]) -> pd.DataFrame:
    """Measure both ends of the spectrum at one K and several λ, by image pairs.

    Parameters
    ----------
    given : mapping of str to value
        *n_components* and *consistency_weights*, *encoder*, *seeds*, *n_images* and *cache*.

    Returns
    -------
    DataFrame
        The rows of :meth:`~icm_study.experiments.departures.Bench.measure` with the quantity
        ``"accuracy"``, and rows with ``"balance"``, whose value is :func:`balance`; all with
        target, seed and method.
    """
    rows = []
    for where, bench in benches(given):
        rows.append(where | {"quantity": BALANCE, "method": LARGEST, "value": balance(bench)})
        for weight in given["consistency_weights"]:
            for name, end in ENDS.items():
                sizes = (given["n_components"],)
                found = bench.measure(
                    replace(end, consistency_weights=(weight,), n_components=sizes)
                )
                rows += [where | {"quantity": "accuracy", "method": name} | row for row in found]
    return pd.DataFrame(rows)


def balance(bench: Bench) -> float:
    """Give the λ above which the objective is better off without what tells classes apart.

    In the span of the differences between class means, the paper's objective gains tr C by
    keeping it and pays λ tr S: it is better to drop the whole of it from tr C / tr S on.
    """
    _, between = scatters(bench.train)
    n_classes = len(np.unique(bench.train.label))
    classes = np.linalg.eigh(between)[1].T[::-1][: n_classes - 1]
    moments = bench.moments(Way())
    kept, paid = (np.trace(classes @ one @ classes.T) for one in (moments.C, moments.S))
    return float(kept / paid)
