"""Variants of one data set: trained on one kind of image, tested on others with the same classes.

ImageNet has such variants, and each asks another question. **V2** was collected again in the same way: does the
accuracy hold at all? **R** shows renditions (paintings, cartoons, toys) and **Sketch** black-and-white drawings: is
it the shape that counts? **A** holds photographs that a reference model, a ResNet-50, gets wrong: does another model
fail with it? R and A have 200 of the 1,000 classes, and a classifier chooses among these only.

The animal world gets four variants made in the same way. The source is photos of the source animals in which coat and
scene follow the class. The variants show the test animals, all four the same ones:

- V2: photos drawn from the same distribution as the source, its shortcut included;
- R: cartoons and paintings. A rendition is free in its colours and its ground, so there is no shortcut;
- Sketch: line drawings, without the shortcut too;
- A: of photos without the shortcut (as from another place), those that a linear probe on a *reference* encoder,
  trained on the source photos, gets wrong. The reference has 0 % on A by construction, so A is only about *other*
  encoders, and the accuracy on it says nothing about photos in general.

Everything is fitted and chosen on the source alone; only the projection for ImageNet's variants may be estimated on
other images instead, of any classes or none. The oracle pairs of the animal world show photos only, so that no method
sees a variant's style; but captions may name it, as anyone can without seeing an image.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from threadpoolctl import threadpool_limits

from icm_core.animal_world import CLASSES, Silhouettes, sample_latents
from icm_core.data.imagenet import imagenet_index, imagenet_templates
from icm_core.embeddings import EmbeddingStore
from icm_core.encoders import Encoder, load_encoder
from icm_core.environments import (
    TEMPLATES,
    Environments,
    embed_pairs,
    embed_prompts,
    embed_rendered,
    embed_source,
    image_folder,
    pixel_fingerprint,
)
from icm_core.extraction import embed_files
from icm_core.prediction import LinearProbe, class_prompts
from icm_core.splits import Split, halve
from icm_core.text.pairs import text_pairs

SOURCE_STYLES = ("photo",)
#: Variants of the animal world: name -> (styles, shortcut). Of A this is the pool that it is picked from.
ANIMAL_VARIANTS = {
    "V2": (SOURCE_STYLES, "aligned"),
    "R": (("cartoon", "painting"), "none"),
    "Sketch": (("sketch",), "none"),
    "A": (SOURCE_STYLES, "none"),
}
REFERENCE = "animal-world-biased"  # the encoder whose mistakes make A


def imagenet_variants(
    encoder: Encoder,
    train: pd.DataFrame,
    variants: Mapping[str, pd.DataFrame],
    store: EmbeddingStore,
    *,
    projection_images: tuple[str, pd.DataFrame] | None = None,
    captioner: str | None = None,
    editor: str = "rules",
    seed: int = 0,
) -> Environments:
    """Embed training images of ImageNet, with interventions, and variants of ImageNet as they are.

    Parameters
    ----------
    encoder : Encoder
    train : DataFrame
        Columns path, label and domain, as :func:`~icm_core.data.check.load_folder` returns it. The labels are ImageNet's
        WordNet ids or numbers, of all classes or of some.
    variants : mapping of str to DataFrame
        For each variant its name and its images, in the same form.
    store : EmbeddingStore
    projection_images : (name, DataFrame), optional
        Other images to estimate the projection on, as :func:`~icm_core.data.check.load_images` returns them, and the
        name of their data set, for the words of its classes and domains (see :mod:`icm_core.data.catalog`). By default
        it is estimated on the training images.
    captioner, editor
        What writes and edits the captions of the text interventions, see :func:`~icm_core.text.pairs.text_pairs`.
    seed : int
        Seed of the interventions.

    Returns
    -------
    Environments
        The training images as ``source``, with no coordinate ``domain``; all variants as ``test``, where ``domain`` is
        the place of the variant in ``domains``. Labels are places in ``classes``, the label names of the training
        images. The prompts are open_clip's 80 templates. With `projection_images`, their interventional pairs as
        ``pairs``: of images, and of texts if each image lies in the folder of a class.

    Raises
    ------
    ValueError
        If there is no variant, a label is no ImageNet class, a variant has classes that the training images have not,
        there are fewer than two classes, two of variant, training images and images for the projection share a
        folder, an image cannot be read, or as the captioner and the editor.
    OSError
        If the store's directory cannot be written.
    """
    if not variants:
        raise ValueError("No variant is given; expected at least one name with its images.")
    for name, images in variants.items():
        _check_apart(f"The variant {name!r}", images, "the training images", train)
        if projection_images is not None:
            _check_apart(
                f"The variant {name!r}", images, "the images for the projection", projection_images[1]
            )
    if projection_images is not None:
        _check_apart("The data for the projection", projection_images[1], "the training images", train)
    numbers = {index: place for place, index in enumerate(imagenet_index(sorted(train["label"].unique())))}
    indices = {name: imagenet_index(images["label"].tolist()) for name, images in variants.items()}
    for name, index in indices.items():
        _check_classes(f"The variant {name!r}", index, np.array(list(numbers)))
    train = train.assign(domain="imagenet")
    write = partial(text_pairs, captioner=captioner, editor=editor, seed=seed, cache=store.root)
    texts, pairs = None, None
    if projection_images is None:
        texts = write(train, name="imagenet")
    else:
        dataset, others = projection_images
        has_classes = (others["label"] != "").all()
        written = write(others, name=dataset) if has_classes else None
        pairs = embed_pairs(encoder, others, store, texts=written, seed=seed)
    source = image_folder(
        encoder,
        train,
        store,
        name="imagenet",
        texts=texts,
        templates=imagenet_templates(),
        seed=seed,
    )
    tests, pixels = [], {}
    for number, (name, images) in enumerate(variants.items()):
        embedded = embed_files(encoder, images, store, interventions=())
        pixels[name] = embedded.attrs["images"]
        labels = [numbers[index] for index in indices[name]]
        tests.append(embedded.assign_coords(label=("row", labels), domain=("row", [number] * len(labels))))
    return replace(
        source,
        source=source.source.drop_vars("domain"),
        test=xr.concat(tests, "row", combine_attrs="drop"),
        provenance=source.provenance | {"variants": pixels},
        domains=tuple(variants),
        pairs=pairs,
    )


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
        Images in the source and in each variant (for A: in the pool), drawn with replacement; by default every
        silhouette of the part once.
    reference : Encoder, optional
        The encoder whose mistakes make A; by default ``animal-world-biased``.

    Returns
    -------
    Environments
        As :func:`imagenet_variants`, with all latent factors as coordinates.

    Raises
    ------
    ValueError
        If the reference is the encoder itself, a strength is outside [0, 1], or so few images are drawn that a table
        has fewer than two classes, or the source lacks a class of a variant.
    OSError
        If the store's directory cannot be written.
    """
    reference = load_encoder(REFERENCE) if reference is None else reference
    if reference.fingerprint == encoder.fingerprint:
        raise ValueError(
            f"The reference {reference.name!r} is the encoder {encoder.name!r} itself, which would have 0 % on the "
            "variant A by construction. Pass another encoder as `reference`, such as 'animal-world'."
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
        _check_classes(f"The variant {name!r}", table["label"].to_numpy(), source["label"].to_numpy())
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


def variant_split(environments: Environments, seed: int, held_out: float = 0.2) -> Split:
    """Divide the source into what trains, what chooses and what is measured; every variant is a test.

    Parameters
    ----------
    environments : Environments
        As :func:`animal_variants` or :func:`imagenet_variants` returns them.
    seed : int
    held_out : float
        Share of the source rows that are not trained on. Half of them chooses K and λ, the other half is the
        test ``in_distribution``.

    Returns
    -------
    Split
        One test for each variant, by its name, with the variant's own classes as candidates. There is no single
        target, so nothing can be tuned on it.

    Raises
    ------
    ValueError
        If these are no variants, or too few rows are left to split.
    """
    source, test = environments.source, environments.test
    if test is None or "domain" in source.coords:
        raise ValueError(
            f"The environments {environments.domains} are no variants of one source; expected what `animal_variants` or "
            "`imagenet_variants` returns. For domains that are left out in turn use `icm_core.splits.split`."
        )
    train, rest = halve(source, np.arange(source.sizes["row"]), held_out, seed)
    choose, measure = halve(source, rest, 0.5, seed)
    variants = {
        name: test.isel(row=np.flatnonzero(test["domain"] == number))
        for number, name in enumerate(environments.domains)
    }
    return Split(
        train=source.isel(row=train),
        held_out=source.isel(row=choose),
        tests={"in_distribution": source.isel(row=measure)} | variants,
        prompts=environments.prompts,
        target="none",
        candidates={name: np.unique(table["label"]) for name, table in variants.items()},
        pairs=environments.pairs,
    )


def _embed_photos(encoder: Encoder, silhouettes: Silhouettes, latents: pd.DataFrame, seed: int) -> xr.Dataset:
    """Source table of photos, whose oracle pairs are photos too."""
    source = embed_source(encoder, silhouettes, latents, seed, SOURCE_STYLES)
    source = source.drop_vars(["domain", "oracle_domain"])
    return source.assign_coords({name: ("row", values) for name, values in latents.items()})


def _embed_originals(encoder: Encoder, silhouettes: Silhouettes, latents: pd.DataFrame) -> xr.Dataset:
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


def _check_apart(name: str, images: pd.DataFrame, other: str, others: pd.DataFrame) -> None:
    folders = [
        {os.path.realpath(os.path.dirname(path)) for path in table["path"]} for table in (images, others)
    ]
    shared = sorted(folders[0] & folders[1])
    if shared:
        raise ValueError(
            f"{name} has images in {shared[0]!r}, where {other} are; the projection must not be estimated on images "
            "that are tested. Give another folder."
        )


def _check_classes(name: str, labels: np.ndarray, known: np.ndarray) -> None:
    found, absent = np.unique(labels), np.setdiff1d(labels, known)
    if len(found) < 2:
        raise ValueError(f"{name} has images of {len(found)} class(es); expected at least two. Add images.")
    if len(absent):
        raise ValueError(
            f"{name} has {len(absent)} classes that the source has not, such as number {absent[0]}; expected classes of "
            "the source only. Add training images of these, or drop them."
        )
