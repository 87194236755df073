"""Figures of the page on real CLIPs: each shows the runs of an experiment or their summary.

The summaries are those of :mod:`icm_study.report.real_clip_claims`; nothing is computed here.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from icm_study.experiments.agreement import EXACT, OWN, SHUFFLED
from icm_study.experiments.modality import DIRECTIONS
from icm_study.report.figures import plot_curves
from icm_study.report.style import CONTEXT, INK, INVARIANT, PALETTE, VARIANT

QUANTITIES = {"r2": "$R^2$ on new names", "recall": "New names that are found"}


def names_figure(summary: pd.DataFrame) -> Figure:
    """Show how well one text tower is mapped to the other, by number of names and by rank."""
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), sharey=True, layout="constrained")
    colors = _colors(summary)
    for panel, (quantity, title) in zip(axes, QUANTITIES.items(), strict=False):
        rows = summary[(summary["quantity"] == quantity) & (summary["rank"] == 0)]
        plot_curves(panel, rows, x="n_rows", by="curve", xscale="log", colors=colors)
        panel.set(title=title, xlabel="Names that the map is fitted on")
    ranks = summary[(summary["control"] == OWN) & (summary["quantity"] == "recall")]
    ranks = ranks[ranks["rank"] > 0]
    plot_curves(axes[2], ranks, x="rank", by="curve", xscale="log", colors=colors)
    axes[2].set(title="Found, by rank of the map", xlabel="Rank")
    axes[0].set(ylabel="Share", ylim=(-0.1, 1.05))
    return figure


def _colors(summary: pd.DataFrame) -> dict[str, str]:
    own = summary.loc[summary["control"] == OWN, "curve"].unique()
    controls = {EXACT: PALETTE[2], SHUFFLED: CONTEXT}
    return dict(zip(own, (INVARIANT, PALETTE[5]), strict=False)) | controls


def animals_figure(pairs: pd.DataFrame) -> Figure:
    """Show agreement against how well the factors are read, a point for each two encoders."""
    figure, panel = plt.subplots(figsize=(7.5, 4), layout="constrained")
    for untrained, color, said in (
        (False, INVARIANT, "at least one trained"), (True, VARIANT, "neither was ever trained"),
    ):  # fmt: skip
        rows = pairs[pairs["untrained"] == untrained]
        panel.scatter(
            rows["agreement"], rows["read"], color=color, s=26, alpha=0.75, label=said,
            marker="D" if untrained else "o",
        )  # fmt: skip
    panel.set(xlabel="Agreement of two encoders ($R^2$ of a linear map)", xlim=(None, 1.02))
    panel.set_ylabel("Factors read from the worse\n(mean $R^2$)")
    rank = pairs["agreement"].corr(pairs["read"], method="spearman")
    panel.set_title(f"Agreement and what is read, {len(pairs)} pairs: rank correlation {rank:z.2f}")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def diversity_figure(summary: pd.DataFrame) -> Figure:
    """Show rank, effective rank and conditioning of text differences by the number of texts."""
    figure, axes = plt.subplots(3, 1, figsize=(8, 10), sharex=True, layout="constrained")
    titles = {
        "rank": "Directions that texts span",
        "effective_rank": "Effective rank",
        "condition_number": "Condition number",
    }
    for panel, (quantity, title) in zip(axes, titles.items(), strict=True):
        rows = summary[summary["quantity"] == quantity]
        plot_curves(panel, rows, x="n_texts", by="tower", xscale="log", yscale="log")
        last = rows[rows["n_texts"] == rows["n_texts"].max()]
        ends = ", ".join(f"{row.tower} {row.mean:,.0f}" for row in last.itertuples())
        panel.set_title(f"{title} at {rows['n_texts'].max():,} texts: {ends}", fontsize=11)
        if quantity == "condition_number":
            continue
        for dimension in sorted(summary["dimension"].unique()):
            panel.axhline(dimension, color="black", linewidth=1, linestyle=":")
            panel.annotate(
                f"D = {dimension}", (panel.get_xlim()[0], dimension), (4, 3), color=INK, fontsize=9,
                textcoords="offset points",
            )  # fmt: skip
        panel.set_ylabel("Directions")
    axes[2].set_xlabel("Texts")
    return figure


def methods_figure(means: pd.DataFrame, conditions: dict[str, str], title: str) -> Figure:
    """Show a share in percent by method, one panel a direction, one mark a condition."""
    figure, axes = plt.subplots(
        1, len(DIRECTIONS), figsize=(11, 4.2), sharex=True, sharey=True, layout="constrained"
    )
    methods = list(dict.fromkeys(means["method"]))
    marks = list(zip((INVARIANT, CONTEXT, PALETTE[4]), "sod", strict=True))
    for panel, direction in zip(axes, DIRECTIONS, strict=True):
        for (condition, said), (color, marker) in zip(conditions.items(), marks, strict=False):
            rows = means[(means["target"] == direction) & (means["condition"] == condition)]
            rows = rows.set_index("method").loc[methods]
            reach = np.abs(rows[["low", "high"]].sub(rows["value"], axis=0).to_numpy().T)
            panel.errorbar(
                rows["value"], range(len(methods)), xerr=reach, fmt=marker, color=color,
                capsize=3, label=said,
            )  # fmt: skip
        here = means[
            (means["target"] == direction) & (means["condition"] == next(iter(conditions)))
        ]
        best = here.iloc[int(here["value"].argmax())]
        panel.set(xlim=(0, 101), xlabel=title)
        panel.set_title(
            f"From {direction}, {conditions[best['condition']]}: most by\n"
            f"{best['method']}, {best['value']:.0f} %", fontsize=11,
        )  # fmt: skip
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def grid_figure(grid: pd.DataFrame) -> Figure:
    """Show accuracy on the other modality, and recall, at every K and λ."""
    figure, axes = plt.subplots(
        2, len(DIRECTIONS), figsize=(10, 6.4), sharex=True, sharey=True, layout="constrained"
    )
    said = {"unseen": "probe, other modality (%)", "recall": "recall@1 (%)"}
    for row, (value, title) in zip(axes, said.items(), strict=True):
        for panel, direction in zip(row, DIRECTIONS, strict=True):
            part = grid[grid["direction"] == direction]
            cells = part.pivot_table(value, "K", "consistency_weight")
            low, high = grid[value].min(), grid[value].max()
            panel.imshow(cells, cmap="cividis", vmin=low, vmax=high, aspect="auto", origin="lower")
            for (i, j), number in np.ndenumerate(cells.to_numpy()):
                dark = number < (low + high) / 2
                panel.text(
                    j, i, f"{number:.0f}", ha="center", va="center",
                    color="white" if dark else "black",
                )  # fmt: skip
            panel.set_title(f"{direction}: {title}, at most {cells.max().max():.0f}", fontsize=10)
            panel.set_xticks(range(cells.shape[1]), [f"{one:g}" for one in cells.columns])
            panel.set_yticks(range(cells.shape[0]), cells.index)
            panel.grid(False)
    for panel in axes[1]:
        panel.set_xlabel("λ")
    for panel in axes[:, 0]:
        panel.set_ylabel("K")
    return figure
