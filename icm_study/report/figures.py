"""Figures that the notebooks share, with one style and one palette.

Colours are Okabe and Ito's, which colour-blind readers can tell apart. One meaning, one
colour: what is invariant is blue, what an intervention changes is vermilion, context is
grey.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from icm_study.experiments.reading import IDENTITY, Results, by_worst_case
from icm_study.report.penalties import CHOSEN, FIXED, PROBE, with_chosen_penalty
from icm_study.report.style import (
    CONDITION_STYLE,
    CONTEXT,
    INK,
    INVARIANT,
    PALETTE,
    condition_name,
    headline,
    said,
)
from icm_study.report.tables import named

ON_LIGHT = "#262626"  # words on a light colour, in both themes
_LINE_HEIGHT = 0.075  # least distance between labels, as a fraction of the height of the axes


def plot_curves(
    axes: Axes,
    summary: pd.DataFrame,
    *,
    x: str,
    by: str,
    xscale: str = "linear",
    yscale: str = "linear",
    colors: Mapping[str, str] | None = None,
) -> None:
    """Draw one curve with its band for each group, named at its right end.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where to draw.
    summary : DataFrame
        Columns `x`, `by`, mean, low and high, as
        :func:`~icm_study.experiments.intervals.mean_interval` returns them. A band is left out
        where low or high is NaN.
    x, by : str
        Columns of the horizontal axis and of the groups.
    xscale, yscale : str
        Scales of the axes, as matplotlib names them.
    colors : mapping of str to str, optional
        Colour of each group; the default is the palette of the report, in the order of the groups.
    """
    axes.set(xscale=xscale, yscale=yscale)
    groups = list(dict.fromkeys(summary[by]))
    colors = colors or dict(zip(groups, PALETTE * len(groups), strict=False))
    ends = {}
    for name in groups:
        rows = summary[summary[by] == name].sort_values(x)
        axes.plot(
            rows[x], rows["mean"], color=colors[name], linewidth=2, marker="o", markersize=3.5
        )
        axes.fill_between(
            rows[x], rows["low"], rows["high"], color=colors[name], alpha=0.18, linewidth=0
        )
        ends[name] = rows["mean"].iloc[-1]
    axes.autoscale_view()
    to_axes = axes.transScale + axes.transLimits
    right = summary[x].max()
    heights = {name: to_axes.transform((right, value))[1] for name, value in ends.items()}
    for name, height in _spread(heights).items():
        # placed in data units, so that the label stays beside its curve if the limits change later
        value = to_axes.inverted().transform((1.0, height))[1]
        axes.text(
            1.02, value, name, color=colors[name], transform=axes.get_yaxis_transform(),
            va="center", fontsize=9.5,
        )  # fmt: skip


def _spread(heights: Mapping[str, float]) -> dict[str, float]:
    """Move labels apart, as little as possible from below upwards and back, keeping their order."""
    names = sorted(heights, key=lambda name: heights[name])
    wanted = np.array([heights[name] for name in names])
    steps = _LINE_HEIGHT * np.arange(len(names))
    # raising and lowering alone both keep the distance; their mean keeps it too, and
    # centres a cluster
    raised = np.maximum.accumulate(wanted - steps)
    lowered = np.minimum.accumulate((wanted - steps)[::-1])[::-1]
    return dict(zip(names, (raised + lowered) / 2 + steps, strict=True))


def accuracy_figure(means: pd.DataFrame, panels: Mapping[str, pd.Series], title: str) -> Figure:
    """Accuracy of each method under each condition, one panel a shortcut.

    Parameters
    ----------
    means : DataFrame
        Columns name (the method's label), condition, value, low, high.
    panels : mapping of str to boolean Series
        For each panel its title and the rows of `means` that it shows.
    title : str
        The message.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If a panel has a method twice under a condition, as when it mixes two worlds.
    """
    for label, mask in panels.items():
        if means[mask].duplicated(["name", "condition"]).any():
            raise ValueError(
                f"The panel {label!r} has several rows for a method and condition; expected one. "
                "Give each world, encoder and predictor a panel of its own."
            )
    names = means["name"].drop_duplicates().tolist()
    styles = {k: style for k, style in CONDITION_STYLE.items() if k in set(means["condition"])}
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(9, 0.36 * len(names) + 1.3),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, (label, mask) in zip(axes[0], panels.items(), strict=True):
        for condition, (_, color, marker) in styles.items():
            rows = means[mask & (means["condition"] == condition)]
            y = [names.index(name) for name in rows["name"]]
            error = np.nan_to_num(
                np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
            )
            axis.errorbar(
                rows["value"], y, xerr=error, fmt=marker, color=color, markersize=6, linewidth=1.6
            )
        axis.set(
            xlim=(axis_floor(means), 100.5),
            xlabel="accuracy (%)",
            yticks=range(len(names)),
            yticklabels=names,
            ylim=(len(names) - 0.4, -0.6),
        )
        axis.tick_params(axis="x", labeltop=len(names) > 20)  # the other end is out of sight
        axis.set_title(label, fontsize=11)
        axis.grid(axis="x")
    headline(figure, title)
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=name)
        for name, color, marker in styles.values()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure


def accuracy_figures(results: Results) -> None:
    """Draw one figure a predictor, a panel for each world as strong as the one that is judged.

    Parameters
    ----------
    results : Results
    """
    means = named(results.means(["strength", *IDENTITY]))
    strength = means.loc[means["world"] == results.world, "strength"].iloc[0]
    as_strong = means["strength"].isna() if np.isnan(strength) else means["strength"] == strength
    for predictor in means["predictor"].unique():
        part = means[as_strong & (means["predictor"] == predictor)]
        panels = {world: part["world"] == world for world in part["world"].unique()}
        own = part[(part["world"] == results.world) & (part["choice"] != "target")]
        worst = by_worst_case(own[~own["method"].str.contains("oracle")]).set_index("method")
        percent = worst["value"].map("{:.0f} %".format)
        title = f"{str(predictor).capitalize()}, where it does worst, oracle aside: best by "
        title += f"{worst.index[0]}, {percent.iloc[0]}"
        if "plain" in worst.index[1:]:
            title += f" (plain {percent['plain']})"
        accuracy_figure(part, panels, title)


def strength_figure(results: Results, methods: Sequence[str]) -> Figure | None:
    """Accuracy of the probe against the strength of the shortcut that is judged.

    Parameters
    ----------
    results : Results
    methods : sequence of str
        Those that are drawn: with chosen penalties, if all of them were run so.

    Returns
    -------
    matplotlib.figure.Figure or None
        None where the strengths are not known, or there is one only.
    """
    of_world = results.judged().table["shortcut"].iloc[0]
    part = results.chosen_by(results.choice).of(predictor=PROBE, shortcut=of_world)
    run = [name for name in methods if name in set(part.table["method"])]
    sides = [part.side_of(name, PROBE) or {} for name in run]
    rows = [with_chosen_penalty(part, side) for side in sides]
    known = {row["method"]: name for row, name in zip(rows, run, strict=True) if row}
    is_chosen = len(known) == len(run)
    names = known if is_chosen else dict(zip(run, run, strict=True))
    part = part.of(method=list(names))
    if part.table["strength"].nunique() < 2:
        return None
    means = part.means(["strength", *IDENTITY])
    means = means.assign(name=means["method"].map(names))
    panels = {condition_name[key]: means["condition"] == key for key in results.shifts}
    return sweep_figure(
        means, "strength", panels, xlabel="strength ρ of the shortcut in the sources",
        title=f"{_falls(means, results.shifts[-1])} ({CHOSEN if is_chosen else FIXED})",
    )  # fmt: skip


def _falls(means: pd.DataFrame, shift: str) -> str:
    """Say what the plain probe and that of ICM auto lose from the weakest to the strongest."""
    part = means[means["condition"] == shift].pivot_table("value", "name", "strength")
    lost = (part.iloc[:, 0] - part.iloc[:, -1]).filter(regex="^plain$|^ICM auto (?!oracle)")
    told = ", ".join(f"{name} {points:.0f}" for name, points in lost[::-1].items())
    start = f"Probe, {said(shift)}, points lost as ρ grows"
    return f"{start}: {told}" if told else "Linear probe by the strength of the shortcut"


def axis_floor(means: pd.DataFrame) -> float:
    """Lower end of an axis of accuracies: a multiple of ten below all intervals."""
    return max(0.0, 10 * np.floor((np.nanmin(means[["value", "low"]].to_numpy()) - 1) / 10))


def sweep_figure(
    means: pd.DataFrame,
    x: str,
    panels: Mapping[str, pd.Series],
    *,
    xlabel: str,
    title: str,
    xscale: str = "linear",
) -> Figure:
    """Accuracy against a parameter, a line for each method, labelled at its end.

    Parameters
    ----------
    means : DataFrame
        Columns name (the method's label), `x`, value, low, high.
    x : str
        The column of the parameter.
    panels : mapping of str to boolean Series
        For each panel its title and the rows of `means` that it shows.
    xlabel, title : str
    xscale : str
        Scale of the parameter, as matplotlib names it.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(
        1, len(panels), figsize=(9, 3.2), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (label, mask) in zip(axes[0], panels.items(), strict=True):
        axis.set_ylim(axis_floor(means), 100.5)
        plot_curves(
            axis, means[mask].rename(columns={"value": "mean"}), x=x, by="name", xscale=xscale
        )
        axis.set(xlabel=xlabel)
        ticks = sorted(means[x].unique())
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize=7.5)
        axis.minorticks_off()
        axis.set_title(label, fontsize=11)
    axes[0, 0].set_ylabel("accuracy (%)")
    headline(figure, title)
    return figure


def variants_figure(means: pd.DataFrame) -> Figure:
    """Accuracy of each method, one panel a variant; a line marks the plain predictor.

    Parameters
    ----------
    means : DataFrame
        Rows of :func:`icm_study.experiments.intervals.aggregate` with columns
        predictor, method, intervention, condition, value, low, high.

    Returns
    -------
    matplotlib.figure.Figure
    """
    looks = {"zero-shot": (CONTEXT, "o", -0.15), "linear probe": (INVARIANT, "s", 0.15)}
    names, conditions = (list(means[column].unique()) for column in ("name", "condition"))
    figure, axes = plt.subplots(
        1, len(conditions), figsize=(9, 0.36 * len(names) + 1.4), sharex=True, sharey=True,
        squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, condition in zip(axes[0], conditions, strict=True):
        for predictor, (color, marker, shift) in looks.items():
            rows = means[(means["condition"] == condition) & (means["predictor"] == predictor)]
            error = np.nan_to_num(
                np.abs(rows[["low", "high"]].to_numpy().T - rows["value"].to_numpy())
            )
            y = [names.index(name) + shift for name in rows["name"]]
            axis.errorbar(
                rows["value"], y, xerr=error, fmt=marker, color=color, markersize=5, linewidth=1.6
            )
            for plain in rows.loc[rows["method"] == "plain", "value"]:
                axis.axvline(plain, color=color, linewidth=1, linestyle=":")
        axis.set(xlim=(axis_floor(means), 101), yticks=range(len(names)), yticklabels=names)
        axis.set_xlabel("accuracy (%)", fontsize=10)
        axis.set_title(said(condition), fontsize=11)
        axis.grid(axis="x")
    axes[0, 0].invert_yaxis()
    headline(figure, _best_over_plain(means))
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=name)
        for name, (color, marker, _) in looks.items() if name in set(means["predictor"])
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    return figure


def _best_over_plain(means: pd.DataFrame) -> str:
    """Say what the best method, oracle aside, has over the plain predictor on each variant."""
    predictor = means["predictor"].iloc[-1]
    part = means[(means["predictor"] == predictor) & ~means["method"].str.contains("oracle")]
    part = part[part["condition"] != "in_distribution"]
    best = part.groupby("condition", sort=False)["value"].max()
    plain = part[part["method"] == "plain"].set_index("condition")["value"]
    told = ", ".join(f"{said(name)} {best[name] - plain[name]:+z.1f}" for name in best.index)
    return f"{predictor.capitalize()}, the best (oracle aside) over plain: {told} points"


def heat_map(
    axis: Axes, values: pd.DataFrame, limits: tuple[float, float], **look: Any
) -> QuadMesh:
    """Colour a cell for each value, the first row at the top; one that is not known is blank."""
    mesh = axis.pcolormesh(
        np.ma.masked_invalid(values.to_numpy(float)), vmin=limits[0], vmax=limits[1], **look
    )
    n_rows, n_columns = values.shape
    axis.set(xlim=(0, n_columns), ylim=(n_rows, 0))
    axis.set_xticks(np.arange(n_columns) + 0.5, [str(name) for name in values.columns])
    axis.set_yticks(np.arange(n_rows) + 0.5, [str(name) for name in values.index])
    axis.tick_params(length=0)
    axis.grid(False)
    axis.spines[["left", "bottom"]].set_visible(False)
    return mesh


def write_values(axis: Axes, mesh: QuadMesh, values: pd.DataFrame, form: str, size: float) -> None:
    """Write the value into each cell of a heat map: dark on light colours, light on dark ones.

    A value whose cell is blank is written as words beside the figure are.
    """
    coloured = ~np.ma.getmaskarray(np.ma.asarray(mesh.get_array()))
    for (row, column), value in np.ndenumerate(values.to_numpy(float)):
        if np.isnan(value):
            continue
        linear = np.array(mesh.to_rgba(value)[:3])
        linear = np.where(linear <= 0.03928, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4)
        is_light = linear @ [0.2126, 0.7152, 0.0722] > 0.408  # the relative luminance of WCAG
        color = (ON_LIGHT if is_light else "white") if coloured[row, column] else INK
        axis.text(
            column + 0.5, row + 0.5, form.format(value), fontsize=size, ha="center", va="center",
            color=color,
        )  # fmt: skip


def table_figure(
    panels: Mapping[str, pd.DataFrame],
    title: str,
    *,
    clear: Mapping[str, pd.DataFrame] | None = None,
) -> Figure:
    """Show tables of numbers as heat maps side by side, with the numbers written in.

    Parameters
    ----------
    panels : mapping of str to DataFrame
        For each panel its title and its table; they share their rows. Missing values
        have no cell.
    title : str
    clear : mapping of str to DataFrame, optional
        The values are differences in points, of which those that are clear of 0 have a
        colour; else they are percentages.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = next(iter(panels.values())).index
    every = pd.concat([table.stack() for table in panels.values()])
    low, high = np.quantile(every, [0.1, 1.0]) if clear is None else (-15.0, 15.0)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(7.8, 0.235 * len(rows) + 2.6), sharey=True, squeeze=False,
        layout="constrained", width_ratios=[len(table.columns) for table in panels.values()],
    )  # fmt: skip
    for axis, (label, table) in zip(axes[0], panels.items(), strict=True):
        shown = table if clear is None else table.where(clear[label] == 1)
        look = "cividis" if clear is None else "PuOr"
        mesh = heat_map(axis, shown, (low, high), cmap=look)
        write_values(axis, mesh, table, "{:.1f}" if clear is None else "{:+z.1f}", 8)
        axis.tick_params(axis="x", rotation=90, labelsize=9, labeltop=True, labelbottom=False)
        axis.tick_params(axis="y", labelsize=9)
        axis.set_xlabel(label, fontsize=11)
    headline(figure, title)
    return figure


def share_figure(shares: pd.DataFrame) -> Figure:
    """Show the share of each factor that each intervention re-draws, as an annotated grid.

    A factor that cannot be read from the embedding has a blank cell.

    Parameters
    ----------
    shares : DataFrame
        Rows factor, columns intervention, values the share.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axis = plt.subplots(figsize=(6.4, 0.45 * len(shares) + 1.4), layout="constrained")
    mesh = heat_map(axis, shares, (0, 1), cmap="cividis", edgecolor="white", linewidth=1)
    write_values(axis, mesh, shares, "{:.2f}", 11)
    figure.colorbar(mesh, ax=axis, label="share re-drawn").outline.set_linewidth(0)
    axis.set(xlabel="intervention", ylabel="")
    domain = shares.reindex(["domain"]).iloc[0].dropna()
    told = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in domain.items())
    axis.set_title(f"Domain re-drawn: {told}" if told else "What each intervention re-draws")
    return figure


def spectrum_figure(spectra: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Show the eigenvalues of C − λS, one panel an intervention, one line a λ.

    Parameters
    ----------
    spectra : mapping of str to mapping of str to D floats
        Intervention, then λ, then the eigenvalues from the largest.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, axes = plt.subplots(
        1, len(spectra), figsize=(9, 3.4), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (name, by_weight) in zip(axes[0], spectra.items(), strict=True):
        ends = {}
        for number, (weight, eigenvalues) in enumerate(by_weight.items()):
            index = np.arange(1, len(eigenvalues) + 1)
            axis.plot(index, eigenvalues, color=PALETTE[number], linewidth=1.6)
            ends[f"λ = {weight}"] = (index[-1], eigenvalues[-1], PALETTE[number])
        axis.axhline(0, color=INK, linewidth=0.8)
        axis.set(xlabel="component", yscale="symlog")
        axis.set_yscale("symlog", linthresh=1e-3)
        axis.set_title(name, fontsize=11)
    handles = [Line2D([], [], color=color, label=label) for label, (_, _, color) in ends.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(ends))
    axes[0, 0].set_ylabel("eigenvalue of $C-\\lambda S$")
    at = "1" if all("1" in by_weight for by_weight in spectra.values()) else next(iter(by_weight))
    counts = {
        name: sum(value > 0 for value in by_weight[at]) for name, by_weight in spectra.items()
    }
    told = ", ".join(f"{name} {n}" for name, n in counts.items())
    title = f"Eigenvalues above zero at λ = {at}, first seed: {told}"
    headline(figure, title)
    return figure


def grid_figure(
    means: pd.DataFrame,
    panels: Mapping[str, pd.Series],
    *,
    baseline: Mapping[str, float],
    title: str,
) -> Figure:
    """Show the gain over the plain predictor at every K and λ, one panel an intervention.

    A coarse grid has its numbers written in.

    Parameters
    ----------
    means : DataFrame
        Columns K, consistency_weight and value (accuracy in percent).
    panels : mapping of str to boolean Series
        For each panel its title and the rows of `means` that it shows.
    baseline : mapping of str to float
        For each panel the accuracy of the plain predictor.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    gains = {
        label: means[mask]
        .pivot_table("value", "K", "consistency_weight")
        .sort_index(ascending=False)
        - baseline[label]
        for label, mask in panels.items()
    }
    fine = max(max(gain.shape) for gain in gains.values()) > 8
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(9, 4.6 if fine else 3.4),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    # the colours end at the largest gain: what matters is where there is one, not how
    # bad the worst cell is
    limit = max(10.0, max(float(gain.to_numpy().max()) for gain in gains.values()))
    for axis, (label, gain) in zip(axes[0], gains.items(), strict=True):
        gain.columns = [f"{weight:g}" for weight in gain.columns]
        mesh = heat_map(axis, gain.round(), (-limit, limit), cmap="PuOr")
        if not fine:
            write_values(axis, mesh, gain, "{:+z.0f}", 9)
        axis.set(xlabel="λ", ylabel="K" if axis is axes[0, 0] else "")
        axis.tick_params(axis="x", rotation=90 * fine)
        axis.set_title(label, fontsize=11)
    bar = figure.colorbar(mesh, ax=axes[0, -1], label="points gained", extend="min")
    bar.outline.set_linewidth(0)
    headline(figure, title)
    return figure
