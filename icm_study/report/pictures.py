"""Images of a data set in labelled rows."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from icm_study.experiments.study import Study


def image_grid(rows: Mapping[str, NDArray[np.uint8]]) -> Figure:
    """Show images in labelled rows.

    Parameters
    ----------
    rows : mapping of str to ndarray of shape (n, 3, height, width), uint8
        For each row its label and its images.

    Returns
    -------
    matplotlib.figure.Figure
    """
    width = max(len(images) for images in rows.values())
    side = 0.8 * 9 / width  # of an image, in inches: the label takes the first fifth of the figure
    figure, axes = plt.subplots(len(rows), figsize=(9, 1.04 * side * len(rows)), squeeze=False)
    for axis, (label, images) in zip(axes[:, 0], rows.items(), strict=True):
        axis.axis("off")
        axis.imshow(_in_a_line(images, width))
        axis.text(
            -0.15 / width, 0.5, label, transform=axis.transAxes, ha="right", va="center",
            fontsize=10,
        )  # fmt: skip
    figure.subplots_adjust(left=0.2, right=1, bottom=0, top=1, hspace=0.04)
    return figure


def _in_a_line(images: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Put images side by side with clear gaps, and leave room for as many as `width`."""
    n, _, height, one = images.shape
    gap = round(0.04 * one)
    line = np.zeros((height, width, one + gap, 4), np.uint8)  # one axes a line, not an image: fast
    line[:, :n, :one, :3] = images.transpose(2, 0, 3, 1)
    line[:, :n, :one, 3] = 255
    return line.reshape(height, -1, 4)[:, : -gap or None]


def examples_figure(study: Study, n: int = 12) -> Figure | None:
    """Show some images of a run's data, and what becomes of them.

    Parameters
    ----------
    study : Study
    n : int
        Images in each row.

    Returns
    -------
    matplotlib.figure.Figure or None
        None for recorded tables of files, which are shown without the files.
    """
    shown = study.examples(n)
    return image_grid(shown) if shown else None
