"""The environments of a study, embedded: sources with their interventional pairs, tests, and prompts.

This is where data set, interventions and encoder meet. What comes out is all that
evaluation needs, as labelled arrays, and is kept in an
:class:`~icm_study.embedding.store.EmbeddingStore`, so it is computed once.

The parts of the *source* table are aligned row by row: an image, the image after an
image intervention, the image rendered anew (the oracle intervention, in the animal
world only), its caption and the edited caption. In the animal world a *test* table
holds other animals under three conditions: the shortcut as in the sources ("aligned"),
absent ("none"), and pointing to another class ("reversed"). A folder of images has no
such table: there the protocol decides which images train and which test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from icm_core.interventions import IMAGE_INTERVENTIONS
from icm_core.moments import PairMoments, combine
from icm_core.prediction import class_prompts
from icm_study.animals.latents import STYLES
from icm_study.animals.silhouettes import CLASSES
from icm_study.embedding.files import embed_files
from icm_study.embedding.store import (
    EmbeddingStore,
)
from icm_study.encoders.encoder import Encoder

if TYPE_CHECKING:
    import torch


class ImageEncoder(Protocol):
    """What `embed` needs of an encoder."""

    @property
    def embedding_dim(self) -> int:
        """Dimension of the embeddings."""

    def encode_images(self, images: torch.Tensor) -> np.ndarray:
        """Embed uint8 images (n, 3, H, W) as (n, embedding_dim)."""


def embed(
    encoder: ImageEncoder,
    batches: Iterable[torch.Tensor],
    total: int | None = None,
    description: str = "embedding",
) -> np.ndarray:
    """Embed batches of images, with a progress bar.

    Parameters
    ----------
    encoder : ImageEncoder
        Its `encode_images` takes a batch to an array of shape (n, `embedding_dim`).
    batches : iterable of Tensor of shape (n, 3, H, W), uint8
        The images; only one batch is held at a time.
    total : int, optional
        The number of images in all, for the time left.
    description : str
        Stands before the bar; the environment variable ``TQDM_DISABLE=1`` hides all bars.

    Returns
    -------
    ndarray of shape (n, embedding_dim), float32
        One embedding for each image, in order.

    Raises
    ------
    ValueError
        If there are no images, or the encoder returns another shape than it should.
    """
    parts = []
    with tqdm(total=total, desc=description, unit="image") as bar:
        for batch in batches:
            part = np.asarray(encoder.encode_images(batch), dtype=np.float32)
            expected = (len(batch), encoder.embedding_dim)
            if part.shape != expected:
                raise ValueError(
                    f"the encoder returned shape {part.shape}; expected {expected} for its batch."
                )
            parts.append(part)
            bar.update(len(batch))
    if not parts:
        raise ValueError(
            "no images to embed: batches is empty. An iterator can be used up only once."
        )
    return np.concatenate(parts)


#: Pairs of the source table: kind of intervention -> (original, intervened) variables.
PAIRS = {
    "image": ("original", "image"),
    "oracle": ("original", "oracle"),
    "text": ("caption", "edit"),
}

_BATCH = 128

_EMBEDDED: WeakKeyDictionary[Encoder, dict[str, np.ndarray]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Environments:
    """Embedded environments of one data set and one encoder.

    Attributes
    ----------
    source : Dataset
        Dimensions ``row`` and ``feature``. Variables ``original``, ``image``,
        ``caption``, ``edit``, and in the animal world ``oracle``; coordinates
        ``label``, ``domain``, and in the animal world ``oracle_domain`` and the latent
        factors, of a folder ``path``.
    test : Dataset or None
        Variables ``original`` and ``caption``; coordinates ``label``, ``domain``,
        ``shortcut`` and the latent factors. None for a folder: every image of `source`
        can be tested.
    prompts : Dataset
        Variable ``prompt`` of shape (n_prompts, feature), coordinate ``label``.
    provenance : dict
        Names, seeds and fingerprints of all that went in.
    domains, classes : tuple of str
        The names that the numbers in ``domain`` and ``label`` stand for.
    pairs : Dataset or None
        Interventional pairs of other images, as variables like those of `source`, which
        the projection is estimated from. None: from those of `source`.
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
        As :func:`~icm_study.embedding.files.embed_files`; with texts, also the
        variables ``caption`` and ``edit``.
    """
    if texts is None:
        return embed_files(encoder, images, store, seed=seed)
    captions, edits = texts
    if {len(captions), len(edits)} != {len(images)}:
        raise ValueError(
            f"{len(captions)} captions and {len(edits)} edits for {len(images)} images; give "
            f"one of each for every image."
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
            {"prompt": (("row", "feature"), encoder.encode_text(prompts))},
            {"label": ("row", labels)},
        ),
    )


def _embed_texts(encoder: Encoder, texts: Sequence[str]) -> np.ndarray:
    """Embed texts, (n, D)."""

    def compute(rows: np.ndarray) -> np.ndarray:
        batches = rows.reshape(-1, _BATCH)
        return np.concatenate(
            [encoder.encode_text([texts[row] for row in batch]) for batch in batches]
        )

    return _once(encoder, list(texts), compute)


def _once(
    encoder: Encoder, keys: list[str], compute: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Compute the rows whose key is new, and take the others from memory.

    Worlds of different strength share most of their images and captions, so each
    distinct one is embedded once in the life of the encoder. Batches are always full
    (the last one repeats rows): an embedding then has the same bits whatever else is
    embedded with it."""
    known = _EMBEDDED.setdefault(encoder, {})
    new = list({key: row for row, key in enumerate(keys) if key not in known}.values())
    if new:
        rows = np.resize(new, -(-len(new) // _BATCH) * _BATCH)
        known.update(zip([keys[row] for row in new], compute(rows), strict=False))
    return np.stack([known[key] for key in keys])


INTERVENTIONS = ("image", "text", "image+text", "oracle")


def available(table: xr.Dataset) -> tuple[str, ...]:
    """Tell which kinds of interventions (see :data:`INTERVENTIONS`) a source table has pairs of."""
    has = {kind for kind, pair in PAIRS.items() if all(name in table for name in pair)}
    return tuple(name for name in INTERVENTIONS if set(name.split("+")) <= has)


def pair_moments(table: xr.Dataset, intervention: str) -> PairMoments:
    """Moments of the pairs in a table, see :func:`~icm_study.embedding.tables.moments_of`.

    Parameters
    ----------
    table : Dataset
        A source table, see :mod:`icm_study.embedding.tables`.
    intervention : str
        ``"image"``, ``"text"``, ``"oracle"``, the name of a single image intervention
        that the table has, or for example ``"image+text"``.

    Returns
    -------
    PairMoments

    Raises
    ------
    ValueError
        If the intervention is unknown.
    """
    pairs = PAIRS | {name: ("original", name) for name in IMAGE_INTERVENTIONS if name in table}
    kinds = intervention.split("+")
    if any(kind not in pairs for kind in kinds):
        raise ValueError(
            f"Unknown intervention {intervention!r}; join any of {tuple(pairs)} with '+'."
        )

    def pairs_of(kind: str) -> tuple[np.ndarray, np.ndarray]:
        before, after = pairs[kind]
        return table[before].to_numpy(), table[after].to_numpy()

    return moments_of(intervention, pairs_of)


def moments_of(
    intervention: str, pairs_of: Callable[[str], tuple[NDArray[np.floating], NDArray[np.floating]]]
) -> PairMoments:
    """Moments of the pairs of one kind of intervention, or of several joined by ``+`` in equal parts.

    Parameters
    ----------
    intervention : str
        For example ``"image"`` or ``"image+text"``.
    pairs_of : callable
        From a kind to its pairs, two arrays of shape (n_pairs, D). Text pairs whose two
        sides are the same are left out: an edit that found nothing to change says
        nothing.

    Returns
    -------
    PairMoments

    Raises
    ------
    ValueError
        As `pairs_of` and :meth:`PairMoments.update`.
    """
    each = []
    for kind in intervention.split("+"):
        before, after = pairs_of(kind)
        if kind == "text":
            changed = (before != after).any(axis=1)
            before, after = before[changed], after[changed]
        each.append(PairMoments(before.shape[1]).update(before, after))
    return combine(each, [1.0] * len(each))
