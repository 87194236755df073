"""Variants of ImageNet: trained on ImageNet's images, tested on others of the same classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from icm_study.embedding.files import embed_files
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Environments, embed_pairs
from icm_study.encoders.encoder import Encoder
from icm_study.photographs.imagenet import imagenet_index, imagenet_templates
from icm_study.testbeds.animal_variants import (
    check_variant_classes,
)
from icm_study.testbeds.image_folder import image_folder
from icm_study.text.pairs import text_pairs


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
        Columns path, label and domain, as
        :func:`~icm_study.photographs.check.load_folder` returns it. The labels are
        ImageNet's WordNet ids or numbers, of all classes or of some.
    variants : mapping of str to DataFrame
        For each variant its name and its images, in the same form.
    store : EmbeddingStore
    projection_images : (name, DataFrame), optional
        Other images to estimate the projection on, as
        :func:`~icm_study.photographs.check.load_images` returns them, and the name of
        their data set, for the words of its classes and domains (see
        :mod:`icm_study.photographs.known`). By default it is estimated on the training
        images.
    captioner, editor
        What writes and edits the captions of the text interventions, see
        :func:`~icm_study.text.pairs.text_pairs`.
    seed : int
        Seed of the interventions.

    Returns
    -------
    Environments
        The training images as ``source``, with no coordinate ``domain``; all variants
        as ``test``, where ``domain`` is the place of the variant in ``domains``. Labels
        are places in ``classes``, the label names of the training images. The prompts
        are open_clip's 80 templates. With `projection_images`, their interventional
        pairs as ``pairs``: of images, and of texts if each image lies in the folder of
        a class.

    Raises
    ------
    ValueError
        If there is no variant, a label is no ImageNet class, a variant has classes that
        the training images have not, there are fewer than two classes, two of variant,
        training images and images for the projection share a folder, an image cannot be
        read, or as the captioner and the editor.
    OSError
        If the store's directory cannot be written.
    """
    if not variants:
        raise ValueError("No variant is given; expected at least one name with its images.")
    for name, images in variants.items():
        _check_apart(f"The variant {name!r}", images, "the training images", train)
        if projection_images is not None:
            _check_apart(
                f"The variant {name!r}",
                images,
                "the images for the projection",
                projection_images[1],
            )
    if projection_images is not None:
        _check_apart(
            "The data for the projection", projection_images[1], "the training images", train
        )
    numbers = {
        index: place for place, index in enumerate(imagenet_index(sorted(train["label"].unique())))
    }
    indices = {name: imagenet_index(images["label"].tolist()) for name, images in variants.items()}
    for name, index in indices.items():
        check_variant_classes(f"The variant {name!r}", index, np.array(list(numbers)))
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
        tests.append(
            embedded.assign_coords(label=("row", labels), domain=("row", [number] * len(labels)))
        )
    return replace(
        source,
        source=source.source.drop_vars("domain"),
        test=xr.concat(tests, "row", combine_attrs="drop"),
        provenance=source.provenance | {"variants": pixels},
        domains=tuple(variants),
        pairs=pairs,
    )


def _check_apart(name: str, images: pd.DataFrame, other: str, others: pd.DataFrame) -> None:
    folders = [
        {os.path.realpath(os.path.dirname(path)) for path in table["path"]}
        for table in (images, others)
    ]
    shared = sorted(folders[0] & folders[1])
    if shared:
        raise ValueError(
            f"{name} has images in {shared[0]!r}, where {other} are; the projection must not "
            f"be estimated on images "
            "that are tested. Give another folder."
        )
