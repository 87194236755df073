"""The environments of a study, embedded: sources with their interventional pairs, tests, and prompts.

This is where data set, interventions and encoder meet. What comes out is all that evaluation needs, as
labelled arrays, and is kept in an :class:`~icm_core.embeddings.EmbeddingStore`, so it is computed once.

The parts of the *source* table are aligned row by row: an image, the image after an image intervention,
the image rendered anew (the oracle intervention, in the animal world only), its caption and the edited caption.
In the animal world a *test* table holds other animals under three conditions: the shortcut as in the sources
("aligned"), absent ("none"), and pointing to another class ("reversed"). A folder of images has no such table: there
the protocol decides which images train and which test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
import xarray as xr

from icm_core.animal_world import (
    CLASSES,
    LEXICON,
    SHORTCUTS,
    STYLES,
    Silhouettes,
    captions,
    redraw_variant,
    render,
    sample_latents,
)
from icm_core.data.catalog import CATALOG, class_words
from icm_core.embeddings import EmbeddingStore, embed, fingerprint
from icm_core.encoders import Encoder
from icm_core.extraction import embed_files
from icm_core.interventions import IMAGE_INTERVENTIONS, intervene_captions, intervene_images
from icm_core.prediction import class_prompts

#: Pairs of the source table: kind of intervention -> (original, intervened) variables.
PAIRS = {"image": ("original", "image"), "oracle": ("original", "oracle"), "text": ("caption", "edit")}
PHOTO_TEMPLATES = ("a photo of a {}",)
TEMPLATES = ("an image of a {}", *(f"a {style} of a {{}}" for style in STYLES))
_BATCH = 128
_EMBEDDED: WeakKeyDictionary[Encoder, dict[str, np.ndarray]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Environments:
    """Embedded environments of one data set and one encoder.

    Attributes
    ----------
    source : Dataset
        Dimensions ``row`` and ``feature``. Variables ``original``, ``image``, ``caption``, ``edit``, and in the
        animal world ``oracle``; coordinates ``label``, ``domain``, and in the animal world ``oracle_domain`` and
        the latent factors, of a folder ``path``.
    test : Dataset or None
        Variables ``original`` and ``caption``; coordinates ``label``, ``domain``, ``shortcut`` and the
        latent factors. None for a folder: every image of `source` can be tested.
    prompts : Dataset
        Variable ``prompt`` of shape (n_prompts, feature), coordinate ``label``.
    provenance : dict
        Names, seeds and fingerprints of all that went in.
    domains, classes : tuple of str
        The names that the numbers in ``domain`` and ``label`` stand for.
    pairs : Dataset or None
        Interventional pairs of other images, as variables like those of `source`, which the projection is
        estimated from. None: from those of `source`.
    """

    source: xr.Dataset
    test: xr.Dataset | None
    prompts: xr.Dataset
    provenance: dict[str, Any]
    domains: tuple[str, ...] = STYLES
    classes: tuple[str, ...] = CLASSES
    pairs: xr.Dataset | None = None

    @property
    def tested(self) -> xr.Dataset:
        """The table whose images are tested."""
        return self.source if self.test is None else self.test


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
                partial(lambda s: _embed_test(encoder, silhouettes, latents_of("test", s), s), shortcut),
            )
        )
    return Environments(
        source=source,
        test=xr.concat(tests, "row"),
        prompts=embed_prompts(encoder, store, CLASSES, TEMPLATES),
        provenance=common | strengths,
    )


def image_folder(
    encoder: Encoder,
    images: pd.DataFrame,
    store: EmbeddingStore,
    *,
    name: str,
    texts: tuple[Sequence[str], Sequence[str]] | None = None,
    templates: Sequence[str] = PHOTO_TEMPLATES,
    seed: int = 0,
) -> Environments:
    """Embed the images of a folder, with an image intervention on each, and text interventions if they are given.

    Parameters
    ----------
    encoder : Encoder
    images : DataFrame
        Columns path, label and domain, as :func:`~icm_core.data.check.load_folder` returns it.
    store : EmbeddingStore
    name : str
        The data set's, for its words in prompts and captions (see :mod:`icm_core.data.catalog`) and for the record.
    texts : (captions, edits), optional
        For each image its caption, and the caption after an intervention on its variant words, for example from
        :func:`~icm_core.text.pairs.text_pairs`. By default there are no text interventions.
    templates : sequence of str
        Prompts for the classes.
    seed : int
        Seed of the interventions.

    Returns
    -------
    Environments

    Raises
    ------
    ValueError
        If captions and edits are not one for each image, an image cannot be read, or an embedding is not finite.
    OSError
        If the store's directory cannot be written.
    """
    domains, classes = (tuple(sorted(images[column].unique())) for column in ("domain", "label"))
    words = dict(zip(classes, class_words(name if name in CATALOG else None, classes), strict=True))
    source = embed_pairs(encoder, images, store, texts=texts, seed=seed)
    numbers = {"label": classes, "domain": domains}
    source = source.assign_coords(
        {k: ("row", [of.index(value) for value in images[k]]) for k, of in numbers.items()}
    )
    return Environments(
        source=source,
        test=None,
        prompts=embed_prompts(encoder, store, [words[name] for name in classes], templates),
        provenance={
            "encoder": encoder.name,
            "weights": encoder.fingerprint,
            "dataset": name,
            "pixels": source.attrs["images"],
            "texts": fingerprint(*templates, *(text for part in texts or () for text in part)),
            "seed": seed,
            "n": len(images),
        },
        domains=domains,
        classes=classes,
    )


def embed_pairs(
    encoder: Encoder,
    images: pd.DataFrame,
    store: EmbeddingStore,
    *,
    texts: tuple[Sequence[str], Sequence[str]] | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Embed image files, each after an image intervention too, and their captions and edits if they are given.

    Parameters and errors are those of :func:`image_folder`.

    Returns
    -------
    Dataset
        As :func:`~icm_core.extraction.embed_files`; with texts, also the variables ``caption`` and ``edit``.
    """
    if texts is None:
        return embed_files(encoder, images, store, seed=seed)
    captions, edits = texts
    if {len(captions), len(edits)} != {len(images)}:
        raise ValueError(
            f"{len(captions)} captions and {len(edits)} edits for {len(images)} images; give one of each for every image."
        )
    embedded = store.get(
        encoder.text_key(*captions, *edits),
        lambda: xr.Dataset(
            {
                name: (("row", "feature"), _embed_texts(encoder, part))
                for name, part in (("caption", captions), ("edit", edits))
            }
        ),
    )
    return embed_files(encoder, images, store, seed=seed).assign(embedded.data_vars)


def embed_prompts(
    encoder: Encoder, store: EmbeddingStore, words: Sequence[str], templates: Sequence[str]
) -> xr.Dataset:
    """Embed the prompts of classes numbered 0, 1, 2 and so on, or open what is stored."""
    prompts, _ = class_prompts(words, templates)
    labels = np.repeat(np.arange(len(words)), len(templates))
    return store.get(
        encoder.text_key(*prompts) | {"n": len(words)},
        lambda: xr.Dataset(
            {"prompt": (("row", "feature"), encoder.encode_text(prompts))}, {"label": ("row", labels)}
        ),
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
    settings = {k: environments.provenance[k] for k in ("coat_strength", "scene_strength", "seed", "n")}

    def compute() -> xr.Dataset:
        images = render(sample_latents(silhouettes, "source", **settings), silhouettes)
        variables = {
            name: embed(
                encoder,
                (intervene_images(batch, [name], settings["seed"]) for batch in images.split(_BATCH)),
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
    variables = {"original": original, "caption": _embed_texts(encoder, captions(latents, left_out=0.0))}
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
            yield images if seed is None else torch.cat([images, intervene_images(images, seed=seed)])

    def compute(rows: np.ndarray) -> np.ndarray:
        embedded = embed(encoder, batches(rows), total=kinds * len(rows))
        return (
            embedded.reshape(-1, kinds, _BATCH, embedded.shape[1])
            .swapaxes(1, 2)
            .reshape(len(rows), kinds, -1)
        )

    shapes = silhouettes.images[latents["silhouette"].to_numpy()]
    keys = [fingerprint(s, row, str(seed)) for s, row in zip(shapes, latents.to_numpy(float), strict=True)]
    return _once(encoder, keys, compute)


def _embed_texts(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Embed texts, (n, D)."""

    def compute(rows: np.ndarray) -> np.ndarray:
        batches = rows.reshape(-1, _BATCH)
        return np.concatenate([encoder.encode_text([texts[row] for row in batch]) for batch in batches])

    return _once(encoder, list(texts), compute)


def _once(encoder: Encoder, keys: list[str], compute: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Compute the rows whose key is new, and take the others from memory.

    Worlds of different strength share most of their images and captions, so each distinct one is embedded
    once in the life of the encoder. Batches are always full (the last one repeats rows): an embedding then has
    the same bits whatever else is embedded with it.
    """
    known = _EMBEDDED.setdefault(encoder, {})
    new = list({key: row for row, key in enumerate(keys) if key not in known}.values())
    if new:
        rows = np.resize(new, -(-len(new) // _BATCH) * _BATCH)
        known.update(zip([keys[row] for row in new], compute(rows), strict=False))
    return np.stack([known[key] for key in keys])


def _coordinates(latents: pd.DataFrame) -> dict[str, Any]:
    renamed = latents.rename(columns={"style": "domain"})
    keep = ["silhouette", "label", "domain", "coat", "scene", "light", "blur"]
    return {name: ("row", renamed[name].to_numpy()) for name in keep}


def pixel_fingerprint(silhouettes: Silhouettes) -> str:
    """Hash silhouettes, rendering, interventions and captions: a change in any of them changes the key."""
    latents = sample_latents(silhouettes, "source", coat_strength=0.5, scene_strength=0.5, n=64, seed=99)
    images = render(latents, silhouettes)
    words = captions(latents, left_out=0.5, seed=99)
    edits = intervene_captions(words, LEXICON, seed=99, keep=CLASSES)
    return fingerprint(
        silhouettes.images, silhouettes.label, silhouettes.part, images, intervene_images(images), *words, *edits,
        render(redraw_variant(latents, seed=99), silhouettes),
    )  # fmt: skip
