"""Maps, tables and words of the ablations."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from icm_study.embedding.tables import INTERVENTIONS
from icm_study.experiments.intervals import aggregate, contrast
from icm_study.report.figures import grid_figure, sweep_figure
from icm_study.report.style import condition_name
from icm_study.report.tables import interval_table, readable

#: What the pages judge the choices of the method by.
JUDGED = {"intervention": "image+text", "condition": "reversed"}
#: What K and λ are chosen by -> what the page calls it.
CHOSEN_BY = {
    "intervened": "intervened source images",
    "held-out": "plain source images",
    "re-rendered": "re-rendered source images (simulator)",
    "auto": "positive eigenvalues, λ fixed at 1",
    "unseen": "unseen target (peeking)",
}
OBJECTIVES = {"released": "released code"}


def gain_map(cells: pd.DataFrame, baseline: float, title: str) -> Figure:
    """Show the gain at every K and λ with the shortcut reversed, one panel an intervention.

    Parameters
    ----------
    cells : DataFrame
        Rows of :func:`~icm_study.experiments.grids.mean_cells`, of one predictor.
    baseline : float
        The accuracy that a gain is over.
    title : str
        What is shown; the largest gain is added to it.

    Returns
    -------
    matplotlib.figure.Figure
    """
    part = cells[cells["condition"] == "reversed"]
    kinds = [kind for kind in INTERVENTIONS if kind in set(part["intervention"])]
    panels = {kind: part["intervention"] == kind for kind in kinds}
    most = f"at most {part['value'].max() - baseline:+z.0f} points over {baseline:.0f} %"
    told = f"{title}: {most}"
    return grid_figure(part, panels, baseline=dict.fromkeys(kinds, baseline), title=told)


def best_cells(cells: pd.DataFrame) -> str:
    """Name the best cell of the maps of :func:`gain_map` for each predictor."""
    part = cells[cells["condition"] == "reversed"].sort_values("value")
    return "; ".join(
        f"{row.predictor} {row.value:.1f} % ({row.intervention}, K = {row.K}, "
        f"λ = {row.consistency_weight:g})"
        for row in part.groupby("predictor").tail(1).sort_values("predictor").itertuples()
    )


def accuracy_table(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Lay out accuracies with intervals over the seeds: a column for each condition.

    Parameters
    ----------
    table : DataFrame
        Rows of :func:`~icm_study.experiments.grids.to_conditions`.
    by : list of str
        The columns that tell the rows apart.
    """
    said = {"choice": CHOSEN_BY, "objective": OBJECTIVES}
    means = readable(aggregate(table, [*by, "condition"])).replace(said)
    means = means.rename(columns={"consistency_weight": "λ"})
    rows = ["λ" if name == "consistency_weight" else name for name in by]
    return interval_table(means, rows, ["condition"])


def judged_accuracies(table: pd.DataFrame, column: str) -> str:
    """Put the probe's accuracy for each value of a column into words, where choices are judged."""
    where = pd.Series({"predictor": "linear probe"} | JUDGED)
    part = table[(table[list(where.index)] == where).all(axis=1)]
    said = accuracy_table(part, [column]).iloc[:, 0]
    return "; ".join(f"{name}: {text} %" for name, text in said.items())


def kept_by_released(by_objective: pd.DataFrame) -> str:
    """Say how many directions are kept at the K that is chosen for the released order."""
    rows = by_objective[by_objective["objective"] == "released"]
    medians = rows.groupby(["intervention", "predictor"], as_index=False)["K"].median()
    return ", ".join(
        f"{row.K:.0f} ({row.intervention}, {row.predictor})" for row in medians.itertuples()
    )


def with_all_directions(grid: pd.DataFrame, n_features: int) -> str:
    """Say what the generalised objective has on the unseen domain where it keeps all directions."""
    whole = grid[(grid["objective"] == "generalized") & (grid["K"] == n_features)]
    if whole.empty:
        return ""
    kept = whole.groupby(["predictor", "intervention"], as_index=False)["unseen"].mean()
    listed = ", ".join(
        f"{row.predictor} {row.unseen:.0f} % ({row.intervention})" for row in kept.itertuples()
    )
    said = f"The generalised objective with all {n_features} directions, on the unseen domain"
    return f"{said}: {listed}."


def single_accuracies(singles: pd.DataFrame) -> pd.DataFrame:
    """Average the probe's accuracy over targets: rows intervention and seed, columns conditions.

    Parameters
    ----------
    singles : DataFrame
        Rows of :func:`~icm_study.experiments.grids.to_conditions`.
    """
    part = singles[singles["predictor"] == "linear probe"]
    part = part.assign(intervention=part["intervention"].str.replace("_", " "))
    by = ["intervention", "condition", "seed"]
    return part.groupby(by, sort=False)["value"].mean().unstack("condition")


def each_seed(accuracies: pd.DataFrame) -> pd.DataFrame:
    """Write the accuracies of all seeds side by side, a row for each intervention."""
    texts = accuracies.map("{:.1f}".format)
    joined = texts.groupby("intervention", sort=False).agg(" and ".join)
    return joined.rename(columns=condition_name).rename_axis(columns=None)


def best_and_worst(accuracies: pd.DataFrame) -> str:
    """Name the interventions that do best and worst with the shortcut reversed."""
    means = accuracies["reversed"].groupby("intervention", sort=False).mean()
    return (
        f"with the shortcut reversed, {means.idxmax()} alone does best ({means.max():.1f} %) and "
        f"{means.idxmin()} worst ({means.min():.1f} %)"
    )


def pairs_means(by_size: pd.DataFrame) -> pd.DataFrame:
    """Pool the probe's accuracies by the number of pairs, with the names of the methods."""
    part = by_size[by_size["predictor"] == "linear probe"]
    means = aggregate(part, ["intervention", "n_pairs", "condition"])
    return means.assign(name="ICM " + means["intervention"])


def pairs_figure(means: pd.DataFrame) -> Figure:
    """Show accuracy against the number of pairs, one panel a shift.

    Parameters
    ----------
    means : DataFrame
        Rows of :func:`pairs_means`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    wide = _reversed(means, "n_pairs")
    fewest, every = wide.columns.min(), wide.columns.max()
    listed = ", ".join(
        f"{str(name).removeprefix('ICM ')} {row[every] - row[fewest]:+z.0f}"
        for name, row in wide.iterrows()
    )
    title = f"Shortcut reversed, {fewest} to {every} pairs: {listed} points"
    return sweep_figure(
        means, "n_pairs", _by_shift(means), xlabel="pairs", xscale="log", title=title
    )


def _reversed(means: pd.DataFrame, by: str) -> pd.DataFrame:
    """Give the accuracies with the shortcut reversed, a row for each name."""
    part = means[means["condition"] == "reversed"]
    return part.pivot_table("value", "name", by, sort=False)


def _by_shift(means: pd.DataFrame) -> dict[str, pd.Series]:
    return {condition_name[name]: means["condition"] == name for name in ("unseen", "reversed")}


def pairs_words(means: pd.DataFrame) -> str:
    """Compare the fewest pairs with all, with the shortcut reversed."""
    wide = _reversed(means, "n_pairs")
    fewest, every = wide.columns.min(), wide.columns.max()
    listed = ", ".join(
        f"{row[fewest]:.1f} and {row[every]:.1f} % (*{name}*)" for name, row in wide.iterrows()
    )
    return f"With {fewest} pairs and with {every}, shortcut reversed: {listed}."


def penalty_means(by_penalty: pd.DataFrame) -> pd.DataFrame:
    """Pool the probe's accuracies at each penalty, with the names of the methods.

    Parameters
    ----------
    by_penalty : DataFrame
        Rows of :func:`~icm_study.experiments.grids.probes_by_penalty`.
    """
    part = by_penalty[by_penalty["penalty"] != "chosen"]
    kinds = part["intervention"].where(part["side"] == "ICM", "")
    part = part.assign(name=(part["side"] + " " + kinds).str.strip())
    part = part.drop_duplicates(["name", "C", "condition", "target", "seed"])  # plain is of no kind
    return aggregate(part, ["name", "C", "condition"])


def penalty_figure(means: pd.DataFrame) -> Figure:
    """Show accuracy against the penalty, one panel a shift.

    Parameters
    ----------
    means : DataFrame
        Rows of :func:`penalty_means`.

    Returns
    -------
    matplotlib.figure.Figure
    """
    wide = _reversed(means, "C")
    gains = (wide - wide.loc["plain"]).drop(["plain", "ICM oracle"], errors="ignore")
    listed = ", ".join(
        f"{str(name).removeprefix('ICM ')} {row.min():+z.0f} to {row.max():+z.0f}"
        for name, row in gains.iterrows()
    )
    title = f"Gain, shortcut reversed: {listed} points"
    label = "C, inverse penalty of the probe"
    return sweep_figure(means, "C", _by_shift(means), xlabel=label, xscale="log", title=title)


def penalty_gains(by_penalty: pd.DataFrame) -> pd.DataFrame:
    """Compare the probe behind the projection with the plain one at the same penalty.

    Parameters
    ----------
    by_penalty : DataFrame
        Rows of :func:`~icm_study.experiments.grids.probes_by_penalty`.

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_study.experiments.intervals.contrast`, with intervention,
        condition and penalty.
    """
    by = ["intervention", "condition", "penalty"]
    return contrast(by_penalty, {"side": "ICM"}, {"side": "plain"}, by)


def penalty_words(gains: pd.DataFrame) -> str:
    """Say between which values the gains lie with the shortcut reversed, over all penalties.

    Parameters
    ----------
    gains : DataFrame
        Rows of :func:`penalty_gains`.
    """
    part = gains[gains["condition"] == "reversed"]
    at = part[part["penalty"] != "chosen"].groupby("intervention", sort=False)["value"]
    chosen = part[part["penalty"] == "chosen"].set_index("intervention")["value"]
    return "; ".join(
        f"*ICM {kind}* {low:+z.1f} to {high:+z.1f}, chosen {chosen[kind]:+z.1f}"
        for kind, low, high in zip(at.min().index, at.min(), at.max(), strict=True)
    )
