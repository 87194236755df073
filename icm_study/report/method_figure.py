"""The drawing of the method: from pairs to moments, to the subspace, to predictions."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon

from icm_study.animals.latents import captions, redraw_variant, sample_latents
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.report.style import CONTEXT, INK, INVARIANT, PAPER, VARIANT


def method_figure(images: Sequence[np.ndarray], captions: Sequence[str]) -> Figure:
    """Draw the method: from pairs to moments, to the invariant subspace, to predictions.

    Parameters
    ----------
    images : two arrays of shape (height, width, 3)
        An image and the same image after an intervention on its variant factors.
    captions : two strings
        A caption and its edit.

    Returns
    -------
    matplotlib.figure.Figure
    """
    if len(images) != 2 or len(captions) != 2:
        raise ValueError(
            f"got {len(images)} images and {len(captions)} captions; expected two of each: "
            f"before and after."
        )
    figure, axes = plt.subplots(figsize=(9, 6), layout="constrained")
    axes.set(xlim=(-4, 90), ylim=(0, 60), aspect="equal")
    axes.axis("off")
    _draw_pairs(axes, images, captions)
    _draw_encoder(axes)
    _draw_moments(axes)
    _draw_subspace(axes)
    _draw_prediction(axes)
    return figure


def example_figure() -> Figure:
    """Draw the method with a pair of the animal world's: the oracle's, which changes all."""
    from icm_study.animals.rendering import render  # imports torch, which is slow

    silhouettes = load_silhouettes()
    before = sample_latents(silhouettes, "test", n=40, seed=1)
    pair = [latents.iloc[[9]] for latents in (before, redraw_variant(before, seed=3))]
    images = [render(latents, silhouettes)[0].permute(1, 2, 0).numpy() for latents in pair]
    return method_figure(images, [captions(latents, left_out=0)[0] for latents in pair])


def _heading(axes: Axes, x: float, y: float, number: int, text: str) -> None:
    bubble = {"boxstyle": "circle,pad=0.25", "facecolor": INK, "edgecolor": "none"}
    style: dict[str, Any] = {
        "color": PAPER,
        "weight": "bold",
        "ha": "center",
        "va": "center",
        "fontsize": 11,
    }
    axes.text(x, y, f"{number}", bbox=bubble, **style)
    axes.text(x + 2.6, y, text, weight="bold", va="center", fontsize=12, color=INK)


def _box(
    axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str
) -> None:
    shape = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=1",
        facecolor="none",
        edgecolor=color,
    )
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=10, color=INK)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = CONTEXT
) -> None:
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=14, linewidth=1.5, color=color
    )
    axes.add_patch(arrow)


def _draw_pairs(axes: Axes, images: Sequence[np.ndarray], captions: Sequence[str]) -> None:
    _heading(axes, 2, 57, 1, "Interventional pairs")
    for image, left, name in zip(images, (1, 19), ("$x$", r"$x_{\mathrm{do}}$"), strict=True):
        axes.imshow(image, extent=(left, left + 12, 40, 52), interpolation="lanczos", zorder=2)
        axes.text(left + 6, 53.2, name, ha="center", va="center", fontsize=11)
    _arrow(axes, (13.6, 46), (18.4, 46), color=VARIANT)
    axes.text(16, 47.4, "do", ha="center", fontsize=11, color=VARIANT)
    for caption, bottom, name in zip(
        captions, (33, 27), ("$t$", r"$t_{\mathrm{do}}$"), strict=True
    ):
        _box(axes, 1, bottom, 30, 5.2, "\n".join(textwrap.wrap(caption, 32)), CONTEXT)
        axes.text(0, bottom + 2.6, name, ha="right", va="center", fontsize=11)


def _draw_encoder(axes: Axes) -> None:
    _heading(axes, 38, 57, 2, "Frozen CLIP")
    for centre, name in ((46, "$f_I$"), (32.6, "$f_T$")):
        corners = [(38, centre - 5.2), (38, centre + 5.2), (48, centre + 3), (48, centre - 3)]
        axes.add_patch(
            Polygon(corners, facecolor="#EDEDED", edgecolor=INK, linewidth=1.3, joinstyle="round")
        )
        axes.text(43, centre, name, ha="center", va="center", fontsize=14)
        _arrow(axes, (31.8, centre), (37.4, centre))
        _arrow(axes, (48.6, centre), (55.4, centre))
        axes.text(51.6, centre + 1.8, r"$f, f_{\mathrm{do}}$", ha="center", fontsize=10)


def _draw_moments(axes: Axes) -> None:
    _heading(axes, 57, 57, 3, "Second moments")
    rng = np.random.default_rng(0)
    difference = r"(f-f_{\mathrm{do}})"
    names = (
        ("$C$", r"$\mathrm{E}\,[f f^\top]$", "Blues"),
        ("$S$", rf"$\mathrm{{E}}\,[{difference}{difference}^\top]$", "Oranges"),
    )
    for (name, formula, colours), bottom in zip(names, (41.5, 28.1), strict=True):
        factor = rng.normal(size=(7, 3))
        axes.imshow(
            np.abs(factor @ factor.T),
            extent=(56.5, 65.5, bottom, bottom + 9),
            cmap=colours,
            zorder=2,
        )
        axes.text(67.2, bottom + 5.8, f"{name} =", va="center", fontsize=11.5)
        axes.text(67.2, bottom + 2.4, formula, va="center", fontsize=11.5)
    axes.plot([61, 61, 15.5], [27.2, 24.9, 24.9], color=CONTEXT, linewidth=1.5)
    _arrow(axes, (15.5, 25.1), (15.5, 20.2))


def _draw_subspace(axes: Axes) -> None:
    _heading(axes, 2, 18.8, 4, "Invariant subspace")
    eigenvalues = np.array([8.4, 6.2, 4.6, 3.2, 1.0, 0.4, -1.2, -2.6])
    kept = 4
    colours = [INVARIANT] * kept + [CONTEXT, CONTEXT, VARIANT, VARIANT]
    lefts = 3 + 3.1 * np.arange(len(eigenvalues))
    axes.bar(lefts, eigenvalues, width=2.3, bottom=6.5, align="edge", color=colours, zorder=2)
    axes.plot([2, 28], [6.5, 6.5], color=INK, linewidth=1, zorder=3)
    axes.text(13.5, 13, r"top-$K$: rows of $A$", color=INVARIANT, fontsize=11)
    axes.text(15, 1, r"eigenvalues of $C-\lambda S$", ha="center", va="center", fontsize=11)
    _arrow(axes, (34, 9), (43, 9))
    axes.text(38.5, 10.4, "$A$", ha="center", fontsize=13, color=INVARIANT)


def _draw_prediction(axes: Axes) -> None:
    _heading(axes, 46, 18.8, 5, "Predict in a new domain")
    _box(axes, 45, 9.6, 44, 5.6, "zero-shot:  cosine of $A f_I(x)$ and $A f_T$(prompt)", INVARIANT)
    _box(axes, 45, 2.4, 44, 5.6, "linear probe:  logistic regression on $A f_I(x)$", INVARIANT)
