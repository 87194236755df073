"""What came out of the experiments on real CLIPs: what figures show, verdicts, and words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import spearmanr

from icm_study.experiments.agreement import EXACT, OWN, SHUFFLED
from icm_study.experiments.animal_encoders import UNTRAINED
from icm_study.experiments.diversity import benchmark_sizes
from icm_study.experiments.intervals import aggregate, contrast, mean_interval
from icm_study.experiments.modality import (
    AFTER,
    AUTO,
    CENTRED,
    DIRECTIONS,
    DROPPED,
    ICM,
    PLAIN,
    RELEASED,
    SAME_K,
    TUNED,
)
from icm_study.experiments.modality import SHUFFLED as SHUFFLED_PAIRS
from icm_study.report.finding import Finding
from icm_study.report.gains import gain_claim
from icm_study.report.tables import percent, with_interval
from icm_study.report.verdicts import claim, judge
from icm_study.report.words import points

LINEAR, NOT_LINEAR = 0.95, 0.05  # R² of a linear map, and of none
CLASSES = "things"  # that are judged; the others tell what hangs on the keywords


def find_real_clip(runs: Mapping[str, pd.DataFrame]) -> dict[str, Finding]:
    """Say of each question what came out.

    Parameters
    ----------
    runs : mapping of str to DataFrame
        As :func:`~icm_study.experiments.real_clip_runs.run_real_clip` gives them.
    """
    return {
        "names": names(runs["names"]),
        "animals": animals(runs["animal_pairs"], runs["animal_read"]),
        "diversity": diversity(runs["diversity"], runs["narrow"]),
        "spans": spans(runs["animal_spans"]),
        "probe": probe(runs["modality_probe"]),
        "keywords": keywords(runs["modality_probe"]),
        "retrieval": retrieval(runs["modality_retrieval"]),
    }


def names(runs: pd.DataFrame) -> Finding:
    """P5.3: is one text tower a linear map of the other; a summary by curve and quantity."""
    curve = runs["source"].map(_model) + " → " + runs["target"].map(_model)
    curve = curve.where(runs["control"] == OWN, runs["control"])
    long = runs.assign(curve=curve).melt(
        ["curve", "control", "source", "target", "n_rows", "rank", "fold"], ["r2", "recall"],
        var_name="quantity",
    )  # fmt: skip
    # a control is shown once, as the mean of both ways
    keys = ["curve", "control", "n_rows", "rank", "quantity"]
    mean = long.groupby([*keys, "fold"], sort=False)["value"].mean().reset_index()
    summary = mean_interval(mean, keys, "value")
    whole = runs[(runs["rank"] == 0) & (runs["n_rows"] == runs["n_rows"].max())]
    told, claims = [], []
    for (source, target), part in whole[whole["control"] == OWN].groupby(
        ["source", "target"], sort=False
    ):
        r2, recall = (_interval(part[name]) for name in ("r2", "recall"))
        said = f"{_model(source)} to {_model(target)}"
        told.append(f"{said}: R² = {with_interval(r2)}, {_percent(recall)} found")
        claims += [
            _claim("P5.3", f"a linear map from {said} explains new names", r2, above=LINEAR),
            _claim("P5.3", f"a linear map from {said} finds a new name", recall, above=LINEAR),
        ]
    controls = {name: _interval(whole.loc[whole["control"] == name, "r2"])
                for name in (EXACT, SHUFFLED)}  # fmt: skip
    claims += [
        _claim("Control", "an exact linear map is found", controls[EXACT], above=LINEAR),
        _claim("Control", "names that are shuffled have no map", controls[SHUFFLED],
               below=NOT_LINEAR),
    ]  # fmt: skip
    return Finding(
        summary,
        f"On new names, {'; '.join(told)}; controls: {controls[EXACT]['mean']:.3g} (exact map), "
        f"{controls[SHUFFLED]['mean']:.1g} (shuffled). So they are "
        f"{'' if claims[0]['verdict'] == 'supported' else 'not '}linear maps of each other.",
        claims,
    )


def animals(pairs: pd.DataFrame, read: pd.DataFrame) -> Finding:
    """Whether agreement of encoders tells that factors are identified; the pairs as points."""
    own = pairs[pairs["control"] == OWN].reset_index(drop=True)
    own = own.assign(untrained=_untrained(own["first"]) & _untrained(own["second"]))
    rho = _rank_correlation(own)
    both = own[own["untrained"]]
    trained = own[~(_untrained(own["first"]) | _untrained(own["second"]))]
    shuffled = pairs.loc[pairs["control"] == SHUFFLED, "agreement"].max()
    mean = read.groupby("encoder")["r2"].mean()
    untrained = ""
    if len(both) and len(trained):
        untrained = (
            f" Two that were never trained agree with R² = {both['agreement'].mean():.2f}, two "
            f"trained ones with {trained['agreement'].median():.2f} (median)."
        )
    told = {1.0: "does", -1.0: "does the opposite of"}.get(
        np.sign(rho["low"]) if np.sign(rho["low"]) == np.sign(rho["high"]) else 0.0, "does not"
    )
    return Finding(
        own,
        f"Over {len(own)} pairs of {len(mean)} encoders the rank correlation is "
        f"{with_interval(rho)}: agreement {told} tell identifiability.{untrained} Control: "
        f"shuffled images agree with {shuffled:.2f}.",
        [
            claim(
                "P5.3, converse (animal world)",
                "the more two encoders agree, the better the factors are read from both "
                "(rank correlation)",
                with_interval(rho),
                "above 0",
                judge(rho["low"], rho["high"], above=0.0),
            )
        ],
    )


def diversity(runs: pd.DataFrame, narrow: pd.DataFrame) -> Finding:
    """Condition 5.2 on real texts; a summary by tower, number of texts and quantity."""
    keys = ["tower", "n_texts", "dimension"]
    quantities = ["rank", "effective_rank", "condition_number"]
    long = runs.melt([*keys, "draw"], quantities, var_name="quantity")
    summary = mean_interval(long, [*keys, "quantity"], "value")
    whole = runs.loc[runs.groupby("tower", sort=False)["n_texts"].idxmax()]
    told, claims = [], []
    for row in whole.to_dict("records"):
        n, dimension = row["n_texts"], row["dimension"]
        told.append(
            f"{row['rank']} of {dimension} by {n:,} {str(row['tower']).replace('/openai, ', ' ')} "
            f"(effectively {row['effective_rank']:.0f})"
        )
        if n > dimension:
            claims.append(
                claim(
                    "C5.2 (real CLIP)",
                    f"the differences of {n:,} texts span all directions ({row['tower']})",
                    f"{row['rank']} of {dimension}, exact",
                    f"all {dimension}",
                    "supported" if row["rank"] == dimension else "refuted",
                )
            )
    return Finding(
        summary,
        f"Spanned directions: {'; '.join(told)}. {len(narrow)} of open_clip's text towers "
        "are narrower than their embedding.",
        claims,
    )


def benchmarks(runs: pd.DataFrame) -> pd.DataFrame:
    """Tabulate what as many names as a benchmark has classes span, drawn at random.

    Returns
    -------
    DataFrame
        Columns data set, classes, tower, and rank and effective rank with their intervals.
    """
    rows = []
    for (tower, n), part in runs.groupby(["tower", "n_texts"], sort=False):
        sets = [name for name, size in benchmark_sizes().items() if size == n]
        if not sets or "captions" in str(tower):
            continue
        rank, effective = (mean_interval(part, ["n_texts"], name).iloc[0]
                           for name in ("rank", "effective_rank"))  # fmt: skip
        rows.append(
            {
                "data sets": ", ".join(sets).replace("_", " "),
                "classes": n,
                "tower": tower,
                "rank": with_interval(rank),
                "of": part["dimension"].iloc[0],
                "effective rank": with_interval(effective),
            }
        )
    return pd.DataFrame(rows).sort_values(["classes", "tower"])


def spans(runs: pd.DataFrame) -> Finding:
    """Say what lies outside of the texts' directions, in encoders whose factors are known."""
    wide = runs[runs["dimension"] > runs["text_rank"]]
    if wide.empty:
        return Finding(runs, "Every text tower here fills its embedding.")
    row = wide.sort_values("dimension").iloc[-1]
    return Finding(
        runs,
        f"Texts of the animal world's encoder with {row['dimension']} dimensions span "
        f"{row['text_rank']}. {percent(row['outside'])} of its images' variance lies outside, "
        f"where the class is read with R² = {row['class_outside']:.2f} and the scene with "
        f"{row['scene_outside']:.2f}: no text intervention can re-draw that.",
    )


def probe(runs: pd.DataFrame) -> Finding:
    """Say what a probe has on the other modality; a summary with means by method."""
    own = runs[(runs["classes"] == CLASSES) & (runs["penalty"] == TUNED)]
    means = aggregate(own, ["target", "method", "condition"], over="images")
    gains = gains_over_plain(own)
    told, claims = [], []
    for direction in DIRECTIONS:
        plain = _row(means, target=direction, method=PLAIN, condition="unseen")
        icm, control = (
            _row(gains, target=direction, method=method, condition="unseen")
            for method in (ICM, SHUFFLED_PAIRS)
        )
        told.append(
            f"{direction}, the plain probe has {plain['value']:.1f} % and ICM differs by "
            f"{_points(icm)}"
        )
        claims += [
            _points_claim("Modality", f"ICM over plain, {direction}", icm),
            _points_claim(
                "Control",
                f"with shuffled pairs ICM is below plain, {direction}",
                control,
                below=0.0,
            ),
        ]
        for rival in (CENTRED, DROPPED, SAME_K, RELEASED):
            side = {"method": ICM, "condition": "unseen"}
            part = own[own["target"] == direction]
            other = contrast(part, side, {**side, "method": rival}, ["target"], over="images")
            claims.append(
                _points_claim("Modality", f"ICM over {rival}, {direction}", other.iloc[0])
            )
    return Finding(means, f"From {'; from '.join(told)}.", claims)


def keywords(runs: pd.DataFrame) -> Finding:
    """How the gain depends on the classes and on the penalty; the gains of ICM."""
    parts = []
    for (classes, penalty), part in runs.groupby(["classes", "penalty"], sort=False):
        gains = gains_over_plain(part)
        parts.append(gains.assign(classes=str(classes), penalty=str(penalty)))
    gains = pd.concat(parts, ignore_index=True)
    gains = gains[(gains["condition"] == "unseen") & gains["method"].isin([ICM, AUTO])]
    ours = gains[gains["method"] == ICM]
    above, below = int((ours["low"] > 0).sum()), int((ours["high"] < 0).sum())
    return Finding(
        gains,
        f"Over {ours['classes'].nunique()} ways to make classes, {ours['penalty'].nunique()} "
        f"penalties and both directions, ICM's gain over the plain probe goes from "
        f"{ours['value'].min():+z.1f} to {ours['value'].max():+z.1f} points; of {len(ours)} it is "
        f"above zero in {above} and below in {below}.",
    )


def retrieval(runs: pd.DataFrame) -> Finding:
    """Say what the projection costs where partners are searched; means by method."""
    means = aggregate(runs, ["target", "method", "condition"], over="images")
    gains = gains_over_plain(runs)
    told, claims = [], []
    for direction in DIRECTIONS:
        plain = _row(means, target=direction, method=PLAIN, condition="recall@1")
        icm = _row(means, target=direction, method=ICM, condition="recall@1")
        after = _row(means, target=direction, method=ICM, condition=AFTER)
        gain = _row(gains, target=direction, method=ICM, condition="recall@1")
        told.append(
            f"{direction} {plain['value']:.1f} % are found first, {icm['value']:.1f} % after ICM "
            f"({_points(gain)}), {after['value']:.1f} % if centred too"
        )
        claims.append(_points_claim("Retrieval", f"ICM over plain, {direction}, recall@1", gain))
    return Finding(means, f"From {'; from '.join(told)}.", claims)


def gains_over_plain(runs: pd.DataFrame) -> pd.DataFrame:
    """Compare each method with the plain embedding: paired differences in points.

    Returns
    -------
    DataFrame
        Columns target, condition, method, value, low, high.
    """
    tables = [
        contrast(
            runs, {"method": method}, {"method": PLAIN}, ["target", "condition"], over="images"
        ).assign(method=method)
        for method in dict.fromkeys(runs["method"])
        if method != PLAIN
    ]
    return pd.concat(tables, ignore_index=True)


def _rank_correlation(pairs: pd.DataFrame) -> pd.Series:
    """Spearman's, with a 95 % interval over encoders: drawn with replacement, 1,000 times."""
    encoders = sorted({*pairs["first"], *pairs["second"]})
    place = {name: i for i, name in enumerate(encoders)}
    matrices = np.full((2, len(encoders), len(encoders)), np.nan)
    for matrix, column in zip(matrices, ("agreement", "read"), strict=True):
        first, second = (pairs[name].map(place).to_numpy() for name in ("first", "second"))
        matrix[first, second] = matrix[second, first] = pairs[column]
    rng, drawn = np.random.default_rng(0), []
    for _ in range(1000):
        chosen = rng.integers(len(encoders), size=len(encoders))
        i, j = np.triu_indices(len(chosen), 1)
        i, j = chosen[i], chosen[j]
        apart = i != j
        values = matrices[:, i[apart], j[apart]]
        if values.shape[1] > 2 and (np.ptp(values, axis=1) > 0).all():
            drawn.append(spearmanr(*values).statistic)
    is_spread = len(set(drawn)) > 1
    low, high = np.quantile(drawn, [0.025, 0.975]) if is_spread else (np.nan, np.nan)
    mean = spearmanr(pairs["agreement"], pairs["read"]).statistic
    return pd.Series({"mean": mean, "low": low, "high": high})


def _untrained(names: pd.Series) -> pd.Series:
    return names.str.endswith(UNTRAINED)


def _interval(values: pd.Series) -> pd.Series:
    return mean_interval(values.to_frame("value").assign(all=0), ["all"], "value").iloc[0]


def _row(table: pd.DataFrame, **values: str) -> pd.Series:
    return table[(table[list(values)] == pd.Series(values)).all(axis=1)].iloc[0]


def _model(name: str) -> str:
    return name.split("/")[0]


def _percent(row: pd.Series) -> str:
    low, high = np.clip([row["low"], row["high"]], 0, 1)
    return f"{100 * row['mean']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _points(row: pd.Series) -> str:
    return f"{points(row)} points"


def _claim(
    name: str, statement: str, row: pd.Series, *, above: float | None = None,
    below: float | None = None,
) -> dict[str, str]:  # fmt: skip
    threshold = f"above {above:g}" if above is not None else f"below {below:g}"
    verdict = judge(row["low"], row["high"], above=above, below=below)
    return claim(f"{name} (real CLIP)", statement, with_interval(row), threshold, verdict)


def _points_claim(name: str, statement: str, row: pd.Series, **threshold: float) -> dict[str, Any]:
    judged = gain_claim(f"{name} (real CLIP)", statement, row, **threshold)
    return judged | {"section": "Verdicts"}
