"""The animal world as a test bed: its sources with their pairs, its tests, its prompts, embedded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from icm_core.interventions import IMAGE_INTERVENTIONS, intervene_captions, intervene_images
from icm_core.prediction import class_prompts
from icm_study.animals.latents import (
    LEXICON,
    SHORTCUTS,
    STYLES,
    captions,
    redraw_variant,
    sample_latents,
)
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import CLASSES, Silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import (
    _BATCH,
    Environments,
    _embed_texts,
    _once,
    embed,
    embed_prompts,
)
from icm_study.encoders.encoder import Encoder
from icm_study.fingerprint import fingerprint

TEMPLATES = ("an image of a {}", *(f"a {style} of a {{}}" for style in STYLES))


def animal_world(
    encoder: Encoder,
    silhouettes: Silhouettes,
    store: EmbeddingStore,
    *,
    coat_strength: float = 0.9,
    scene_strength: float = 0.9,
    seed: int = 0,
    n: int | None = None,
) -> Environments:
    """Embed the animal world's environments.

    Parameters
    ----------
    encoder : Encoder
    silhouettes : Silhouettes
    store : EmbeddingStore
    coat_strength, scene_strength : float in [0, 1]
        Strength of the shortcut in the sources.
    seed : int
        Seed of the latents, the interventions and the captions.
    n : int, optional
        Images in each table, drawn with replacement; by default every silhouette of the part once.

    Returns
    -------
    Environments

    Raises
    ------
    ValueError
        If a strength is outside [0, 1], or an embedding is not finite.
    OSError
        If the store's directory cannot be written.
    """
    strengths = {"coat_strength": coat_strength, "scene_strength": scene_strength}
    common = encoder.text_key(*class_prompts(CLASSES, TEMPLATES)[0]) | {
        "encoder": encoder.name,
        "dataset": "animal-world",
        "pixels": pixel_fingerprint(silhouettes),
        "seed": seed,
        "n": n,
    }

    def latents_of(part: str, shortcut: str) -> pd.DataFrame:
        return sample_latents(
            silhouettes, part, shortcut=shortcut, seed=seed, n=n,
            coat_strength=coat_strength, scene_strength=scene_strength,
        )  # fmt: skip

    source = store.get(
        common | {"part": "source", **strengths},
        lambda: embed_source(encoder, silhouettes, latents_of("source", "aligned"), seed),
    )
    tests = []
    for shortcut in SHORTCUTS:
        # without a shortcut the strengths are irrelevant: one stored table serves all
        relevant = {} if shortcut == "none" else strengths
        tests.append(
            store.get(
                common | {"part": "test", "shortcut": shortcut, **relevant},
                partial(
                    lambda s: _embed_test(encoder, silhouettes, latents_of("test", s), s), shortcut
                ),
            )
        )
    return Environments(
        source=source,
        test=xr.concat(tests, "row"),
        prompts=embed_prompts(encoder, store, CLASSES, TEMPLATES),
        provenance=common | strengths,
    )


def with_single_interventions(
    environments: Environments, encoder: Encoder, silhouettes: Silhouettes, store: EmbeddingStore
) -> Environments:
    """Add each of the paper's image interventions on its own to the source table.

    Parameters
    ----------
    environments : Environments
        As :func:`animal_world` returns them, for this encoder and these silhouettes.
    encoder : Encoder
    silhouettes : Silhouettes
    store : EmbeddingStore

    Returns
    -------
    Environments
        The source table has one more variable for each key of
        :data:`~icm_core.interventions.IMAGE_INTERVENTIONS`.
    """
    key = environments.provenance | {"part": "source", "interventions": list(IMAGE_INTERVENTIONS)}
    settings = {
        k: environments.provenance[k] for k in ("coat_strength", "scene_strength", "seed", "n")
    }

    def compute() -> xr.Dataset:
        images = render(sample_latents(silhouettes, "source", **settings), silhouettes)
        variables = {
            name: embed(
                encoder,
                (
                    intervene_images(batch, [name], settings["seed"])
                    for batch in images.split(_BATCH)
                ),
                total=len(images),
                description=name,
            )
            for name in IMAGE_INTERVENTIONS
        }
        return xr.Dataset({k: (("row", "feature"), v) for k, v in variables.items()})

    singles = store.get(key, compute)
    return replace(environments, source=environments.source.assign(singles.data_vars))


def embed_source(
    encoder: Encoder,
    silhouettes: Silhouettes,
    latents: pd.DataFrame,
    seed: int,
    styles: Sequence[str] = STYLES,
) -> xr.Dataset:
    """Embed rows of latents with all their pairs, see :class:`Environments`; the oracle draws from `styles`."""
    redrawn = redraw_variant(latents, styles=styles, seed=seed)
    words = captions(latents, left_out=0.0, seed=seed)
    edits = intervene_captions(words, LEXICON, seed=seed, keep=CLASSES)
    original, image = embed_rendered(encoder, silhouettes, latents, seed).swapaxes(0, 1)
    (oracle,) = embed_rendered(encoder, silhouettes, redrawn).swapaxes(0, 1)
    variables = {
        "original": original,
        "image": image,
        "oracle": oracle,
        "caption": _embed_texts(encoder, words),
        "edit": _embed_texts(encoder, edits),
    }
    coordinates = _coordinates(latents) | {"oracle_domain": ("row", redrawn["style"].to_numpy())}
    return xr.Dataset({k: (("row", "feature"), v) for k, v in variables.items()}, coordinates)


def _embed_test(
    encoder: Encoder, silhouettes: Silhouettes, latents: pd.DataFrame, shortcut: str
) -> xr.Dataset:
    (original,) = embed_rendered(encoder, silhouettes, latents).swapaxes(0, 1)
    variables = {
        "original": original,
        "caption": _embed_texts(encoder, captions(latents, left_out=0.0)),
    }
    coordinates = _coordinates(latents) | {"shortcut": ("row", [shortcut] * len(latents))}
    return xr.Dataset({k: (("row", "feature"), v) for k, v in variables.items()}, coordinates)


def embed_rendered(
    encoder: Encoder, silhouettes: Silhouettes, latents: pd.DataFrame, seed: int | None = None
) -> np.ndarray:
    """Render and embed rows of latents: (n, 1, D), or (n, 2, D) with the image intervention of a seed."""
    kinds = 1 if seed is None else 2

    def batches(rows: np.ndarray) -> Iterator[torch.Tensor]:
        for batch in rows.reshape(-1, _BATCH):
            images = render(latents.iloc[batch], silhouettes)
            yield (
                images if seed is None else torch.cat([images, intervene_images(images, seed=seed)])
            )

    def compute(rows: np.ndarray) -> np.ndarray:
        embedded = embed(encoder, batches(rows), total=kinds * len(rows))
        return (
            embedded.reshape(-1, kinds, _BATCH, embedded.shape[1])
            .swapaxes(1, 2)
            .reshape(len(rows), kinds, -1)
        )

    shapes = silhouettes.images[latents["silhouette"].to_numpy()]
    keys = [
        fingerprint(s, row, str(seed))
        for s, row in zip(shapes, latents.to_numpy(float), strict=True)
    ]
    return _once(encoder, keys, compute)


def _coordinates(latents: pd.DataFrame) -> dict[str, Any]:
    renamed = latents.rename(columns={"style": "domain"})
    keep = ["silhouette", "label", "domain", "coat", "scene", "light", "blur"]
    return {name: ("row", renamed[name].to_numpy()) for name in keep}


def pixel_fingerprint(silhouettes: Silhouettes) -> str:
    """Hash silhouettes, rendering, interventions and captions: a change in any of them changes the key."""
    latents = sample_latents(
        silhouettes, "source", coat_strength=0.5, scene_strength=0.5, n=64, seed=99
    )
    images = render(latents, silhouettes)
    words = captions(latents, left_out=0.5, seed=99)
    edits = intervene_captions(words, LEXICON, seed=99, keep=CLASSES)
    return fingerprint(
        silhouettes.images, silhouettes.label, silhouettes.part, images, intervene_images(images), *words, *edits,
        render(redraw_variant(latents, seed=99), silhouettes),
    )  # fmt: skip
