"""Figures of the theory page: each shows the runs of an experiment or their summary.

The summaries are those of :mod:`icm_study.report.theory_claims`; nothing is computed here.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icm_study.report.figures import plot_curves
from icm_study.report.style import CONTEXT, INK, INVARIANT, PALETTE, VARIANT, headline
from icm_study.report.tables import percent
from icm_study.theory.propositions import N_FACTORS, TARGETS

WORLDS = {
    "shortcut": "Shortcut: y causes z_var",
    "cause": "Cause: z_var causes y",
    "concept shift": "Concept shift: e changes y",
}
ANGLE = "Largest angle (degrees)"
_EXACT = 1e-9  # a change below is rounding: the values are enumerated
#: Curves of the sweeps keep their colours from figure to figure.
SWEEP_COLORS = dict(
    zip(("λ = 1", "λ = 10", "λ = 100", "generalised", "λ = 1000"), PALETTE, strict=False)
)


def invariance_figure(runs: pd.DataFrame, medians: pd.DataFrame) -> Figure:
    """Show how much each distribution changes between environments, one panel a world."""
    figure, axes = plt.subplots(
        1, 3, figsize=(11, 3), sharex=True, sharey=True, layout="constrained"
    )
    for panel, (world, title) in zip(axes, WORLDS.items(), strict=True):
        sns.stripplot(
            runs[runs["world"] == world], x="change", y="quantity", ax=panel,
            size=2.5, alpha=0.35, jitter=0.25, color=VARIANT,
        )  # fmt: skip
        median = medians.loc[medians["world"] == world, "change"]
        panel.plot(
            median,
            range(len(median)),
            "|",
            color=INK,
            markersize=18,
            markeredgewidth=2,
            zorder=9,
        )
        panel.set(ylabel="", xlim=(-0.03, 1))
        panel.set_title(title, fontsize=11)
        panel.set_xlabel("Change between environments\n(total variation)")
    changes = medians[medians["change"] > _EXACT].groupby("world")["quantity"].agg(list)
    told = [f"{len(changes.get(world, []))} of {len(median)} ({world})" for world in WORLDS]
    headline(figure, f"Distributions that change: {', '.join(told)}")
    return figure


def identifiability_figure(explained: pd.DataFrame) -> Figure:
    """Show how well a linear map recovers the factors against the number of texts."""
    figure, panel = plt.subplots(figsize=(7.5, 4), layout="constrained")
    curves = explained["curve"].unique()
    colors = dict(zip(curves, (INVARIANT, PALETTE[5], VARIANT, CONTEXT), strict=True))
    plot_curves(panel, explained, x="n_texts", by="curve", colors=colors)
    panel.axvline(N_FACTORS + 1, color=INK, linewidth=1, linestyle=":")
    panel.set(xlabel="Number of texts", ylabel="$R^2$ of the factors (share)", ylim=(0, 1.05))
    reached = explained[explained["n_texts"] == N_FACTORS + 1].set_index("curve")["mean"]
    told = "".join(f": $R^2$ = {value:.2f}" for value in reached.filter(items=["diverse texts"]))
    panel.set_title(
        f"{N_FACTORS} factors from D + 1 = {N_FACTORS + 1} diverse texts (dotted){told}"
    )
    return figure


def consistency_figure(summary: pd.DataFrame) -> Figure:
    """Show what is left of the difference, and what is kept of the invariant factors."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3), sharey=True, layout="constrained")
    for panel, quantity, color in zip(axes, ("residual", "r2"), (VARIANT, INVARIANT), strict=True):
        rows = summary[summary["quantity"] == quantity]
        panel.errorbar(
            rows["mean"], rows["method"], xerr=_reach(rows), fmt="o", color=color, capsize=3
        )
    axes[0].set(xscale="log", xlabel="Residual (share of the second moment)")
    axes[0].set_title("What is left of the difference", fontsize=11)
    axes[1].set(xlabel="$R^2$ of $z_{inv}$ (share)", xlim=(-0.05, 1.05))
    axes[1].set_title("What is kept of the invariant factors", fontsize=11)
    axes[0].invert_yaxis()
    left = summary[summary["quantity"] == "residual"].sort_values("mean").iloc[[0, -1]]
    ends = (f"{row['mean']:.1g} ({row['method']})" for _, row in left.iterrows())
    headline(figure, f"Left of the difference: {' to '.join(ends)}")
    return figure


def ood_risk_figure(risks: pd.DataFrame, thresholds: pd.DataFrame) -> Figure:
    """Show the risk in the target against the information kept, one panel a target."""
    figure, axes = plt.subplots(
        1, len(TARGETS), figsize=(11.5, 3.2), sharey=True, layout="constrained"
    )
    where = thresholds.set_index("target")["threshold"]
    for panel, (target, title) in zip(axes, TARGETS.items(), strict=True):
        rows = risks[risks["target"] == target]
        for name, color in {"invariant": INVARIANT, "standard": VARIANT}.items():
            panel.plot(rows["information"], 100 * rows[name], color=color, linewidth=2)
        if np.isfinite(where[target]):
            panel.axvline(where[target], color=INK, linewidth=1, linestyle=":")
        panel.set(ylim=(0, 100))
        panel.set_title(f"{title}\nρ = {target}", fontsize=11)
        panel.set_xlabel("Information kept of $z_{inv}$ (bits)")
    first = risks[risks["target"] == next(iter(TARGETS))]
    for name, color, gap in (("invariant", INVARIANT, 4), ("standard", VARIANT, -9)):
        axes[0].text(1, 100 * first[name].iloc[-15] + gap, name, color=color)
    axes[0].set_ylabel("Risk in the target (% wrong)")
    ends = where[np.isfinite(where)]
    told = f"up to {ends.max():.2f} bits (ρ = {ends.idxmax():g})" if len(ends) else "nowhere"
    headline(
        figure,
        f"Invariance pays from a threshold on in {len(ends)} of {len(where)} targets: {told}",
    )
    return figure


def random_ood_risk_figure(worlds: pd.DataFrame) -> Figure:
    """Show the risk saved by invariance in random worlds against the information."""
    figure, panel = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    colors = np.where(worlds["is_worse"], VARIANT, INVARIANT)
    panel.scatter(worlds["information"], worlds["gain"], s=8, c=colors, alpha=0.5, linewidth=0)
    panel.axhline(0, color=INK, linewidth=1)
    for height, name, color in ((0.75, "invariant", INVARIANT), (0.2, "standard", VARIANT)):
        panel.text(1.01, height, f"{name} better", color=color, transform=panel.transAxes)
    panel.set_title(
        f"The standard predictor is better in {percent(worlds['is_worse'].mean())} of random "
        "shortcut worlds"
    )
    panel.set(xlabel="$I(Z_{inv}; Z)$ (bits)")
    panel.set_ylabel("Risk saved by invariance\n(percentage points)")
    return figure


def methods_figure(runs: pd.DataFrame, by_method: pd.DataFrame, title: str) -> Figure:
    """Show the angle of each run to the true subspace, and the mean of each objective."""
    figure, panel = plt.subplots(figsize=(8, 2.4), layout="constrained")
    sns.stripplot(runs, x="angle", y="method", ax=panel, color=CONTEXT, size=4, alpha=0.6)
    panel.errorbar(
        by_method["mean"], range(len(by_method)), xerr=_reach(by_method), fmt="|",
        color=INVARIANT, markersize=26,
    )  # fmt: skip
    panel.set(xscale="log", xlabel="Largest angle to the true subspace (degrees)", ylabel="")
    panel.set_ylim(len(by_method) - 0.5, -0.5)
    panel.set_title(f"{title}: {by_method['mean'].min():.2g}° to {by_method['mean'].max():.2g}°")
    return figure


def sample_size_figure(angles: pd.DataFrame) -> Figure:
    """Show the angle against the number of pairs, one panel a leak."""
    leaks = angles["leak"].unique()
    figure, axes = plt.subplots(1, len(leaks), figsize=(11, 3.8), sharey=True, layout="constrained")
    for panel, leak in zip(axes, leaks, strict=True):
        _sweep(panel, angles[angles["leak"] == leak], "n_pairs", "Number of pairs")
        of_leak = angles[angles["leak"] == leak]
        panel.set_title(_apart(of_leak, "n_pairs", f"Leak δ = {leak:g}"), fontsize=9)
    axes[0].set_ylabel(ANGLE)
    axes[1].set_ylabel("")
    return figure


def sweep_of_angles(angles: pd.DataFrame, x: str, xlabel: str, title: str) -> Figure:
    """Show the angle against one parameter, one line a method."""
    figure, panel = plt.subplots(figsize=(7.5, 4), layout="constrained")
    _sweep(panel, angles, x, xlabel)
    panel.set_title(_apart(angles, x, title), fontsize=10)
    return figure


def _apart(angles: pd.DataFrame, x: str, title: str) -> str:
    """Add to a title which methods end nearest to the truth, and farthest."""
    last = angles[angles[x] == angles[x].max()].set_index("method")["mean"].sort_values()
    ends = (f"{last.iloc[place]:.2g}° ({last.index[place]})" for place in (0, -1))
    return f"{title}: at {angles[x].max():g} from {' to '.join(ends)}"


def weight_figure(summary: pd.DataFrame) -> Figure:
    """Show the angle and the number of positive eigenvalues against λ, one line a leak."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
    summary = summary.assign(curve=summary["leak"].map("δ = {:g}".format))
    for panel, quantity, yscale in zip(axes, ("angle", "auto_k"), ("log", "linear"), strict=True):
        rows = summary[summary["quantity"] == quantity]
        plot_curves(panel, rows, x="consistency_weight", by="curve", xscale="log", yscale=yscale)
        panel.set_xlabel("λ")
        for leak, color in zip(rows["leak"].unique(), PALETTE, strict=False):
            if leak:
                panel.axvline(leak**-2, color=color, linewidth=1, linestyle=":")
    axes[0].set(ylabel=ANGLE)
    axes[0].set_title("Angle to the truth", fontsize=11)
    axes[1].set(ylabel="Components")
    axes[1].set_title("Number of positive eigenvalues (truth: 4)", fontsize=11)
    angles = summary[summary["quantity"] == "angle"]
    best = angles.loc[angles.groupby("curve", sort=False)["mean"].idxmin()]
    told = ", ".join(
        f"{row['curve']}: {row['mean']:.2g}° at λ = {row['consistency_weight']:.2g}"
        for _, row in best.iterrows()
    )
    headline(figure, f"Smallest angle, {told}")
    return figure


def _sweep(panel: Axes, angles: pd.DataFrame, x: str, xlabel: str) -> None:
    plot_curves(panel, angles, x=x, by="method", xscale="log", yscale="log", colors=SWEEP_COLORS)
    panel.set(xlabel=xlabel, ylabel=ANGLE)


def _reach(rows: pd.DataFrame) -> np.ndarray:
    """How far intervals reach below and above their means."""
    return np.abs(rows[["low", "high"]].sub(rows["mean"], axis=0).to_numpy().T)
