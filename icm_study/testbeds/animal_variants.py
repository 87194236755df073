"""Variants of one data set: trained on one kind of image, tested on others with the same classes.

ImageNet has such variants, and each asks another question. **V2** was collected again
in the same way: does the accuracy hold at all? **R** shows renditions (paintings,
cartoons, toys) and **Sketch** black-and-white drawings: is it the shape that counts?
**A** holds photographs that a reference model, a ResNet-50, gets wrong: does another
model fail with it? R and A have 200 of the 1,000 classes, and a classifier chooses
among these only.

The animal world gets four variants made in the same way. The source is photos of the
source animals in which coat and scene follow the class. The variants show the test
animals, all four the same ones:

- V2: photos drawn from the same distribution as the source, its shortcut included;
- R: cartoons and paintings. A rendition is free in its colours and its ground, so there
  is no shortcut;
- Sketch: line drawings, without the shortcut too;
- A: of photos without the shortcut (as from another place), those that a linear probe
  on a *reference* encoder, trained on the source photos, gets wrong. The reference has
  0 % on A by construction, so A is only about *other* encoders, and the accuracy on it
  says nothing about photos in general.

Everything is fitted and chosen on the source alone; only the projection for ImageNet's
variants may be estimated on other images instead, of any classes or none. The oracle
pairs of the animal world show photos only, so that no method sees a variant's style;
but captions may name it, as anyone can without seeing an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from threadpoolctl import threadpool_limits

from icm_core.prediction import LinearProbe, class_prompts
from icm_study.animals.latents import sample_latents
from icm_study.animals.silhouettes import CLASSES, Silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Environments, embed_prompts
from icm_study.encoders.encoder import Encoder
from icm_study.encoders.loading import load_encoder
from icm_study.testbeds.animal_world import (
    TEMPLATES,
    embed_rendered,
    embed_source,
    pixel_fingerprint,
)

SOURCE_STYLES = ("photo",)

#: Variants of the animal world: name -> (styles, shortcut). Of A this is the pool that
#: it is picked from.
ANIMAL_VARIANTS = {
    "V2": (SOURCE_STYLES, "aligned"),
    "R": (("cartoon", "painting"), "none"),
    "Sketch": (("sketch",), "none"),
    "A": (SOURCE_STYLES, "none"),
}

REFERENCE = "animal-world-biased"  # the encoder whose mistakes make A


def animal_variants(
    encoder: Encoder,
    silhouettes: Silhouettes,
    store: EmbeddingStore,
    *,
    coat_strength: float = 0.9,
    scene_strength: float = 0.9,
    seed: int = 0,
    n: int | None = None,
    reference: Encoder | None = None,
) -> Environments:
    """Embed photos of the animal world, with interventions, and its variants V2, R, Sketch and A.

    Parameters
    ----------
    encoder : Encoder
    silhouettes : Silhouettes
    store : EmbeddingStore
    coat_strength, scene_strength : float in [0, 1]
        Strength of the shortcut in the source and in V2.
    seed : int
        Seed of the latents, the interventions and the captions.
    n : int, optional
        Images in the source and in each variant (for A: in the pool), drawn with
        replacement; by default every silhouette of the part once.
    reference : Encoder, optional
        The encoder whose mistakes make A; by default ``animal-world-biased``.

    Returns
    -------
    Environments
        As :func:`imagenet_variants`, with all latent factors as coordinates.

    Raises
    ------
    ValueError
        If the reference is the encoder itself, a strength is outside [0, 1], or so few
        images are drawn that a table has fewer than two classes, or the source lacks a
        class of a variant.
    OSError
        If the store's directory cannot be written.
    """
    reference = load_encoder(REFERENCE) if reference is None else reference
    if reference.fingerprint == encoder.fingerprint:
        raise ValueError(
            f"The reference {reference.name!r} is the encoder {encoder.name!r} itself, which "
            f"would have 0 % on the "
            "variant A by construction. Pass another encoder as `reference`, such as "
            "'animal-world'."
        )
    strengths: dict[str, Any] = {"coat_strength": coat_strength, "scene_strength": scene_strength}
    common = {
        "dataset": "animal-world variants",
        "pixels": pixel_fingerprint(silhouettes),
        "seed": seed,
        "n": n,
    }

    def draw(part: str, styles: Sequence[str], shortcut: str) -> pd.DataFrame:
        return sample_latents(
            silhouettes, part, styles=styles, shortcut=shortcut, seed=seed, n=n, **strengths
        )

    def embedded(by: Encoder, name: str, latents: pd.DataFrame, shortcut: str) -> xr.Dataset:
        relevant = {} if shortcut == "none" else strengths
        key = (
            common
            | relevant
            | {"encoder": by.name, "weights": by.fingerprint, "precision": by.precision}
            | {"part": name, "shortcut": shortcut}
        )
        return store.get(key, lambda: _embed_originals(by, silhouettes, latents))

    photos = draw("source", SOURCE_STYLES, "aligned")
    source = store.get(
        common
        | strengths
        | encoder.text_key(*class_prompts(CLASSES, TEMPLATES)[0])
        | {"encoder": encoder.name, "part": "source"},
        lambda: _embed_photos(encoder, silhouettes, photos, seed),
    )
    tests = []
    for number, (name, (styles, shortcut)) in enumerate(ANIMAL_VARIANTS.items()):
        latents = draw("test", styles, shortcut)
        table = embedded(encoder, name, latents, shortcut)
        if name == "A":
            seen_by_reference = embedded(reference, "A", latents, shortcut)
            known = embedded(reference, "source originals", photos, "aligned")
            table = table.isel(row=_mistakes(known, seen_by_reference))
        check_variant_classes(
            f"The variant {name!r}", table["label"].to_numpy(), source["label"].to_numpy()
        )
        tests.append(table.assign_coords(domain=("row", [number] * table.sizes["row"])))
    return Environments(
        source=source,
        test=xr.concat(tests, "row"),
        prompts=embed_prompts(encoder, store, CLASSES, TEMPLATES),
        provenance=common | strengths | {
            "encoder": encoder.name, "weights": encoder.fingerprint,
            "reference": reference.name, "reference_weights": reference.fingerprint,
        },
        domains=tuple(ANIMAL_VARIANTS),
    )  # fmt: skip


def _embed_photos(
    encoder: Encoder, silhouettes: Silhouettes, latents: pd.DataFrame, seed: int
) -> xr.Dataset:
    """Source table of photos, whose oracle pairs are photos too."""
    source = embed_source(encoder, silhouettes, latents, seed, SOURCE_STYLES)
    source = source.drop_vars(["domain", "oracle_domain"])
    return source.assign_coords({name: ("row", values) for name, values in latents.items()})


def _embed_originals(
    encoder: Encoder, silhouettes: Silhouettes, latents: pd.DataFrame
) -> xr.Dataset:
    (original,) = embed_rendered(encoder, silhouettes, latents).swapaxes(0, 1)
    return xr.Dataset(
        {"original": (("row", "feature"), original)},
        {name: ("row", values) for name, values in latents.items()},
    )


@threadpool_limits.wrap(limits=1, user_api="blas")
def _mistakes(known: xr.Dataset, pool: xr.Dataset) -> np.ndarray:
    """Rows of a pool that a linear probe gets wrong, both as the reference embeds them."""
    probe = LinearProbe().fit(known["original"].to_numpy(), known["label"].to_numpy())
    return np.flatnonzero(probe.predict(pool["original"].to_numpy()) != pool["label"].to_numpy())


def check_variant_classes(name: str, labels: np.ndarray, known: np.ndarray) -> None:
    """Refuse a variant of fewer than two classes, or with classes that are not `known`."""
    found, absent = np.unique(labels), np.setdiff1d(labels, known)
    if len(found) < 2:
        raise ValueError(
            f"{name} has images of {len(found)} class(es); expected at least two. Add images."
        )
    if len(absent):
        raise ValueError(
            f"{name} has {len(absent)} classes that the source has not, such as number "
            f"{absent[0]}; expected classes of "
            "the source only. Add training images of these, or drop them."
        )
