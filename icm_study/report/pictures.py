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
    figure, axes = plt.subplots(
        len(rows), width, figsize=(9, 1.04 * side * len(rows)), squeeze=False
    )
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        for axis in line:
            axis.axis("off")
        for axis, image in zip(line, images, strict=False):
            axis.imshow(image.transpose(1, 2, 0))
        line[0].text(
            -0.15, 0.5, label, transform=line[0].transAxes, ha="right", va="center", fontsize=10
        )
    figure.subplots_adjust(left=0.2, right=1, bottom=0, top=1, wspace=0.04, hspace=0.04)
    return figure


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
