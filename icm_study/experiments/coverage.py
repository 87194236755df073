"""Which intervention re-draws most of what is variant, and which leaks into the class.

Beside the paper's seven image interventions stand two that re-draw the scene: a background that
is swapped by a mask, and colour statistics that are taken from another image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from icm_core.interventions import IMAGE_INTERVENTIONS
from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.experiments.diagnosis import redrawn_share
from icm_study.experiments.questions import accuracies, open_animals, projected

if TYPE_CHECKING:
    import torch

SEVEN, BACKGROUND, COLOURS, ORACLE = "one of the seven", "background", "colour statistics", "oracle"
BOTH = "background, then one of the seven"
VARIANT = ("domain", "coat", "scene", "light", "blur")
SETTLED = 0.05  # a mask below this is background alone


def swap_backgrounds(images: torch.Tensor, masks: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Give each image the background of another one.

    Where the other image has an object, its background's mean colour is put.

    Parameters
    ----------
    images : Tensor of shape (n, 3, H, W), uint8
    masks : Tensor of shape (n, 1, H, W)
        In [0, 1]; 1 is the object.
    seed : int
        Of the order in which backgrounds are handed round.

    Returns
    -------
    Tensor of shape (n, 3, H, W), uint8

    Raises
    ------
    ValueError
        If there is not one mask for each image, or only one image.
    """
    if masks.shape != (len(images), 1, *images.shape[2:]) or len(images) < 2:
        raise ValueError(
            f"Got images of shape {tuple(images.shape)} and masks of {tuple(masks.shape)}; "
            "expected (n, 3, H, W) and (n, 1, H, W), n at least 2."
        )
    pixels, giver = images.float(), _others(len(images), seed)
    outside = (masks < SETTLED).float()
    mean = (pixels * outside).sum((2, 3), True) / outside.sum((2, 3), True).clamp(min=1)
    background = (pixels * outside + mean * (1 - outside))[giver]
    return (masks * pixels + (1 - masks) * background).round().to(images.dtype)


def _others(n: int, seed: int) -> NDArray[np.intp]:
    """Deal out to each of n another one."""
    ring = np.random.default_rng(seed).permutation(n)
    giver = np.empty(n, dtype=np.intp)
    giver[ring] = np.roll(ring, 1)
    return giver


def shares_by_intervention(data: EmbeddedData, names: Sequence[str]) -> pd.DataFrame:
    """Measure what each intervention alone re-draws of each factor.

    Parameters
    ----------
    data : EmbeddedData
        Its source table has a variable for each of the names, the embeddings after that
        intervention.
    names : sequence of str

    Returns
    -------
    DataFrame
        Columns intervention, factor ("label" is the class), share and r2, as
        :func:`~icm_study.experiments.diagnosis.redrawn_share` gives them. Of a variant factor
        the share is the coverage; of the class it is the leak, which the encoder's mixing of
        class and variant factors raises alike.
    """
    tables = []
    for name in names:
        source = data.source[["original"]].assign(image=data.source[name])
        tables.append(redrawn_share(replace(data, source=source)).assign(intervention=name))
    return pd.concat(tables, ignore_index=True)


def run_coverage(given: Mapping[str, Any]) -> pd.DataFrame:
    """Measure what each intervention re-draws, and what a projection from its pairs is worth.

    Parameters
    ----------
    given : mapping of str to value
        *encoder*, *seeds*, of which the first *single_seeds* are taken, *n_images* and *cache*.

    Returns
    -------
    DataFrame
        Columns seed, intervention, leak (share of the class that is re-drawn), coverage (mean
        share of the variant factors), scene (that of the scene), K, and the accuracies
        in_distribution, unseen and reversed of a probe behind ICM.
    """
    rows = []
    seeds = given["seeds"][: given["single_seeds"]]
    for seed, embedder, world, data in open_animals({**given, "seeds": seeds}):
        data = world.with_single_interventions(embedder, data)
        data = _with_scenes(world, embedder, data, seed)
        named = {SEVEN: "image", **{name: name for name in IMAGE_INTERVENTIONS}}
        named |= {name: name for name in (BACKGROUND, COLOURS, BOTH, ORACLE)}
        table = shares_by_intervention(data, list(named.values()))
        for said, name in named.items():
            share = table[table["intervention"] == name].set_index("factor")["share"]
            told = {"leak": share["label"], "coverage": share[list(VARIANT)].mean()}
            got = accuracies(data, projected(name))
            rows.append(
                {"seed": seed, "intervention": said, **told, "scene": share["scene"], **got}
            )
        rows.append({"seed": seed, "intervention": "none", **accuracies(data)})
    return pd.DataFrame(rows)


def _with_scenes(world: Any, embedder: Embedder, data: EmbeddedData, seed: int) -> EmbeddedData:
    """Add the interventions that re-draw the scene to the source table."""
    key = data.provenance | {"part": "source", "scenes": [BACKGROUND, COLOURS, BOTH]}

    def compute() -> xr.Dataset:
        from icm_core.interventions import intervene_images
        from icm_study.animals.rendering import outlines, render
        from icm_study.photographs.colours import with_colours_of

        latents = world.latents("source", "aligned", seed)
        pixels = render(latents, world.silhouettes)
        swapped = swap_backgrounds(pixels, outlines(latents, world.silhouettes), seed)
        redrawn = {
            BACKGROUND: swapped,
            COLOURS: with_colours_of(pixels, pixels[_others(len(pixels), seed)]),
            BOTH: intervene_images(swapped, seed=seed),
        }
        embedded = {name: embedder.encoder.encode_images(one) for name, one in redrawn.items()}
        return xr.Dataset({name: (("row", "feature"), one) for name, one in embedded.items()})

    scenes = embedder.store.get(key, compute)
    return replace(data, source=data.source.assign(scenes.data_vars))
