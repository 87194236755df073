"""Whether image and text interventions together do better than either, from a recorded comparison.

Nothing is run: the comparison of all methods has measured it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from icm_study.experiments.choosing import NOT_CHOSEN
from icm_study.experiments.intervals import contrast
from icm_study.experiments.record import read_run

#: How K and λ were set -> the methods' names, and the choice in the table.
WAYS = {
    "chosen by unseen interventions": ("ICM {}", "unseen intervention"),
    "chosen on a left-out domain": ("ICM {}", "left-out domain"),
    "λ = 1, K = positive eigenvalues": ("ICM auto {}", NOT_CHOSEN),
    "held-out rule": ("ICM held-out {}", NOT_CHOSEN),
}
#: The ways that are judged: one that looks at labels of the sources, and one that looks at none.
JUDGED = ("chosen by unseen interventions", "held-out rule")
BOTH, ALONE = "image+text", ("image", "text")


def combination(given: Mapping[str, Any]) -> pd.DataFrame:
    """Compare both kinds of pairs with each alone, run by run.

    Parameters
    ----------
    given : mapping of str to value
        *comparison*, the path of a table of 06_methods.

    Returns
    -------
    DataFrame
        Columns way (how K and λ were set), alone ("image" or "text"), predictor, condition,
        value (percentage points in favour of both), low, high (95 % over the seeds), n_runs.

    Raises
    ------
    ValueError
        If the table is none of 06_methods, or lacks one of these methods.
    """
    table = read_run(given["comparison"], "06_methods")
    parts = []
    for way, (name, choice) in WAYS.items():
        runs = table[table["choice"] == choice]
        for kind in ALONE:
            gains = contrast(
                runs, {"method": name.format(BOTH)}, {"method": name.format(kind)},
                ["predictor", "condition"],
            )  # fmt: skip
            parts.append(gains.assign(way=way, alone=kind).drop(columns=["side", "against"]))
    return pd.concat(parts, ignore_index=True)
