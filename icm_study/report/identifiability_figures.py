"""Figures of the page on identifiability and data: each shows a summary of a finding.

The summaries are those of :mod:`icm_study.report.identifiability`; nothing is computed here but
what a title says.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icm_study.experiments.coverage import BACKGROUND, BOTH, COLOURS, ORACLE, SEVEN
from icm_study.experiments.leakage import ANY_ANIMAL, SAME_CLASS
from icm_study.experiments.linearity import ALL, FACTORS, LINEAR, NONLINEAR, PAIRS, SHUFFLED
from icm_study.experiments.pair_numbers import HELD_OUT
from icm_study.experiments.small_encoders import AS_SHIPPED, NARROWED, TRAINED
from icm_study.report.figures import plot_curves
from icm_study.report.style import CONTEXT, INK, INVARIANT, PALETTE, VARIANT, headline
from icm_study.report.tables import percent

GAIN = "Gain over the plain probe, shortcut reversed\n(percentage points)"
KEPT = {"everything": ("whole embedding", CONTEXT), "oracle": ("ICM, oracle pairs", INVARIANT),
        "image": ("ICM, image pairs", PALETTE[5])}  # fmt: skip


def linearity_figure(summary: pd.DataFrame) -> Figure:
    """Show R² both ways: of the embedding from factors, and of factors from what is kept."""
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 4), layout="constrained", sharex=True)
    forward = summary[(summary["way"] == "embedding from factors")]
    forward = forward[forward["kept"] == "everything"].set_index("factor")
    names = [*FACTORS.values(), ALL, PAIRS, SHUFFLED]
    _bars(axes[0], forward.loc[names], names, CONTEXT, 0)
    main = forward["mean"].to_dict()[ALL]
    axes[0].set_title(f"Main effects explain\n{percent(main)} of the embedding")
    back = summary[summary["way"] == "factor from embedding"]
    factors = list(FACTORS.values())
    whole = back[back["kept"] == "everything"]
    for row, (reading, color) in enumerate(((LINEAR, CONTEXT), (NONLINEAR, PALETTE[2]))):
        part = whole[whole["reading"] == reading].set_index("factor").loc[factors]
        _bars(axes[1], part, factors, color, 0.3 * row, reading)
    mean = whole.groupby("reading")["mean"].mean()
    axes[1].set_title(
        f"A nonlinear reading\nchanges $R^2$ by {mean[NONLINEAR] - mean[LINEAR]:+z.2f}"
    )
    for row, (kept, (said, color)) in enumerate(KEPT.items()):
        part = back[(back["kept"] == kept) & (back["reading"] == LINEAR)].set_index("factor")
        _bars(axes[2], part.loc[factors], factors, color, 0.25 * row, said)
    linear = back[back["reading"] == LINEAR].pivot_table("mean", "factor", "kept")
    kept_share = (linear["oracle"] / linear["everything"]).clip(lower=0)
    axes[2].set_title(
        f"ICM keeps {percent(kept_share['class'])} of the\n"
        f"class, {percent(kept_share['scene'])} of the scene"
    )
    for panel in axes:
        panel.set(xlabel="$R^2$ on new images", xlim=(-0.05, 1.0))
        panel.invert_yaxis()
        panel.grid(True, axis="x")
        panel.grid(False, axis="y")
    (one, some), (other, more) = (panel.get_legend_handles_labels() for panel in axes[1:])
    figure.legend([*one, *other], [*some, *more], ncols=5, loc="outside lower center", fontsize=9)
    return figure


def _bars(
    panel: Axes, rows: pd.DataFrame, names: list[str], color: str, shift: float, label: str = ""
) -> None:
    place = np.arange(len(names)) + shift
    reach = np.abs(rows[["low", "high"]].sub(rows["mean"], axis=0).to_numpy().T)
    panel.errorbar(
        rows["mean"], place, xerr=reach, fmt="o", color=color, capsize=2, label=label or None
    )
    if not shift:
        panel.set_yticks(place, names)


def leak_figure(summary: pd.DataFrame) -> Figure:
    """Show gains by the share of pairs in which the animal changes."""
    figure, panel = plt.subplots(figsize=(8, 4), layout="constrained")
    colors = {SAME_CLASS: INVARIANT, ANY_ANIMAL: VARIANT}
    shown = summary.assign(percent=100 * summary["share"])
    plot_curves(panel, shown, x="percent", by="shown", colors=colors)
    _zero(panel)
    panel.set(xlabel="Pairs that show another animal (%)", ylabel=GAIN)
    worst = summary[summary["shown"] == ANY_ANIMAL].sort_values("share")
    above = worst[worst["low"] > 0]["share"]
    panel.set_title(
        f"The gain bears any other animal in up to {percent(above.max())} of the pairs"
        if len(above) else "Any leak takes the gain away"
    )  # fmt: skip
    return figure


def coverage_figure(summary: pd.DataFrame) -> Figure:
    """Show leak against coverage, and the gain, of each intervention."""
    table = summary.pivot_table("mean", "intervention", "quantity", sort=False)
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(9.8, 5), layout="constrained", width_ratios=(1.25, 1)
    )
    for name, row in table.iterrows():
        left.scatter(row["coverage"], row["leak"], color=_color(str(name)), s=36, zorder=3)
    _named(left, table)
    left.set(xlabel="Coverage: share of the variant factors that is re-drawn",
             ylabel="Leak: share of the class that is re-drawn")  # fmt: skip
    own = table.drop([SEVEN, BACKGROUND, COLOURS, BOTH, ORACLE])
    said = f"{own['leak'].idxmax()} leaks most, {own['coverage'].idxmax()} covers most"
    left.set_title(f"Of the seven, {said.replace('_', ' ')}")
    gains = summary[summary["quantity"] == "reversed"].set_index("intervention")
    gains = gains.sort_values("mean")
    place = np.arange(len(gains))
    for y, (name, row) in zip(place, gains.iterrows(), strict=True):
        reach = np.abs([[row["mean"] - row["low"]], [row["high"] - row["mean"]]])
        right.errorbar([row["mean"]], [y], xerr=reach, fmt="o", capsize=3, color=_color(str(name)))
    right.set_yticks(place, [str(name).replace("_", " ") for name in gains.index])
    right.axvline(0, color=INK, linewidth=1)
    right.grid(True, axis="x")
    right.grid(False, axis="y")
    right.set_xlabel(GAIN)
    best = gains.drop(ORACLE).index[-1]
    right.set_title(f"Best without a simulator: {str(best).replace('_', ' ')}")
    return figure


def _color(name: str) -> str:
    if name == ORACLE:
        return INVARIANT
    return {SEVEN: INK, BACKGROUND: PALETTE[2], COLOURS: PALETTE[2], BOTH: PALETTE[2]}.get(
        name, VARIANT
    )


def _named(panel: Axes, table: pd.DataFrame) -> None:
    """Name each point at its right, those in a crowd at their left."""
    panel.margins(x=0.3, y=0.1)
    for name, row in table.iterrows():
        side = -1 if name in (SEVEN, BOTH) else 1
        panel.annotate(
            str(name).replace("_", " "), (row["coverage"], row["leak"]), (6 * side, -3),
            textcoords="offset points", color=_color(str(name)), fontsize=9,
            ha="right" if side < 0 else "left",
        )  # fmt: skip


def pairs_figure(summary: pd.DataFrame) -> Figure:
    """Show what few pairs cost on linear models, a panel a rule, a curve a dimension."""
    rules = list(dict.fromkeys(summary["rule"]))
    figure, axes = plt.subplots(1, len(rules), figsize=(9.5, 4), sharey=True, layout="constrained")
    for panel, rule in zip(axes, rules, strict=True):
        rows = summary[summary["rule"] == rule]
        rows = rows.assign(name="D = " + rows["dimension"].astype(str))
        colors = dict(zip(dict.fromkeys(rows["name"]), PALETTE, strict=False))
        plot_curves(panel, rows, x="n_pairs", by="name", xscale="log", colors=colors)
        _zero(panel)
        panel.set(title=rule, xlabel="Pairs")
    axes[0].set_ylabel("Accuracy that is lost, shortcut reversed\n(percentage points)")
    lost = summary[summary["rule"] == HELD_OUT].groupby("n_pairs")["mean"].mean()
    said = "More pairs lose less"
    if lost.iloc[-1] > lost.min() + 1:
        said = (
            f"Over all D, the held-out rule loses least at {lost.idxmin():,} pairs "
            f"({lost.min():.0f} points), {lost.iloc[-1]:.0f} at {lost.index[-1]:,}"
        )
    headline(figure, said)
    return figure


def animal_pairs_figure(summary: pd.DataFrame) -> Figure:
    """Show the gain in the animal world by number of pairs, a panel for each kind of pairs."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4), sharey=True, layout="constrained")
    for panel, kind in zip(axes, ("image", "oracle"), strict=True):
        rows = summary[summary["pairs"] == kind]
        plot_curves(panel, rows, x="n_pairs", by="rule", xscale="log")
        _zero(panel)
        panel.set(title=f"{kind} pairs", xlabel="Pairs of the styles that are seen")
    axes[0].set_ylabel(GAIN)
    most = summary[summary["n_pairs"] == summary["n_pairs"].max()]
    best = most.loc[most["mean"].idxmax()]
    headline(figure, f"The most is gained from {best['pairs']} pairs, by {best['rule']}")
    return figure


def stability_figure(runs: pd.DataFrame) -> Figure:
    """Show what a user sees: share and overlap of two draws, by number of pairs."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.8), layout="constrained")
    said = {"overlap": "Overlap of two projections", "share": "Share re-drawn on other pairs"}
    for panel, (name, label) in zip(axes, said.items(), strict=True):
        for kind, color in (("image", PALETTE[5]), ("oracle", INVARIANT)):
            rows = runs[runs["pairs"] == kind]
            mean = rows.groupby("n_pairs")[name].agg(["mean", "min", "max"])
            panel.plot(mean.index, mean["mean"], color=color, marker="o", label=f"{kind} pairs")
            panel.fill_between(mean.index, mean["min"], mean["max"], color=color, alpha=0.18)
        panel.set(xscale="log", xlabel="Pairs", ylabel=label)
        panel.set_ylim(bottom=0)
    most = runs[runs["n_pairs"] == runs["n_pairs"].max()]
    reached = most.groupby("pairs")["overlap"].mean()
    axes[0].set_title(
        f"With {most['n_pairs'].iloc[0]} pairs two draws overlap\n"
        f"by {percent(reached.min())} ({reached.idxmin()} pairs, mean)"
    )
    axes[0].legend()
    return figure


def crossing_figure(runs: pd.DataFrame) -> Figure:
    """Show both risks by information, a panel for some targets."""
    one = runs[runs["n_invariant"] == 1]
    targets = [0.0, 0.3, 0.5]
    figure, axes = plt.subplots(1, len(targets), figsize=(9.5, 3.8), sharey=True,
                                layout="constrained")  # fmt: skip
    for panel, target in zip(axes, targets, strict=True):
        rows = one[one["target"] == target].sort_values("information")
        for name, color in (("invariant", INVARIANT), ("standard", VARIANT)):
            panel.plot(rows["information"], rows[name], color=color, linewidth=2)
            panel.annotate(
                name, (rows["information"].iloc[-1], rows[name].iloc[-1]), (7, 0),
                textcoords="offset points", color=color, va="center",
            )  # fmt: skip
        c = rows["threshold"].iloc[0]
        if 0 < c < np.inf:
            panel.axvline(c, color=INK, linewidth=1, linestyle=":")
        said = f"c = {c:.2f} bits" if np.isfinite(c) else "no c"
        panel.set(title=f"Target strength {target:g}: {said}", xscale="log",
                  xlabel="$I(Z_{inv}; Z)$ (bits)")  # fmt: skip
    axes[0].set_ylabel("Risk in the target (%)")
    return figure


def estimates_figure(summary: pd.DataFrame) -> Figure:
    """Show estimated bits against the number of pairs, beside the truth."""
    figure, panel = plt.subplots(figsize=(8, 4), layout="constrained")
    rows = summary.assign(name=summary["truth"].map("truth {:g} bits".format))
    colors = dict(zip(dict.fromkeys(rows["name"]), PALETTE, strict=False))
    plot_curves(panel, rows, x="n_pairs", by="name", xscale="log", colors=colors)
    for truth, name in zip(rows["truth"].unique(), colors, strict=True):
        panel.axhline(truth, color=colors[name], linewidth=1, linestyle=":")
    panel.set(xlabel="Pairs", ylabel="Estimated bits", ylim=(0, None))
    last = rows[rows["n_pairs"] == rows["n_pairs"].max()]
    error = (last["mean"] - last["truth"]).abs().max()
    panel.set_title(
        f"With {last['n_pairs'].iloc[0]:,} pairs the bits are off by {error:.2f} at most"
    )
    return figure


def encoders_figure(means: pd.DataFrame) -> Figure:
    """Show the gain of ICM against how well the class is identified."""
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), sharey=True, layout="constrained")
    kinds = {AS_SHIPPED: (INVARIANT, "o"), NARROWED: (PALETTE[2], "s"), TRAINED: (CONTEXT, "D")}
    for panel, (gain, said) in zip(
        axes, {"oracle_reversed": "oracle pairs", "image_reversed": "image pairs"}.items(),
        strict=True,
    ):  # fmt: skip
        for kind, (color, marker) in kinds.items():
            rows = means[means["kind"] == kind]
            panel.scatter(
                rows["r2_class"], rows[gain] - rows["plain_reversed"], color=color, marker=marker,
                label=kind, zorder=3,
            )  # fmt: skip
            for row in rows.to_dict("records"):
                if kind != TRAINED:
                    name = row["encoder"].split(", ")[-1].replace("animal-world", "shipped")
                    panel.annotate(
                        name, (row["r2_class"], row[gain] - row["plain_reversed"]),
                        (5 if kind == AS_SHIPPED else -5, 6),  # neighbours of two kinds
                        textcoords="offset points", color=color, fontsize=8,
                        ha="left" if kind == AS_SHIPPED else "right",
                    )  # fmt: skip
        _zero(panel)
        panel.set(title=said, xlabel="$R^2$ of the class, read from the embedding")
    axes[0].set_ylabel(GAIN)
    axes[1].legend(loc="best", fontsize=9)
    usual = means[means["kind"] != TRAINED]
    usual = usual.assign(gained=usual["oracle_reversed"] - usual["plain_reversed"])
    best, narrowest = (usual.sort_values(by)[["gained", "width"]].to_numpy()[place]
                       for by, place in (("r2_class", -1), ("width", 0)))  # fmt: skip
    headline(
        figure,
        f"From the oracle's pairs ICM gains {best[0]:+z.0f} points at width {best[1]:.0f}, "
        f"{narrowest[0]:+z.0f} at width {narrowest[1]:.0f}",
    )
    return figure


def _zero(panel: Axes) -> None:
    panel.axhline(0, color=INK, linewidth=1)
