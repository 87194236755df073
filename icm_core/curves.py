"""Curves with 95 % bands and labels at their ends, so that no legend has to be matched to lines."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from icm_core.figures import PALETTE

_LINE_HEIGHT = 0.062  # least distance between labels, as a fraction of the height of the axes


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
        Columns `x`, `by`, mean, low and high, as :func:`icm_core.claims.mean_interval` returns them. A
        band is left out where low or high is NaN.
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
        axes.plot(rows[x], rows["mean"], color=colors[name], linewidth=2, marker="o", markersize=3.5)
        axes.fill_between(rows[x], rows["low"], rows["high"], color=colors[name], alpha=0.18, linewidth=0)
        ends[name] = rows["mean"].iloc[-1]
    to_axes = axes.transData + axes.transAxes.inverted()
    right = summary[x].max()
    heights = {name: to_axes.transform((right, value))[1] for name, value in ends.items()}
    for name, height in _spread(heights).items():
        axes.text(1.02, height, name, color=colors[name], transform=axes.transAxes, va="center")


def _spread(heights: Mapping[str, float]) -> dict[str, float]:
    """Move labels apart, as little as possible from below upwards and back, keeping their order."""
    names = sorted(heights, key=lambda name: heights[name])
    wanted = np.array([heights[name] for name in names])
    steps = _LINE_HEIGHT * np.arange(len(names))
    # raising and lowering alone both keep the distance; their mean keeps it too, and centres a cluster
    raised = np.maximum.accumulate(wanted - steps)
    lowered = np.minimum.accumulate((wanted - steps)[::-1])[::-1]
    return dict(zip(names, (raised + lowered) / 2 + steps, strict=True))
