"""What came out of the experiments on theory: what figures show, verdicts, and words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from icm_study.experiments.intervals import mean_interval
from icm_study.report.finding import Finding
from icm_study.report.tables import percent, with_interval
from icm_study.report.verdicts import claim, judge
from icm_study.theory.discrete import information_threshold
from icm_study.theory.propositions import METHODS, N_FACTORS, SOURCE, VOCABULARIES

#: Experiment with claims -> heading of its section.
SECTIONS = {
    "invariance": "P5.1: which distributions are the same everywhere?",
    "identifiability": "C5.2 and P5.3: is the embedding linear in the factors?",
    "consistency": "P5.5: does a map exist that interventions leave alone?",
    "ood_risk": "T5.6: when is the invariant predictor the better one?",
    "random_ood_risk": "T5.6: when is the invariant predictor the better one?",
    "methods": "Largest or smallest eigenvalues?",
    "solvers": "Largest or smallest eigenvalues?",
    "weight": "The weight λ",
    "size": "How many directions, without labels?",
}


def find(runs: Mapping[str, pd.DataFrame], given: Mapping[str, Any]) -> dict[str, Finding]:
    """Say of each experiment what came out.

    Parameters
    ----------
    runs : mapping of str to DataFrame
        As :func:`~icm_study.theory.propositions.run_experiments` gives them.
    given : mapping of str to value
        The parameters that they were run with.

    Returns
    -------
    dict of str to Finding
    """
    return {name: FINDERS[name](table, given) for name, table in runs.items()}


def invariance(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """P5.1: which distributions are the same everywhere; a summary of medians."""
    by_quantity = runs.groupby(["world", "quantity"], sort=False)["change"]
    worst = by_quantity.max()
    quantities = ("P(y | do(z_inv))", "P(y | do(z_inv, z_var))", "P(y | z_inv, z_var)")
    do_inv, do_both, see_both = (worst["shortcut", quantity] for quantity in quantities)
    seen = runs.query("world == 'shortcut' and quantity == 'P(y | z_inv, z_var)'")
    changed = (seen["change"] > 1e-9).mean()
    elsewhere = worst["cause", "P(y | do(z_inv))"]
    wide = worst.unstack()
    kept = wide["P(y | do(z_inv))"] < 1e-9
    halves = (kept & (wide["P(y | do(z_inv, z_var))"] > 1e-9)).sum()
    exact = f"over {given['n_models']} models, exact"
    return Finding(
        by_quantity.median().reset_index(),
        f"In the shortcut world $P(y \\mid do(z_{{inv}}))$ changes by at most {do_inv:.1g}; with "
        f"both factors set by intervention by {do_both:.1g}, with both *observed* in "
        f"{percent(changed)} of the models. The proposition's two halves hold together "
        f"in {halves} of the {len(kept)} worlds.",
        [
            claim(
                "P5.1",
                "P(y | do(z_inv)) is the same in every environment (shortcut world)",
                f"largest change {do_inv:.1g} {exact}",
                "below 1e-9",
                _if(do_inv < 1e-9),
            ),
            claim(
                "P5.1",
                "P(y | do(z_inv, z_var)), with both set by intervention, changes (shortcut world)",
                f"largest change {do_both:.1g} {exact}",
                "above 1e-9",
                _if(do_both > 1e-9),
            ),
            claim(
                "P5.1",
                "P(y | z_inv, z_var), with both observed, changes (shortcut world)",
                f"changes in {percent(changed)} of models, by up to {see_both:.2f}, {exact}",
                "in every model",
                _if(changed == 1),
            ),
            claim(
                "P5.1, scope",
                "P(y | do(z_inv)) is not the same everywhere if z_var is a cause of y",
                f"changes by up to {elsewhere:.2f} {exact}",
                "above 1e-9",
                _if(elsewhere > 1e-9),
            ),
        ],
    )


def identifiability(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """C5.2 and P5.3: is the embedding linear in the factors; a summary by curve and n_texts."""
    by = ["curve", "n_texts"]
    image = mean_interval(runs.assign(curve="the image itself"), by, "r2_image")
    explained = pd.concat(
        [mean_interval(runs.rename(columns={"setting": "curve"}), by, "r2"), image]
    )
    most = max(VOCABULARIES)
    enough, fewer = (
        _row(explained, curve="diverse texts", n_texts=n) for n in (N_FACTORS + 1, N_FACTORS)
    )
    plane = _row(explained, curve="texts in a plane", n_texts=most)
    single = _row(explained, curve="diverse texts, one caption each", n_texts=most)
    at_limit = runs[(runs["setting"] == "diverse texts") & (runs["n_texts"] == N_FACTORS + 1)]
    condition = _over_all(at_limit, "condition_number", log=True)
    name = "C5.2, P5.3"
    return Finding(
        explained,
        f"In the limit $R^2$ is {with_interval(enough)} with {N_FACTORS + 1} diverse texts "
        f"($A$ has condition number {condition['mean']:.3g}), {with_interval(fewer)} with "
        f"{N_FACTORS}, {with_interval(plane)} with {most} in a plane; with {most} texts and one "
        f"caption an image it is {with_interval(single)}.",
        [
            claim(
                name,
                f"D + 1 = {N_FACTORS + 1} diverse texts identify z up to a linear map, in the "
                "limit",
                f"R² {with_interval(enough)}",
                "R² above 0.99",
                judge(enough["low"], enough["high"], above=0.99),
            ),
            claim(
                name,
                f"Fewer do not: {N_FACTORS} texts leave a direction out",
                f"R² {with_interval(fewer)}",
                "R² below 0.99",
                judge(fewer["low"], fewer["high"], below=0.99),
            ),
            claim(
                name,
                "Diversity is needed: many texts in a plane do not identify z",
                f"R² {with_interval(plane)} with {most} texts",
                "R² below 0.99",
                judge(plane["low"], plane["high"], below=0.99),
            ),
        ],
    )


def consistency(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """P5.5: a map that interventions leave alone; a summary by quantity and method."""
    left = mean_interval(runs, ["method"], "residual", log=True)
    read = mean_interval(runs, ["method"], "r2")
    names = ("true subspace", METHODS["trace"])
    true, paper = (_row(left, method=name) for name in names)
    true_r2, paper_r2 = (_row(read, method=name) for name in names)
    random, released = (
        _row(left, method=name) for name in ("random subspace", METHODS["released"])
    )
    exists = runs[runs["method"] == "true subspace"]
    holds = exists["residual"].max() < 1e-20 and exists["r2"].min() > 0.999
    return Finding(
        pd.concat({"residual": left, "r2": read}, names=["quantity"]).reset_index("quantity"),
        f"Of the second moment the true subspace leaves {true['mean']:.1g} ($R^2$ "
        f"{true_r2['mean']:.3f}), the paper's objective {with_interval(paper)} ($R^2$ "
        f"{paper_r2['mean']:.3g}), a random subspace {with_interval(random)}, the released code's "
        f"choice {with_interval(released)}.",
        [
            claim(
                "P5.5",
                "A map exists that sends the differences to zero and keeps z_inv",
                f"residual {true['mean']:.1g}, R² {true_r2['mean']:.3f}",
                "residual below 1e-20, R² above 0.999",
                _if(holds),
            ),
            claim(
                "P5.5",
                f"It is found from {given['n_pairs']} pairs, up to 1 % of the second moment",
                f"residual {with_interval(paper)}, R² {with_interval(paper_r2)}",
                "residual below 0.01",
                judge(paper["low"], paper["high"], below=0.01),
            ),
        ],
    )


def ood_risk(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """T5.6: when the invariant predictor is the better one; a summary of thresholds."""
    thresholds = {
        target: information_threshold(runs[runs["target"] == target])
        for target in runs["target"].unique()
    }
    finite = {target: c for target, c in thresholds.items() if target < SOURCE}
    listed = ", ".join(f"{c:.2f} bits at ρ = {target}" for target, c in finite.items())
    unshifted = thresholds[SOURCE]
    without = "there is none" if np.isinf(unshifted) else f"it is {unshifted:.2f} bits"
    return Finding(
        pd.DataFrame({"target": thresholds.keys(), "threshold": thresholds.values()}),
        f"The thresholds are {listed}; without a shift {without}.",
        [
            claim(
                "T5.6",
                f"For a given shift of the shortcut below the source's {SOURCE} there is a "
                "threshold c",
                f"c = {listed}",
                "a finite c for every shift",
                _if(np.isfinite(list(finite.values())).all()),
            ),
            claim(
                "T5.6, scope",
                "Without a shift, no amount of information makes the invariant predictor the "
                "better one",
                "no c" if np.isinf(unshifted) else f"c = {unshifted:.2f} bits",
                "no finite c",
                _if(np.isinf(unshifted)),
            ),
        ],
    )


def random_ood_risk(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """T5.6 in random worlds; a summary with the risk saved by invariance, in points."""
    gain = 100 * (runs["standard"] - runs["invariant"])
    worse = gain < -1e-9
    rich = runs["information"] >= runs["information"].quantile(0.9)
    share = worse[rich].mean()
    return Finding(
        runs.assign(gain=gain, is_worse=worse),
        f"Among {len(runs)} random worlds, the standard predictor has the lower risk in "
        f"{percent(worse.mean())}, and in {percent(share)} of the tenth with the highest "
        "$I(Z_{inv}; Z)$.",
        [
            claim(
                "T5.6, scope",
                "No one c serves all shortcut worlds: much information is not enough",
                f"standard better in {worse[rich].sum()} of {rich.sum()} worlds (the tenth with "
                "the highest I)",
                "in some",
                _if(share > 0, "not shown"),
            )
        ],
    )


def methods(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """Judge the objectives by the angle to the truth; a summary by method."""
    angles = _angles(runs, "method")
    paper, general, released = (_row(angles, method=said) for said in METHODS.values())
    return Finding(
        angles,
        f"The angle to the true subspace is {with_interval(paper)} degrees for the largest "
        f"eigenvalues, {with_interval(general)} for the generalised objective, and "
        f"{with_interval(released)} for the released code.",
        [
            claim(
                name,
                statement,
                f"angle {with_interval(angle)} degrees",
                "below 1 degree",
                judge(angle["low"], angle["high"], below=1),
            )
            for name, statement, angle in (
                ("Objective", "The largest eigenvalues give the invariant subspace", paper),
                ("Objective", "So does the generalised eigenproblem, without λ", general),
                ("Released code", "Its smallest eigenvalues give the invariant subspace", released),
            )
        ],
    )


def solvers(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """Compare gradient descent and the closed form; a summary of distance and steps."""
    apart, steps = runs["distance"].max(), runs["steps"]
    return Finding(
        runs[["distance", "steps"]].agg(["median", "max"]),
        f"Gradient descent comes within {apart:.1g} (sine) of the closed form in "
        f"{steps.max():.0f} steps at most.",
        [
            claim(
                "Gradient",
                "Gradient descent and the closed form find the same subspace",
                f"distance at most {apart:.1g} in {len(runs)} runs",
                "at most 1e-3",
                _if(apart <= 1e-3),
            ),
            claim(
                "Gradient",
                "A few hundred iterations are enough",
                f"{steps.median():.0f} in the median, at most {steps.max():.0f}",
                "at most 500",
                _if(steps.max() <= 500),
            ),
        ],
    )


def sample_size(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """Say how many pairs it takes; a summary by leak, method and n_pairs."""
    angles = _angles(runs, "leak", "method", "n_pairs")
    most = angles["n_pairs"].max()
    said = []
    for leak, rows in angles[angles["n_pairs"] == most].groupby("leak", sort=False):
        first, last = rows.loc[rows["mean"].idxmin()], rows.loc[rows["mean"].idxmax()]
        said.append(
            f"from {with_interval(first)} ({first['method']}) to {with_interval(last)} "
            f"({last['method']}) {f'with δ = {leak:g}' if leak else 'without a leak'}"
        )
    return Finding(angles, f"With {most} pairs the angle in degrees is {'; '.join(said)}.")


def leak(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """Say how much an intervention may move z_inv; a summary by method and leak."""
    angles = _angles(runs, "method", "leak")
    failing = angles[angles["mean"] > 45].groupby("method", sort=False)["leak"].min()
    first = "; ".join(f"{method}: {size:g}" for method, size in failing.items()) or "none"
    return Finding(
        angles, f"Smallest leak in the sweep at which the angle exceeds 45 degrees: {first}."
    )


def weight(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """Find the trade-off in λ; a summary of angle and auto_k by curve and λ."""
    by = ["leak", "consistency_weight"]
    counts = mean_interval(runs, by, "auto_k")
    clean = runs[(runs["leak"] == 0) & (runs["consistency_weight"] >= 10)]
    slopes = pd.DataFrame(
        {"slope": np.polyfit(np.log(rows["consistency_weight"]), np.log(rows["angle"]), 1)[0]}
        for _, rows in clean.groupby("seed")
    )
    slope = _over_all(slopes, "slope")
    leaky = runs[runs["leak"] > 0]
    product = leaky["consistency_weight"] * leaky["leak"] ** 2
    before, after = leaky["angle"][product < 0.5] < 45, leaky["angle"][product > 2] > 45
    near = (-abs(slope["low"] + 1), -abs(slope["high"] + 1))
    return Finding(
        pd.concat({"angle": _angles(runs, *by), "auto_k": counts}, names=["quantity"]).reset_index(
            "quantity"
        ),
        f"Without a leak the angle falls as $\\lambda$ to the power of {with_interval(slope)}. "
        f"With one it is below 45 degrees in {percent(before.mean())} of the runs with "
        f"$\\lambda \\delta^2 < 1/2$, and above in {percent(after.mean())} with "
        "$\\lambda \\delta^2 > 2$.",
        [
            claim(
                "λ",
                "Without leak the angle falls like 1/λ",
                f"exponent {with_interval(slope)}",
                "within 0.1 of -1",
                judge(min(near), max(near), above=-0.1),
            ),
            claim(
                "λ",
                "With leak δ it works while λδ² is below one half, and fails above two",
                f"{percent(before.mean())} of runs with λδ² below 0.5, "
                f"{percent(after.mean())} with λδ² above 2",
                "95 % of runs each",
                _if(min(before.mean(), after.mean()) >= 0.95),
            ),
        ],
    )


def conditioning(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """Say what an ill-conditioned mixing does; a summary by method and condition number."""
    angles = _angles(runs, "method", "condition_number")
    worst = angles["condition_number"].max()
    last = angles[angles["condition_number"] == worst].sort_values("mean")
    best, least = (
        f"{row['method']}: {with_interval(row)}" for _, row in last.iloc[[0, -1]].iterrows()
    )
    return Finding(
        angles, f"Angle in degrees at condition number {worst:g}: from {best} to {least}."
    )


def size(runs: pd.DataFrame, given: Mapping[str, Any]) -> Finding:
    """Compare rules for K; a summary with how often each is right, in percent."""
    runs = runs.assign(right=runs["chosen"] == runs["n_invariant"])
    shares = 100 * runs.pivot_table("right", "rule", ["n_features", "leak"], sort=False)
    said, claims = [], []
    for rule, hits in runs.groupby("rule", sort=False)["right"]:
        interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
        low, high = 100 * interval.low, 100 * interval.high
        measured = f"{hits.sum()} of {len(hits)} ({low:.1f} to {high:.1f} %)"
        said.append(f"{measured} by {rule}")
        claims.append(
            claim(
                "Without labels",
                f"The rule {rule} finds the right K",
                measured,
                "95 % of draws",
                judge(interval.low, interval.high, above=0.95),
            )
        )
    return Finding(shares, f"Right in {'; '.join(said)} (Wilson's 95 % interval).", claims)


#: Experiment -> what finds out what came out of it.
FINDERS: dict[str, Callable[[pd.DataFrame, Mapping[str, Any]], Finding]] = {
    finder.__name__: finder
    for finder in (
        invariance, identifiability, consistency, ood_risk, random_ood_risk, methods, solvers,
        sample_size, leak, weight, conditioning, size,
    )
}  # fmt: skip


def _if(holds: bool | np.bool_, otherwise: str = "refuted") -> str:
    return "supported" if holds else otherwise


def _row(means: pd.DataFrame, **values: Any) -> pd.Series:
    """Take the row with these values."""
    return means[(means[list(values)] == pd.Series(values)).all(axis=1)].iloc[0]


def _angles(runs: pd.DataFrame, *by: str) -> pd.DataFrame:
    """Average angles geometrically, since they span orders of magnitude."""
    return mean_interval(runs, by, "angle", log=True)


def _over_all(runs: pd.DataFrame, value: str, *, log: bool = False) -> pd.Series:
    return mean_interval(runs.assign(all=0), ["all"], value, log=log).iloc[0]
