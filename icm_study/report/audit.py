"""What came out of the audit of the code released with the paper: words, tables and claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import Markdown
from matplotlib.figure import Figure

from icm_study.experiments import departures, eigenvalue_orders
from icm_study.experiments.departures import (
    ALL,
    ALL_BUT_ORDER,
    C_OF_PAPER,
    CONTROL,
    DEPARTURES,
    LARGE,
    PAPER,
    PEEKED,
    PLAIN,
    WITH_TEXT,
    Way,
)
from icm_study.experiments.eigenvalue_orders import LARGEST, RANDOM, SHUFFLED, SMALLEST
from icm_study.experiments.intervals import mean_interval
from icm_study.experiments.questions import Experiment
from icm_study.methods.sources import PREDICTORS
from icm_study.report.figures import plot_curves
from icm_study.report.finding import Finding
from icm_study.report.gains import by_method, gain_claim, gains_over, method_means
from icm_study.report.style import CONTEXT, INVARIANT, PALETTE, VARIANT, headline, said
from icm_study.report.words import came_out, points

#: The experiments of the notebook, by name; each takes its parameters.
EXPERIMENTS: dict[str, Experiment] = {
    "departures": departures.departures,
    "orders": eigenvalue_orders.eigenvalue_orders,
}
#: The heading of each section, by its finding.
SECTIONS: dict[str, str] = {
    "departures": "What does each departure do to accuracy?",
    "orders": "Why does the paper's order fail at a large λ?",
    "rest": "What is the reported number worth on the rest of the target?",
}
#: For a way and a predictor, a difference with its interval.
Gains = dict[tuple[str, str], pd.Series]
TOPIC = "Released code"
WHERE = "(animal world, image pairs)"
#: What the claims on departures say; the groups are the departure and the predictor.
LEAD = r"^the paper's way beats “(.*)”, (zero-shot|linear probe), "
KEPT = "kept"  # the panel of what a projection keeps
COLORS = (INVARIANT, VARIANT, PALETTE[2], CONTEXT)
JUDGED = "reversed"  # the condition that is judged
#: What is done here, and in the released code.
DONE: dict[str, tuple[str, str]] = {
    "the smallest eigenvalues": (
        "the K largest eigenvalues of C − λS are kept, as the objective asks",
        "eigenvalues come in ascending order, and the first K are kept",
    ),
    "λ = 1000": (
        f"λ is chosen among {', '.join(f'{one:g}' for one in Way().consistency_weights)}",
        f"{LARGE:g} unless the caller says otherwise; the command line has no default, nor for K",
    ),
    "moments not normalised": (
        "C and S of embeddings of unit length",
        "C and S of image embeddings as the model gives them",
    ),
    "texts not normalised again": (
        "cosine behind the projection",
        "dot product with texts that had unit length before the projection",
    ),
    "C = 0.316, not normalised": (
        "the probe sees unit rows, and C is chosen on the sources",
        f"C = {C_OF_PAPER:g}, on embeddings as the model gives them",
    ),
    "a fifth of the target": (
        "all of the target is tested",
        "a fifth of it; with open classes all of it",
    ),
    "chosen on the target": (
        "K, λ and C are chosen on source images after an intervention",
        "no rule: a fifth of the sources is set aside and never used, and the accuracy on the "
        "target is written down beside K and λ",
    ),
}
#: Departures that only one predictor can feel.
ONLY = {"texts not normalised again": PREDICTORS[:1], "C = 0.316, not normalised": PREDICTORS[1:]}


def find(runs: Mapping[str, pd.DataFrame]) -> dict[str, Finding]:
    """Say what came out of each section."""
    return {
        "departures": one_at_a_time(runs["departures"]),
        "orders": both_ends(runs["orders"]),
        "rest": on_the_rest(runs["departures"]),
    }


def gains_over_paper(runs: pd.DataFrame) -> pd.DataFrame:
    """Compare each way with the paper's, by predictor and condition.

    Ways that test other images than the paper's are compared by the accuracies of the runs.

    Returns
    -------
    DataFrame
        Columns predictor, condition, method, value (points), low, high.
    """
    by = ["predictor", "condition"]
    on_all = runs["tested"] == 1
    others = runs[~on_all | (runs["method"] == PAPER)].drop(columns="correct")
    return pd.concat([gains_over(runs[on_all], PAPER, by), gains_over(others, PAPER, by)])


def judged_gains(runs: pd.DataFrame) -> Gains:
    """Give the rows of :func:`gains_over_paper` under the shift that is judged."""
    gains = gains_over_paper(runs)
    return _by_way(gains[gains["condition"] == JUDGED])


def _by_way(rows: pd.DataFrame) -> Gains:
    return {(str(row["method"]), str(row["predictor"])): row for _, row in rows.iterrows()}


def one_at_a_time(runs: pd.DataFrame) -> Finding:
    """Say what each departure does to accuracy, and all of them together."""
    shown = runs[runs["condition"].isin(["unseen", JUDGED]) & ~runs["method"].isin([PEEKED])]
    summary = method_means(shown, "predictor", "condition")
    summary = summary.assign(series=summary["condition"].map(said), panel=summary["predictor"])
    judged = judged_gains(runs)
    felt = {name: [judged[name, one] for one in ONLY.get(name, PREDICTORS)] for name in DEPARTURES}
    n_costly = sum(any(gain["high"] < 0 for gain in gains) for gains in felt.values())
    n_better = sum(any(gain["low"] > 0 for gain in gains) for gains in felt.values())
    summary.attrs["title"] = (
        f"One at a time, shortcut reversed: {n_costly} of {len(DEPARTURES)} departures cost "
        f"accuracy, {n_better} gain some"
    )
    told = [
        f"{what} {points(judged[name, 'zero-shot'])} and {points(judged[name, 'linear probe'])}"
        for name, what in (
            ("the smallest eigenvalues", "smallest eigenvalues"),
            (ALL, "all together"),
            (PLAIN, "no projection"),
        )
    ]
    return Finding(
        summary,
        "Shortcut reversed, zero-shot and probe against the paper's way, points: "
        f"{'; '.join(told)}.",
        _claims_on_departures(runs, judged),
    )


def _claims_on_departures(runs: pd.DataFrame, judged: Gains) -> list[dict[str, Any]]:
    claims = []
    for name in [*DEPARTURES, ALL]:
        for predictor in ONLY.get(name, PREDICTORS):
            statement = f"the paper's way beats “{name}”, {predictor}, {said(JUDGED)}"  # see LEAD
            lead = _turned(judged[name, predictor])
            claims.append(gain_claim(f"{TOPIC} {WHERE}", statement, lead))
    fifths = runs[runs["method"].isin([ALL, ALL_BUT_ORDER])]
    for one, fifth in fifths.groupby("predictor", sort=False):
        claims.append(
            gain_claim(
                f"{TOPIC} {WHERE}",
                "with all other departures, the paper's order beats the released one, "
                f"{one}, {said(JUDGED)}",
                by_method(fifth, ALL, JUDGED)[ALL_BUT_ORDER],
            )
        )
    return claims + [
        gain_claim(
            f"Control {WHERE}",
            f"pairs of other images are far below own pairs, paper's order, λ = 1, {predictor}",
            judged[CONTROL, predictor],
            below=-20.0,
        )
        for predictor in PREDICTORS
    ]


def leads(claims: pd.DataFrame) -> pd.DataFrame:
    """Pick the leads of the paper's way over each departure out of the verdicts of all pages.

    Returns
    -------
    DataFrame
        What :func:`~icm_study.report.open_questions_figures.dots_figure` takes; no rows where the
        code was not audited.
    """
    told = claims["statement"].str.extract(LEAD)
    rows = claims.assign(method=told[0], panel=told[1], series="").dropna(subset="method")
    n_ahead, n_behind = ((rows["verdict"] == one).sum() for one in ("supported", "refuted"))
    rows.attrs["title"] = (
        f"The paper's way leads in {n_ahead} of {len(rows)} comparisons, the released in {n_behind}"
    )
    return rows


def leads_words(rows: pd.DataFrame) -> Markdown:
    """Say in which :func:`leads` either side is shown to be ahead."""
    if rows.empty:
        return came_out("The released code was not audited in this run.")
    ordered = rows.sort_values("value")
    told = []
    for verdict, side, farthest in (("supported", "above", -1), ("refuted", "below", 0)):
        part = ordered[ordered["verdict"] == verdict]
        most = ""
        if len(part):
            row = part.iloc[farthest]
            most = f", the farthest “{row['method']}” ({row['panel']}): {points(row)}"
        told.append(f"{len(part)} are {side} zero{most}")
    return came_out(f"Of {len(rows)} leads of the paper's way, {'; '.join(told)}.")


def _turned(gain: pd.Series) -> pd.Series:
    """Give a difference the other way round."""
    return pd.Series({"value": -gain["value"], "low": -gain["high"], "high": -gain["low"]})


def departures_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Tabulate what is done here, what in the released code, and what the difference does.

    Returns
    -------
    DataFrame
        Columns departure, here, released code, and for each predictor the points gained over
        the paper's way with the shortcut reversed, with their interval.
    """
    judged = judged_gains(runs)
    told = DONE | {
        WITH_TEXT: ("one kind of pairs at a time", "pairs of images only"),
        ALL: ("", ""), ALL_BUT_ORDER: ("", ""), PLAIN: ("", ""),
    }  # fmt: skip
    return pd.DataFrame(
        {"departure": name, "here": here, "released code": there}
        | {
            f"{one}, {said(JUDGED)}": points(judged[name, one])
            if one in ONLY.get(name, PREDICTORS) else "the same"
            for one in PREDICTORS
        }
        for name, (here, there) in told.items()
    )  # fmt: skip


def both_ends(runs: pd.DataFrame) -> Finding:
    """Say what either end of the spectrum keeps at the largest λ, and why."""
    accuracy = runs[runs["quantity"] == "accuracy"]
    largest = accuracy["consistency_weight"].max()
    size = int(accuracy["K"].iloc[0])
    balances = runs[runs["quantity"] == eigenvalue_orders.BALANCE]
    turn = balances["value"].mean()
    at = accuracy[(accuracy["consistency_weight"] == largest) & (accuracy["condition"] == "unseen")]
    mean = at.groupby(["method", "predictor"])[["value", "classes"]].mean()
    summary = method_means(
        accuracy[accuracy["condition"] == "unseen"], "predictor", "consistency_weight"
    ).rename(columns={"predictor": "panel"})
    shares = accuracy.groupby(["method", "consistency_weight", "seed"])["classes"].mean()
    kept = mean_interval(shares.reset_index(), ["method", "consistency_weight"], "classes")
    kept = kept.rename(columns={"mean": "value"}).assign(panel=KEPT)
    summary = pd.concat([summary, kept], ignore_index=True)
    ours, theirs = (mean.loc[(name, "zero-shot")] for name in (LARGEST, SMALLEST))
    summary.attrs["title"] = (
        f"K = {size}, unseen domain: at λ = {largest:g} the paper's order keeps "
        f"{ours['classes']:.0f} % of what tells classes apart, the released "
        f"{theirs['classes']:.0f} %"
    )
    return Finding(
        summary,
        f"From λ = {turn:.1f} on, dropping what tells classes apart pays; at λ = {largest:g}, "
        f"K = {size} the paper's order keeps {ours['classes']:.1f} % of it (zero-shot "
        f"{ours['value']:.0f} %), the released {theirs['classes']:.0f} % "
        f"({theirs['value']:.0f} %).",
        _claims_on_orders(at, largest, size),
    )


def _claims_on_orders(at: pd.DataFrame, weight: float, size: int) -> list[dict[str, Any]]:
    claims = []
    for predictor, part in at.groupby("predictor", sort=False):
        gains = by_method(part, SMALLEST, "unseen")
        for name, what in (
            (LARGEST, "the paper's order"), (SHUFFLED, "the same order of pairs of other images"),
        ):  # fmt: skip
            statement = (
                f"at λ = {weight:g}, K = {size} the released order beats {what}, {predictor}, "
                f"{said('unseen')}"
            )
            claims.append(gain_claim(f"{TOPIC} {WHERE}", statement, _turned(gains[name])))
    return claims


def orders_figure(summary: pd.DataFrame) -> Figure:
    """Show accuracy and what is kept of the classes by λ, a line for each end of the spectrum."""
    panels = {
        "zero-shot": "zero-shot, accuracy (%)",
        "linear probe": "linear probe, accuracy (%)",
        KEPT: "kept of the variance between classes (%)",
    }
    colors = dict(zip((LARGEST, SMALLEST, SHUFFLED, RANDOM), COLORS, strict=True))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(10, 3.6), sharey=True, layout="constrained"
    )
    for panel, (name, title) in zip(axes, panels.items(), strict=True):
        panel.set_ylim(-2, 102)
        plot_curves(
            panel, summary[summary["panel"] == name].rename(columns={"value": "mean"}),
            x="consistency_weight", by="method", xscale="log", colors=colors,
        )  # fmt: skip
        for text in panel.texts if name != KEPT else []:  # the last panel names the lines of all
            text.remove()
        panel.set(xlabel="λ")
        panel.xaxis.set_major_formatter("{x:g}")
        panel.set_title(title, fontsize=10.5)
    headline(figure, summary.attrs["title"])
    return figure


def on_the_rest(runs: pd.DataFrame) -> Finding:
    """Say how far the number on a fifth of the target is from that on the other images."""
    part = runs[(runs["tested"] < 1) & (runs["condition"] == JUDGED)]
    part = part.assign(excess=part["value"] - part["rest"])
    by_seed = part.groupby(["method", "predictor", "seed"], sort=False)["excess"].mean()
    summary = mean_interval(by_seed.reset_index(), ["method", "predictor"], "excess")
    summary = summary.rename(columns={"mean": "value"})
    summary = summary.assign(series="", panel=summary["predictor"])
    rows = _by_way(summary)
    probe = {name: rows[name, "linear probe"] for name in (PEEKED, "a fifth of the target")}
    summary.attrs["title"] = (
        "The probe's number on the fifth that chose its setting is "
        f"{probe[PEEKED]['value']:+z.1f} points off the rest"
    )
    return Finding(
        summary,
        f"On the fifth of the target that chose its setting the probe has {points(probe[PEEKED])} "
        "points more than on the other images; on a fifth that chose nothing, "
        f"{points(probe['a fifth of the target'])}.",
        [
            gain_claim(
                f"{TOPIC} {WHERE}",
                f"{name}: the number is above that of the rest of the target, {predictor}, "
                f"{said(JUDGED)}",
                rows[name, predictor],
            )
            for name in (PEEKED, ALL)
            for predictor in PREDICTORS
        ],
    )
