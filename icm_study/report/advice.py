"""Does CLIP-ICM help on this data? An answer from leave-one-domain-out, with the doubt it leaves.

Every domain of the data plays the new one in turn, and everything that is cheap to run is
compared with the plain probe: the probe trained on augmented images, zero-shot, and the ways to
run CLIP-ICM (image, text or both interventions; K and λ chosen on intervened source images, or
without labels). The penalty of every probe is chosen on the sources in the same way; the plain
probe with the fixed one stands beside. Where no probe was run so, all have the fixed one. The
intervals of these gains hold for all at once (Bonferroni). No way that was tuned on the target
is considered.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd

from icm_study.experiments.choosing import NOT_CHOSEN
from icm_study.experiments.clusters import count_groups
from icm_study.experiments.intervals import difference_interval
from icm_study.experiments.reading import Results
from icm_study.report.claims import ways
from icm_study.report.penalties import (
    CHOSEN,
    FIXED,
    PENALTY_CHOSEN,
    PROBE,
    Side,
    with_chosen_penalty,
)

ANSWERS = {
    "helps": "On a new domain, CLIP-ICM helps this probe.",
    "does not pay": (
        "On a new domain, CLIP-ICM does not pay: the gain of this probe is at most {most:+z.1f} "
        "points."
    ),
    "cannot be told": (
        "Whether CLIP-ICM helps this probe on a new domain cannot be told from these images."
    ),
}
PLAIN = {"method": "plain", "predictor": PROBE, "choice": NOT_CHOSEN}


@dataclass(frozen=True)
class Advice:
    """What to use on a new domain, and how sure that is.

    Attributes
    ----------
    method : str
        The best way to run CLIP-ICM here, as the tables name it.
    intervention : str
        The pairs that it learns from.
    n_components, consistency_weight : int, float
        K and λ: the pair that was chosen in most runs.
    gain, low, high : float
        Gain of the probe over the plain one on an unseen domain, in percentage points, and
        its interval, see :func:`gains_over_plain_probe`.
    best : str
        The best of all that was compared, the plain probe among them.
    penalty : {"penalty chosen", "penalty fixed at C = 0.316"}
        What both probes of the gain have.
    verdict : str
        One of the keys of :data:`ANSWERS`.
    answer : str
        The verdict as a sentence, with the domains that are too small to say anything.
    """

    method: str
    intervention: str
    n_components: int
    consistency_weight: float
    gain: float
    low: float
    high: float
    best: str
    penalty: str
    verdict: str
    answer: str

    def summary(self, worth: float) -> str:
        """Say what came out, in Markdown, where a gain matters from `worth` points on."""
        return (
            f"**{self.answer}** The best way to run it is *{self.method}*, mostly with "
            f"$K = {self.n_components}$ and $\\lambda = {self.consistency_weight:g}$: it differs "
            f"from the plain probe by {self.gain:+z.1f} points ({self.low:+z.1f} to "
            f"{self.high:+z.1f}; {self.penalty}). On average the best of all that is cheap to run "
            f"is *{self.best}*. A gain matters from {worth:g} point{'s' * (worth != 1)} on."
        )


def gains_over_plain_probe(results: Results) -> pd.DataFrame:
    """Compare all that is cheap to run with the plain probe, on an unseen domain.

    Parameters
    ----------
    results : Results
        Of a folder of images.

    Returns
    -------
    DataFrame
        One row for each candidate. Columns name, method, predictor, choice, condition, value
        (percentage points), low, high, n_runs and level. The intervals are over images, or
        groups of them, and hold at 95 % for all rows at once; level is that of each.

    Raises
    ------
    ValueError
        If there is no linear probe of CLIP-ICM on an unseen domain.
    """
    unseen = results.of(condition="unseen")
    plain, ours = _reference(results)
    if not ours:
        raise ValueError(
            "The table has no linear probe of CLIP-ICM on an unseen domain; run "
            "leave-one-domain-out first."
        )
    rivals = [(method, PROBE) for method in ("plain", PENALTY_CHOSEN["plain"], "augmentation")]
    cheap = [unseen.side_of(*rival) for rival in (*rivals, ("plain", "zero-shot"))]
    sides = [side for side in (*cheap, *ours) if side and side != plain]
    level = 1 - 0.05 / len(sides)
    gains = [
        unseen.gain(side, plain, level=level).assign(name=_name(side), level=level, **side)
        for side in sides
    ]
    return pd.concat(gains, ignore_index=True)


def advise(results: Results, *, worth: float = 1.0) -> Advice:
    """Pick a way to run CLIP-ICM, and judge its gain.

    It *does not pay* where no way can gain as much as is worth the trouble; otherwise the
    best way *helps* if its whole interval is above zero. All else *cannot be told*, and
    nothing can where a domain is so small that even a gain on all of its images would be
    within chance.

    Parameters
    ----------
    results : Results
        Of a folder of images.
    worth : float
        The smallest gain that matters, in percentage points.

    Returns
    -------
    Advice

    Raises
    ------
    ValueError
        As :func:`gains_over_plain_probe`.
    """
    gains = gains_over_plain_probe(results)
    plain, _ = _reference(results)
    ours = gains[gains["method"].str.contains("ICM")]
    way, leader = (part.iloc[part["value"].argmax()] for part in (ours, gains))
    small = _too_small(results.of(condition="unseen").table, level=way["level"])
    most = ours["high"].max()
    if small:
        verdict = "cannot be told"
    elif most < worth:
        verdict = "does not pay"
    else:
        verdict = "helps" if way["low"] > 0 else "cannot be told"
    answer = ANSWERS[verdict].format(most=most)
    if small:
        answer += f" Domains with too few {results.over} to say anything: {', '.join(small)}."
    side = {name: way[name] for name in ("method", "predictor", "choice")}
    runs = results.of(condition="unseen", **side).table
    n_components, weight = runs[["K", "consistency_weight"]].value_counts(sort=True).index[0]
    return Advice(
        method=way["method"],
        intervention=json.loads(runs["setting"].iloc[0])["intervention"],
        n_components=int(n_components),
        consistency_weight=float(weight),
        gain=float(way["value"]),
        low=float(way["low"]),
        high=float(way["high"]),
        best=leader["name"] if leader["value"] > 0 else _name(plain),
        penalty=FIXED if plain == PLAIN else CHOSEN,
        verdict=verdict,
        answer=answer,
    )


def domain_sizes(results: Results) -> pd.DataFrame:
    """Count what each domain has while it is the unseen one.

    Returns
    -------
    DataFrame
        Columns target and images, and groups where images come in some.
    """
    unseen = results.of(condition="unseen").table
    tested = unseen.drop_duplicates("target").rename(columns={"n": "images"})
    if "group" in tested:
        tested = tested.assign(groups=tested["group"].map(count_groups))
    return tested[[name for name in ("target", "images", "groups") if name in tested]]


def _reference(results: Results) -> tuple[Side, list[Side]]:
    """Give the plain probe, and the ways to run CLIP-ICM, with penalties chosen for all or none."""
    unseen = results.of(condition="unseen")
    ours: list[Side] = [
        {"method": f"{method} {kind}", "predictor": PROBE, "choice": choice}
        for method, choice in ways(results.choice).values()
        for kind in results.kinds
    ]
    run = [side for side in ours if unseen.has(side)]
    chosen = [with_chosen_penalty(unseen, side) for side in (PLAIN, *run)]
    plain, *rest = [side for side in chosen if side] if all(chosen) else [PLAIN, *run]
    return plain, rest


def _name(side: Side) -> str:
    return f"{side['method']}, {side['predictor'].removeprefix('linear ')}"


def _too_small(rows: pd.DataFrame, level: float) -> list[str]:
    """Name the domains where even a gain on every image has zero in its interval."""
    if "group" in rows:
        rows = rows.assign(n=rows["group"].map(count_groups))
    n = rows.groupby("target", sort=False)["n"].min()
    low, _ = difference_interval(n, 0 * n, n, level)
    return [str(name) for name, least in zip(n.index, low, strict=True) if least <= 0]
