"""What came out of each open question about identifiability and data: words and claims."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import spearmanr

from icm_study.experiments.coverage import BACKGROUND, BOTH, COLOURS, ORACLE, SEVEN, run_coverage
from icm_study.experiments.information import invariant_information, run_information
from icm_study.experiments.intervals import mean_interval
from icm_study.experiments.leakage import ANY_ANIMAL, SAME_CLASS, run_leaks
from icm_study.experiments.linearity import (
    ALL,
    LINEAR,
    NONLINEAR,
    PAIRS,
    SHUFFLED,
    run_linearity,
)  # fmt: skip
from icm_study.experiments.pair_numbers import (
    GAP,
    HELD_OUT,
    RULES,
    run_animal_pairs,
    run_stability,
)  # fmt: skip
from icm_study.experiments.questions import Experiment
from icm_study.experiments.small_encoders import AS_SHIPPED, NARROWED, TRAINED, run_encoders
from icm_study.report.finding import Finding
from icm_study.report.gains import beyond
from icm_study.report.tables import percent
from icm_study.report.verdicts import claim, judge
from icm_study.theory import crossing as gaussian
from icm_study.theory.few_pairs import KNOWN, few_pairs
from icm_study.theory.gaussian import GaussianShortcut

POINTS = " points"

#: The experiments of the notebook, by name; each takes its parameters.
EXPERIMENTS: dict[str, Experiment] = {
    "linearity": run_linearity,
    "leaks": run_leaks,
    "coverage": run_coverage,
    "linear_pairs": partial(few_pairs, RULES),
    "animal_pairs": run_animal_pairs,
    "stability": run_stability,
    "crossing": gaussian.crossing,
    "estimates": partial(gaussian.estimates, invariant_information),
    "information": run_information,
    "encoders": run_encoders,
}
#: The heading of each question's section, by its finding.
SECTIONS = {
    "linearity": "Is the embedding linear in the factors?",
    "leaks": "How strictly must interventions keep the animal?",
    "coverage": "Which intervention leaks, and which covers?",
    "linear_pairs": "How many pairs are enough?",
    "animal_pairs": "Which rule for K and λ, in the animal world?",
    "crossing": "When is there information enough?",
    "estimates": "Can a user measure it?",
    "encoders": "Does the method survive a small encoder?",
}
LINEAR_MODELS, GAUSSIAN_MODEL = "linear models", "Gaussian model"  # beside the animal world
SHOWN_LEAK = 0.1  # the share of leaking pairs that is told
IDENTIFIED = 0.5  # R² from which on the embedding counts as a linear map of the factors


def find(runs: Mapping[str, pd.DataFrame]) -> dict[str, Finding]:
    """Say what came out of each question."""
    return {
        "linearity": linearity(runs["linearity"]),
        "leaks": leaks(runs["leaks"]),
        "coverage": coverage(runs["coverage"]),
        "linear_pairs": linear_pairs(runs["linear_pairs"]),
        "animal_pairs": animal_pairs(runs["animal_pairs"]),
        "crossing": crossing(runs["crossing"]),
        "estimates": estimates(runs["estimates"], runs["information"]),
        "encoders": encoders(runs["encoders"]),
    }


def linearity(runs: pd.DataFrame) -> Finding:
    """Q1: R² both ways; a summary by what is kept, way, factor and reading."""
    summary = mean_interval(runs, ["kept", "way", "factor", "reading"], "r2")
    whole = runs[runs["kept"] == "everything"]
    main, pairs, shuffled = (_over_seeds(whole, factor=name) for name in (ALL, PAIRS, SHUFFLED))
    back = whole[whole["way"] == "factor from embedding"]
    linear, curved = (
        back[back["reading"] == one].groupby("seed")["r2"].mean() for one in (LINEAR, NONLINEAR)
    )
    gain = _interval((curved - linear).to_numpy())
    how = "Mostly" if main["low"] > IDENTIFIED else "Partly"
    words = (
        f"{how}: known factors explain {_said(main)} of the embedding's variance by main effects "
        f"and {_said(pairs)} with their pairs; a nonlinear reading of the factors gains "
        f"{_said(gain)} in R² over a linear one."
    )
    claims = [
        _claim("P5.3, linearity", "main effects of the known factors explain most of the embedding",
               main, above=IDENTIFIED),
        _claim("P5.3, linearity", "a nonlinear reading of the factors gains R²", gain, above=0.0),
        _claim("Control", "shuffled factors explain nothing", shuffled, below=0.05),
    ]  # fmt: skip
    return Finding(summary, words, claims)


def leaks(runs: pd.DataFrame) -> Finding:
    """Q2: accuracy with the shortcut reversed by the share of leaking pairs."""
    plain = runs[runs["shown"] == "none"].set_index("seed")["reversed"]
    own = runs[runs["shown"] != "none"]
    own = own.assign(gain=own["reversed"] - own["seed"].map(plain))
    summary = mean_interval(own, ["shown", "share"], "gain").assign(value="gain")
    clean, some, same, all_of_it = (
        _over_seeds(own, "gain", shown=leak, share=share)
        for leak, share in (
            (ANY_ANIMAL, 0.0), (ANY_ANIMAL, SHOWN_LEAK), (SAME_CLASS, 1.0), (ANY_ANIMAL, 1.0),
        )
    )  # fmt: skip
    words = (
        f"With the shortcut reversed ICM gains {_points(clean)} points from clean pairs, "
        f"{_points(some)} with any other animal in {percent(SHOWN_LEAK)} of them, and "
        f"{_points(same)} where every pair shows another animal of its class."
    )
    claims = [
        _claim("Leak", f"ICM gains with {percent(SHOWN_LEAK)} of leaking pairs, shortcut reversed",
               some, above=0.0, unit=POINTS),
        _claim("Leak", "pairs of two animals of one class do as well as no pairs at all, or better",
               same, above=0.0, unit=POINTS),
        _claim("Control", "pairs of any two animals gain nothing", all_of_it, below=1.0,
               unit=POINTS),
    ]  # fmt: skip
    return Finding(summary, words, claims)


def coverage(runs: pd.DataFrame) -> Finding:
    """Q2: leak and coverage of each intervention; a summary with gains."""
    plain = runs[runs["intervention"] == "none"].set_index("seed")
    own = runs[runs["intervention"] != "none"]
    own = own.assign(
        **{name: own[name] - own["seed"].map(plain[name]) for name in ("unseen", "reversed")}
    )
    columns = ["leak", "coverage", "scene", "unseen", "reversed", "K"]
    long = own.melt(["seed", "intervention"], columns, var_name="quantity")
    summary = mean_interval(long, ["intervention", "quantity"], "value")
    means = own.groupby("intervention", sort=False)[columns].mean()
    seven = means.drop([SEVEN, BACKGROUND, COLOURS, BOTH, ORACLE])
    leaking, covering = (str(seven[name].idxmax()) for name in ("leak", "coverage"))
    leak = _over_seeds(own, "leak", intervention=leaking)
    cover = _over_seeds(own, "coverage", intervention=covering)
    scene, mixed = (_over_seeds(own, "scene", intervention=one) for one in (BACKGROUND, SEVEN))
    words = (
        f"{_name(leaking)} leaks most ({_said(leak)} of the class), {_name(covering).lower()} "
        f"covers most ({_said(cover)} of the variant factors). A background swap re-draws "
        f"{_said(scene)} of the scene; the seven {_said(mixed)}."
    )
    by_seed = own.set_index("seed")
    both, seven_gain = (
        by_seed[by_seed["intervention"] == one]["reversed"] for one in (BOTH, SEVEN)
    )
    more = _interval((both - seven_gain).to_numpy())
    claims = [
        _claim("Coverage", "a background swap before the seven gains over the seven alone, "
               "shortcut reversed", more, above=0.0, unit=POINTS),
        _claim("Coverage", "the seven re-draw the scene by half or more", mixed, above=0.5),
    ]  # fmt: skip
    return Finding(summary, words, claims)


def linear_pairs(runs: pd.DataFrame) -> Finding:
    """Q4: what is lost to few pairs on linear models; the loss by pairs a dimension."""
    keys = ["seed", "dimension"]
    known = runs[runs["rule"] == KNOWN].set_index(keys)["reversed"]
    own = runs[runs["n_pairs"] > 0].join(known.rename("known"), on=keys)
    own = own.assign(lost=own["known"] - own["reversed"])
    own["per_dimension"] = own["n_pairs"] / own["dimension"]
    summary = mean_interval(own, ["rule", "dimension", "per_dimension", "n_pairs"], "lost")
    gap = summary[summary["rule"] == GAP]
    enough: dict[str, list[str]] = {}
    for dimension, part in gap.groupby("dimension"):
        enough.setdefault(_first(part["n_pairs"], part["mean"] <= 1), []).append(str(dimension))
    told = [f"{number} (D = {', '.join(sizes)})" for number, sizes in enough.items()]
    most = own[own["n_pairs"] == own["n_pairs"].max()]
    held, by_gap = (_over_seeds(most, "lost", rule=rule) for rule in (HELD_OUT, GAP))
    weight = most.loc[most["rule"] == HELD_OUT, "consistency_weight"].median()
    words = (
        f"By the gap at most a point is lost from {', '.join(told)}; the held-out rule loses "
        f"{_points(held, signed=False)} points with {most['n_pairs'].iloc[0]:,} pairs, its λ then "
        f"{weight:.2g}."
    )
    few = own[own["n_pairs"] == own["n_pairs"].min()]
    claims = [
        _claim("K and λ", "with the most pairs λ by the gap loses at most one point", by_gap,
               below=1.0, unit=POINTS, where=LINEAR_MODELS),
        _claim("K and λ", "with the most pairs the held-out rule loses at most one point", held,
               below=1.0, unit=POINTS, where=LINEAR_MODELS),
        _claim("Control", "with the fewest pairs every rule loses more than one point",
               _over_seeds(few, "lost"), above=1.0, unit=POINTS, where=LINEAR_MODELS),
    ]  # fmt: skip
    return Finding(summary, words, claims)


def animal_pairs(runs: pd.DataFrame) -> Finding:
    """Q4: gains over the plain probe by rule and number of pairs, shortcut reversed."""
    plain = runs[runs["pairs"] == "none"].set_index("seed")["reversed"]
    own = runs[runs["pairs"] != "none"]
    own = own.assign(gain=own["reversed"] - own["seed"].map(plain))
    summary = mean_interval(own, ["pairs", "rule", "n_pairs"], "gain")
    kept = mean_interval(own, ["pairs", "rule", "n_pairs"], "K")
    summary = summary.assign(K=kept["mean"])
    most = own["n_pairs"].max()
    rules = list(dict.fromkeys(own["rule"]))
    told = [
        f"{rule} {_points(_over_seeds(own, 'gain', pairs='image', n_pairs=most, rule=rule))}"
        for rule in rules
    ]
    words = f"From all image pairs, with the shortcut reversed, the gains are: {'; '.join(told)}."
    few = _over_seeds(own, "gain", pairs="image", n_pairs=100, rule=HELD_OUT)
    return Finding(
        summary, words,
        [_claim("K and λ", "the held-out rule gains from 100 image pairs, shortcut reversed", few,
                above=0.0, unit=POINTS)],
    )  # fmt: skip


def crossing(runs: pd.DataFrame) -> Finding:
    """Q7: c in bits by the target's shortcut; exact."""
    summary = runs.drop_duplicates(["n_invariant", "target"])[
        ["n_invariant", "target", "threshold"]
    ]
    one = summary[summary["n_invariant"] == 1].set_index("target")["threshold"]
    inside = one[(one > 0) & np.isfinite(one)]
    always, never = one[one == 0].index.max(), one[np.isinf(one)].index.min()
    words = (
        f"Exact: with a shortcut of {GaussianShortcut.source:g} in the source, c is zero up to a "
        f"target strength of {always:g}, rises to {inside.max():.2f} bits at {inside.idxmax():g}, "
        f"and is infinite at {never:g}: the smaller the shift, the more bits are asked."
    )
    measured = f"{np.isfinite(one).sum()} of {len(one)} targets, exact"
    verdict = "supported" if np.isfinite(one).all() else "refuted"
    statement = "c is finite whatever the target (Gaussian shortcut, one invariant factor)"
    return Finding(summary, words, [claim("T5.6, scope", statement, measured, "all", verdict)])


def estimates(runs: pd.DataFrame, animals: pd.DataFrame) -> Finding:
    """Q7: estimated against true bits; a summary of the error by truth and pairs."""
    own = runs[runs["world"] == "Gaussian"]
    own = own.assign(error=own["bits"] - own["truth"])
    summary = mean_interval(own, ["truth", "n_pairs"], "bits")
    most = own[own["n_pairs"] == 1000]
    error = _interval(most.groupby("seed")["error"].mean().to_numpy())
    shuffled = runs[(runs["world"] == "shuffled") & (runs["n_pairs"] == 1000)]
    nothing = _interval(shuffled.groupby("seed")["bits"].mean().to_numpy())
    animal = {kind: _over_seeds(animals, "bits", pairs=kind) for kind in ("oracle", "image")}
    words = (
        f"From 1,000 pairs the estimate errs by {_said(error)} bits on average (truth 1 to 8). In "
        f"the animal world it gives {_said(animal['oracle'], 1)} bits from the oracle, "
        f"{_said(animal['image'], 1)} from image pairs: what pairs do not cover counts too."
    )
    return Finding(
        summary, words,
        [
            _claim("Estimator", "1,000 pairs give bits at most 0.5 too many", error, below=0.5,
                   unit=" bits", where=GAUSSIAN_MODEL),
            _claim("Estimator", "1,000 pairs give bits at most 0.5 too few", error, above=-0.5,
                   unit=" bits", where=GAUSSIAN_MODEL),
            _claim("Control", "shuffled pairs hold no information", nothing, below=0.1,
                   unit=" bits", where=GAUSSIAN_MODEL),
        ],
    )  # fmt: skip


def encoders(runs: pd.DataFrame) -> Finding:
    """Q9: gains of ICM by what the encoder identifies."""
    own = runs.assign(
        gain=runs["image_reversed"] - runs["plain_reversed"],
        oracle_gain=runs["oracle_reversed"] - runs["plain_reversed"],
    )
    usual = own[own["kind"] != TRAINED]
    means = own.groupby(["kind", "encoder", "width"], sort=False).mean(numeric_only=True)
    drawn = [
        spearmanr(part["r2_class"], part["oracle_gain"]).statistic
        for _, part in usual.groupby("seed")
    ]
    rho = _interval(np.array(drawn))
    rho[["low", "high"]] = rho[["low", "high"]].clip(-1, 1)  # as correlations are
    narrow = usual[usual["kind"] == NARROWED]
    least = narrow[narrow["width"] == narrow["width"].min()]
    lost = _interval(least.set_index("seed")["oracle_gain"].to_numpy())
    full = usual[(usual["kind"] == AS_SHIPPED) & (usual["encoder"] == "animal-world")]
    gained = _interval(full.set_index("seed")["oracle_gain"].to_numpy())
    brief = own[own["kind"] == TRAINED]
    words = (
        f"The oracle's gain is {_points(gained)} points at full width and "
        f"{_points(lost)} at width {narrow['width'].min()}; over widths "
        f"gain and class R² have a rank correlation of {_said(rho)}. Briefly trained encoders "
        f"read the class with R² = {brief['r2_class'].max():.2f} at most."
    )
    return Finding(
        means.reset_index(), words,
        [
            _claim("Small encoders", "ICM gains more where the class is identified better (rank "
                   "correlation over widths, oracle)", rho, above=0.0),
            _claim("Small encoders", f"ICM from the oracle gains at width {narrow['width'].min()}",
                   lost, above=0.0, unit=POINTS),
        ],
    )  # fmt: skip


def _interval(values: ArrayLike) -> pd.Series:
    table = pd.DataFrame({"all": 0, "value": np.asarray(values, dtype=float)})
    return mean_interval(table, ["all"], "value").iloc[0]


def _over_seeds(runs: pd.DataFrame, value: str = "r2", **where: object) -> pd.Series:
    chosen = runs[(runs[list(where)] == pd.Series(where)).all(axis=1)] if where else runs
    return _interval(chosen.groupby("seed")[value].mean().to_numpy())


def _first(numbers: pd.Series, reached: pd.Series) -> str:
    """Give the first number from which on all have reached something."""
    is_enough = reached[::-1].cummin()[::-1]
    return f"{numbers[is_enough].min():,} pairs" if is_enough.any() else "more than were tried"


def _said(row: pd.Series, digits: int = 2) -> str:
    if np.isnan(row["low"]):
        return f"{row['mean']:z.{digits}f}"
    return f"{row['mean']:z.{digits}f} ({row['low']:z.{digits}f} to {row['high']:z.{digits}f})"


def _points(row: pd.Series, *, signed: bool = True) -> str:
    sign = "+" if signed else ""
    return f"{row['mean']:{sign}z.1f} ({row['low']:{sign}z.1f} to {row['high']:{sign}z.1f})"


def _name(intervention: str) -> str:
    return intervention.replace("_", " ").capitalize()


def _claim(
    name: str, statement: str, row: pd.Series, *, above: float | None = None,
    below: float | None = None, unit: str = "", where: str = "animal world",
) -> dict[str, Any]:  # fmt: skip
    verdict = judge(row["low"], row["high"], above=above, below=below)
    threshold = {"above": above} if above is not None else {"below": below}
    ((side, limit),) = threshold.items()
    said = claim(f"{name} ({where})", statement, _said(row) + unit, f"{side} {limit:g}{unit}",
                 verdict)  # fmt: skip
    if unit != POINTS:
        return dict(said)
    return {**said, **beyond(*row[["mean", "low", "high"]], **threshold)}
