"""A folder of images as a test bed."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import (
    Environments,
    embed_pairs,
    embed_prompts,
)
from icm_study.encoders.encoder import Encoder
from icm_study.fingerprint import fingerprint
from icm_study.photographs.known import CATALOG, class_words

PHOTO_TEMPLATES = ("a photo of a {}",)


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
        Columns path, label and domain, as
        :func:`~icm_study.photographs.check.load_folder` returns it.
    store : EmbeddingStore
    name : str
        The data set's, for its words in prompts and captions (see
        :mod:`icm_study.photographs.known`) and for the record.
    texts : (captions, edits), optional
        For each image its caption, and the caption after an intervention on its variant
        words, for example from
        :func:`~icm_study.text.pairs.text_pairs`. By default there are no text interventions.
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
        If captions and edits are not one for each image, an image cannot be read, or an
        embedding is not finite.
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
