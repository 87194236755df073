"""The experiment on variants: every method is fitted once on the source, and measured on each variant.

The data and their split are those of :mod:`icm_study.testbeds.animal_variants`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import ImageOps
from tqdm import tqdm

from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import Silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Environments
from icm_study.encoders.encoder import Encoder
from icm_study.experiments.domain_generalization import World, strengths, world_name
from icm_study.experiments.evaluation import evaluate
from icm_study.photographs.folders import read_image
from icm_study.testbeds.animal_variants import animal_variants
from icm_study.testbeds.imagenet_variants import imagenet_variants
from icm_study.testbeds.splits import variant_split


def load_variants(
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    seed: int = 0,
    world: World | Sequence[Any] | None = None,
    silhouettes: Silhouettes | None = None,
    reference: Encoder | None = None,
    images: pd.DataFrame | None = None,
    variants: Mapping[str, pd.DataFrame] | None = None,
    n: int | None = None,
    projection_images: tuple[str, pd.DataFrame] | None = None,
    captioner: str | None = None,
    editor: str = "rules",
) -> Environments:
    """Embed (or open) the variants of the animal world, or of ImageNet.

    ImageNet is embedded once: its interventions have seed 0, whatever `seed` is.

    Parameters
    ----------
    encoder, store, world, silhouettes, reference, images, variants, n,
    projection_images, captioner, editor
        As for :func:`run_variants`.
    seed : int

    Returns
    -------
    Environments

    Raises
    ------
    ValueError
        If there are neither images nor silhouettes and a world, the world's shortcut is
        unknown, or as
        :func:`animal_variants` and :func:`imagenet_variants`.
    """
    if images is not None:
        return imagenet_variants(
            encoder,
            images,
            variants or {},
            store,
            projection_images=projection_images,
            captioner=captioner,
            editor=editor,
        )
    if silhouettes is None or world is None:
        raise ValueError(
            f"Nothing to embed: silhouettes={silhouettes!r}, world={world!r}, "
            f"images={images!r}. Give the training images "
            "of ImageNet and its variants, or silhouettes and a world."
        )
    return animal_variants(
        encoder, silhouettes, store, seed=seed, n=n, reference=reference, **strengths(world)
    )


def run_variants(
    dataset: str,
    encoder: Encoder,
    store: EmbeddingStore,
    *,
    seeds: Iterable[int],
    world: World | Sequence[Any] | None = None,
    silhouettes: Silhouettes | None = None,
    reference: Encoder | None = None,
    images: pd.DataFrame | None = None,
    variants: Mapping[str, pd.DataFrame] | None = None,
    n: int | None = None,
    projection_images: tuple[str, pd.DataFrame] | None = None,
    captioner: str | None = None,
    editor: str = "rules",
    **options: Any,
) -> pd.DataFrame:
    """Evaluate every method on each variant, for each seed.

    In the animal world each seed draws new images. ImageNet is embedded once, and each
    seed splits its training images anew.

    Parameters
    ----------
    dataset : str
        ``"animal-world"``, or the name of the folder of training images.
    encoder : Encoder
    store : EmbeddingStore
    seeds : iterable of int
    world : (shortcut, strength)
        For the animal world.
    silhouettes, reference, n
        For the animal world, see :func:`animal_variants`.
    images, variants, projection_images, captioner, editor
        For ImageNet, see :func:`imagenet_variants`.
    **options
        Passed to :func:`~icm_study.experiments.evaluation.evaluate`; there is no target
        that ``validations`` could name.

    Returns
    -------
    DataFrame
        The rows of :func:`~icm_study.experiments.evaluation.evaluate`, whose conditions
        are ``in_distribution`` and the names of the variants, with dataset, encoder,
        world, shortcut, strength, target ("none") and seed.

    Raises
    ------
    ValueError
        If there is no seed, K and λ are to be chosen on a target, or as :func:`load_variants`.
    """
    seeds = tuple(seeds)
    if not seeds:
        raise ValueError("Nothing to run: there are no seeds. Give at least one.")
    if "target" in options.get("validations", ()):
        raise ValueError(
            "validations has 'target', but no variant is the target: nothing may be chosen "
            "on the images that are "
            "tested. Leave it out."
        )
    columns: dict[str, Any] = {
        "dataset": dataset,
        "encoder": encoder.name,
        "world": dataset,
        "shortcut": "unknown",
        "strength": np.nan,
    }
    given: dict[str, Any] = {
        "images": images,
        "variants": variants,
        "projection_images": projection_images,
        "captioner": captioner,
        "editor": editor,
    }
    if images is None:
        given = {"world": world, "silhouettes": silhouettes, "reference": reference, "n": n}
    if images is None and world is not None:
        columns |= {"world": world_name(world), "shortcut": world[0], "strength": world[1]}
    tables = []
    for seed in tqdm(seeds, desc="seeds", unit="seed"):
        environments = load_variants(encoder, store, seed=seed, **given)
        table = evaluate(variant_split(environments, seed), **options)
        tables.append(table.assign(**columns, target="none", seed=seed))
    return pd.concat(tables, ignore_index=True)


def example_images(
    environments: Environments, silhouettes: Silhouettes | None = None, n: int = 12, seed: int = 0
) -> dict[str, np.ndarray]:
    """Show a few images of the source and of each variant.

    Parameters
    ----------
    environments : Environments
        As :func:`animal_variants` or :func:`imagenet_variants` returns them.
    silhouettes : Silhouettes, optional
        Those of the animal world, to render its images again; image files are read.
    n : int
        Images of each.
    seed : int

    Returns
    -------
    dict of str to ndarray of shape (n, 3, height, width), uint8
        For :func:`~icm_study.report.pictures.image_grid`.
    """
    tests = variant_split(environments, seed).tests
    shown = {}
    for name, table in (
        {"source": environments.source} | {key: tests[key] for key in environments.domains}
    ).items():
        size = table.sizes["row"]
        rows = table.isel(row=np.random.default_rng(seed).permutation(size)[:n])
        if silhouettes is not None:
            shown[name] = render(rows.coords.to_dataset().to_dataframe(), silhouettes).numpy()
        else:
            squares = [
                ImageOps.fit(read_image(path), (128, 128)) for path in rows["path"].to_numpy()
            ]
            shown[name] = np.stack([np.asarray(image).transpose(2, 0, 1) for image in squares])
    return shown
