"""Images of a data set in labelled rows."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import ImageOps

from icm_core.interventions import intervene_images
from icm_study.animals.latents import redraw_variant, sample_latents
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import Silhouettes
from icm_study.photographs.folders import read_image


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


def pairs_figure(data: Silhouettes | pd.DataFrame, n: int = 12, seed: int = 2) -> Figure:
    """Show some images of a data set and what interventions make of them.

    Parameters
    ----------
    data : Silhouettes or DataFrame
        The animals, or the table of a folder's images with the column path.
    n : int
        Number of images.
    seed : int

    Returns
    -------
    matplotlib.figure.Figure
    """
    if isinstance(data, Silhouettes):
        strong = partial(
            sample_latents, data, coat_strength=0.9, scene_strength=0.9, n=n, seed=seed
        )
        source = strong("source")
        original = render(source, data)
        later = {
            "oracle": render(redraw_variant(source), data),
            "test, no shortcut": render(sample_latents(data, "test", n=n, seed=seed), data),
            "test, reversed": render(strong("test", shortcut="reversed"), data),
        }
    else:
        paths = data["path"].sample(min(n, len(data)), random_state=seed)
        squares = [ImageOps.fit(read_image(path), (128, 128)) for path in paths]
        original = torch.from_numpy(np.stack([np.asarray(image) for image in squares])).permute(
            0, 3, 1, 2
        )
        later = {}
    rows = {"source": original, "image intervention": intervene_images(original), **later}
    return image_grid({name: images.numpy() for name, images in rows.items()})
