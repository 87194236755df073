"""Figures and tables of the comparison of all methods."""

from __future__ import annotations

import pandas as pd

from icm_study.experiments.choosing import REFERENCE
from icm_study.experiments.intervals import mean_interval
from icm_study.experiments.reading import Results, by_worst_case
from icm_study.report.claims import differences, learnt_from
from icm_study.report.figures import accuracy_figure, table_figure
from icm_study.report.style import said
from icm_study.report.tables import interval_table, readable


def worst_case_figures(results: Results) -> None:
    """Draw one figure a predictor: methods in the order of their accuracy where they do worst.

    Parameters
    ----------
    results : Results
        Of a comparison. Methods trained on half of the target stand at the end.
    """
    honest = results.chosen_by(results.choice).means()
    references = (
        results.of(choice=REFERENCE).means() if results.has({"choice": REFERENCE}) else None
    )
    for predictor, part in honest.groupby("predictor", sort=False):
        worst = by_worst_case(part)
        place = {name: number for number, name in enumerate(worst["method"])}
        ordered = part.sort_values("method", key=lambda names: names.map(place), kind="stable")
        ordered = ordered.assign(name=ordered["method"])
        if references is not None:
            own = references[references["predictor"] == predictor]
            ordered = pd.concat([ordered, own.assign(name=own["method"] + f", {REFERENCE}")])
        alike = int((worst["value"] >= worst["low"].iloc[0]).sum())
        first = worst["method"].iloc[0]
        told = f"{first} does best"
        if alike > 1:
            told = f"{alike} methods lie within the interval of the best, {first}"
        ordered = ordered.reset_index(drop=True)
        title = f"{str(predictor).capitalize()}: where each method does worst, {told}"
        accuracy_figure(ordered, {results.world: ordered["value"] >= 0}, title)


def accuracy_and_cost(results: Results) -> pd.DataFrame:
    """Lay out the accuracy of each method of one predictor, and what it costs.

    Parameters
    ----------
    results : Results
        Of one predictor, chosen in one way.

    Returns
    -------
    DataFrame of str
        A row for each method: its accuracy under each condition, the seconds of a fit and
        the numbers learnt (medians over the runs).
    """
    shown = interval_table(readable(results.means()), ["method"], ["condition"])
    cost = results.table.groupby("method")[["fit_seconds", "n_parameters"]].median()
    shown["fit, seconds"] = cost["fit_seconds"].map("{:.2f}".format)
    shown["numbers learnt"] = cost["n_parameters"].map("{:,.0f}".format)
    return shown


def paired_differences(results: Results) -> pd.DataFrame:
    """Compare every method with the plain predictors and with the probes behind CLIP-ICM.

    Parameters
    ----------
    results : Results

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_study.report.claims.differences`, with a column over.
    """
    kind = learnt_from(results.table["method"])
    rivals = [("plain", "zero-shot"), ("plain", "linear probe")]
    rivals += [(f"ICM auto {kind}", "linear probe"), (f"ICM {kind}", "linear probe")]
    return pd.concat(
        [
            differences(results, (method, predictor)).assign(
                over=f"over {method}, {predictor.removeprefix('linear ')}"
            )
            for method, predictor in rivals
        ],
        ignore_index=True,
    )


def difference_figures(paired: pd.DataFrame, order: pd.DataFrame) -> None:
    """Draw one heat map a predictor: what each method has over the rivals, under each shift.

    Parameters
    ----------
    paired : DataFrame
        As :func:`paired_differences` gives it.
    order : DataFrame
        As :func:`~icm_study.experiments.reading.by_worst_case` gives it: rows stand in this order.
    """
    for predictor, part in paired.groupby("predictor", sort=False):
        names = order.loc[order["predictor"] == predictor, "method"]
        part = part.assign(clear=(part["low"] > 0) | (part["high"] < 0))
        panels, clear = (
            {
                said(condition): rows.pivot_table(value, "method", "over", sort=False).reindex(
                    names
                )
                for condition, rows in part.groupby("condition", sort=False)
            }
            for value in ("value", "clear")
        )
        n = int(part["clear"].sum())
        title = f"{str(predictor).capitalize()}: {n} of {len(part)} differences are clear of 0"
        table_figure(panels, title, clear=clear)


def choosing_figures(by_choice: pd.DataFrame) -> None:
    """Draw one heat map a predictor: accuracy by the way of choosing, under each shift.

    Parameters
    ----------
    by_choice : DataFrame
        Columns predictor, method, condition, choice and value.
    """
    for predictor, part in by_choice.groupby("predictor", sort=False):
        panels = {
            said(condition): rows.pivot_table("value", "method", "choice", sort=False)
            for condition, rows in part.groupby("condition", sort=False)
        }
        table_figure(panels, f"{str(predictor).capitalize()}, by what chose its settings")


def gains_of_choosing(results: Results) -> pd.DataFrame:
    """Compare the judged way of choosing with every other, mean over the methods with settings.

    Parameters
    ----------
    results : Results

    Returns
    -------
    DataFrame
        Columns predictor, condition, value (percentage points), low, high and ways; no rows
        without settings. Of a folder there is no interval: runs on one target share its
        test images.
    """
    given = results.record["parameters"].get("choices", [])
    rows = results.of(choice=given, condition=results.shifts).table
    if rows.empty:
        return pd.DataFrame()
    rows = rows.rename(columns={"target": "domain"})  # "target" is also a way of choosing
    keys = ["predictor", "method", "condition", "domain", "seed"]
    wide = rows.pivot_table("value", keys, "choice").reset_index()
    by = ["predictor", "condition"]
    tables = []
    for other in given[1:]:
        gain = wide.assign(value=wide[results.choice] - wide[other])
        mean = gain.groupby([*by, "seed"], sort=False)["value"].mean().reset_index()
        pooled = mean_interval(mean, by, "value").rename(columns={"mean": "value"})
        tables.append(pooled.assign(ways=f"{results.choice} over {other}"))
    gained = pd.concat(tables, ignore_index=True)
    if results.over != "seeds":
        gained[["low", "high"]] = float("nan")
    return gained
