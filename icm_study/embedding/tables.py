"""Embedded data: all that an experiment needs of a data set and an encoder, as labelled tables.

The parts of the *source* table are aligned row by row: an image, the image after an image
intervention, its caption and the edited caption, and where a simulator can render the
image anew, that too (the *oracle* intervention).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from tqdm import tqdm

from icm_core.interventions import IMAGE_INTERVENTIONS
from icm_core.moments import PairMoments, combine
from icm_core.prediction import class_prompts
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.encoder import check_prompts, warn_of_cuts

if TYPE_CHECKING:
    import torch

    from icm_study.encoders.encoder import Encoder

#: Pairs of the source table: kind of intervention -> (original, intervened) variables.
PAIRS = {
    "image": ("original", "image"),
    "oracle": ("original", "oracle"),
    "text": ("caption", "edit"),
}
#: Embeddings before and after an intervention, each (n, D), and which belong together: (n,).
Pairs = tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.integer] | None]
#: Rows that an :class:`Embedder` has in memory before it forgets them: some 200 MB.
MOST_KNOWN = 100_000
INTERVENTIONS = ("image", "text", "image+text", "oracle")


@dataclass(frozen=True)
class EmbeddedData:
    """A data set as one encoder embeds it.

    Attributes
    ----------
    source : Dataset
        Dimensions ``row`` and ``feature``. Variables ``original`` and ``image``, with text
        pairs also ``caption`` and ``edit``, of a simulator ``oracle``; coordinates
        ``label`` and ``domain``, of a simulator ``oracle_domain`` and the latent factors,
        of image files ``path``.
    test : Dataset or None
        Variable ``original``; coordinates like those of `source`, and of a simulator
        ``shortcut``. None: every image of `source` can be tested.
    prompts : Dataset
        Variable ``prompt`` of shape (n_prompts, feature), coordinate ``label``.
    provenance : dict
        Names, seeds and fingerprints of all that went in.
    domains, classes : tuple of str
        The names that the numbers in ``domain`` and ``label`` stand for.
    pairs : Dataset or None
        Interventional pairs of other images, as variables like those of `source`, which the
        projection is estimated from. None: from those of `source`.
    """

    source: xr.Dataset
    test: xr.Dataset | None
    prompts: xr.Dataset
    provenance: dict[str, Any]
    domains: tuple[str, ...]
    classes: tuple[str, ...]
    pairs: xr.Dataset | None = None

    @property
    def tested(self) -> xr.Dataset:
        """The table whose images are tested."""
        return self.source if self.test is None else self.test


class Embedder:
    """An encoder, the store of its embeddings, and the rows that it has embedded so far.

    Parameters
    ----------
    encoder : Encoder
    store : EmbeddingStore
    batch_size : int
        Rows that are embedded at a time. Batches are always full (the last one repeats
        rows): an embedding then has the same bits whatever else is embedded with it.
    """

    def __init__(self, encoder: Encoder, store: EmbeddingStore, batch_size: int = 128) -> None:
        self.encoder = encoder
        self.store = store
        self.batch_size = batch_size
        self._known: dict[str, NDArray[np.float32]] = {}
        self._others: Sequence[Embedder] = ()

    def with_others(self, others: Sequence[Embedder]) -> Embedder:
        """Give this embedder with others, which remember what it embeds: images are made once."""
        shared = copy.copy(self)
        shared._others = tuple(others)
        return shared

    def images(
        self, keys: Sequence[str], load: Callable[[NDArray[np.intp]], torch.Tensor]
    ) -> NDArray[np.float32]:
        """Embed images in memory, each distinct one once in the life of this object.

        Parameters
        ----------
        keys : sequence of n str
            What tells the images apart.
        load : callable
            From rows to k images each: uint8 (k × rows, 3, H, W), all first ones first.

        Returns
        -------
        ndarray of shape (n, k, D)
        """

        def embed(rows: NDArray[np.intp]) -> NDArray[np.float32]:
            made = load(rows)
            for other in self._others:
                for row, value in zip(rows, other._embed_images(made, len(rows)), strict=True):
                    other._known.setdefault(keys[row], value)
            return self._embed_images(made, len(rows))

        return self._once(keys, embed)

    def _embed_images(self, images: torch.Tensor, n_rows: int) -> NDArray[np.float32]:
        embedded = [self.encoder.encode_images(part) for part in images.split(n_rows)]
        return np.stack(embedded, axis=1)  # a part at a time, which takes less memory

    def texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts, each distinct one once in the life of this object: (n, D)."""
        return self._once(
            texts, lambda rows: self.encoder.encode_text([texts[row] for row in rows])
        )

    def prompts(self, words: Sequence[str], templates: Sequence[str]) -> xr.Dataset:
        """Embed the prompts of classes numbered 0, 1, 2 and so on, or open what is stored.

        Raises
        ------
        ValueError
            If the encoder cuts the prompts of two classes to the same words.
        """
        prompts, _ = class_prompts(words, templates)
        labels = np.repeat(np.arange(len(words)), len(templates))
        check_prompts(self.encoder, prompts, labels.tolist())
        return self.store.get(
            self.encoder.text_key(*prompts) | {"n": len(words)},
            lambda: xr.Dataset(
                {"prompt": (("row", "feature"), self.encoder.encode_text(prompts))},
                {"label": ("row", labels)},
            ),
        )

    def pairs(
        self,
        images: pd.DataFrame,
        texts: tuple[Sequence[str], Sequence[str]] | None = None,
        *,
        interventions: Sequence[str] = IMAGE_INTERVENTIONS,
        seed: int = 0,
    ) -> xr.Dataset:
        """Embed image files, each after an image intervention too, and texts if they are given.

        Parameters
        ----------
        images : DataFrame
            Columns path, label and domain.
        texts : (captions, edits), optional
            For each image its caption, and the caption after an intervention on its variant
            words, for example from :func:`~icm_study.text.pairs.text_pairs`.
        interventions : sequence of str
            Image interventions to draw from.
        seed : int
            Seed of the image interventions.

        Returns
        -------
        Dataset
            As :func:`~icm_study.embedding.files.embed_files`; with texts, also the variables
            ``caption`` and ``edit``.

        Raises
        ------
        ValueError
            If captions and edits are not one for each image, an image cannot be read, or an
            embedding is not finite.
        OSError
            If the store's directory cannot be written.
        """
        # torch is slow to import, so not before files are read
        from icm_study.embedding.files import embed_files

        if texts is not None and {len(part) for part in texts} != {len(images)}:
            raise ValueError(
                f"{len(texts[0])} captions and {len(texts[1])} edits for {len(images)} images; "
                "give one of each for every image."
            )
        for part in texts or ():
            warn_of_cuts(self.encoder, part)  # also where they are stored already
        embedded = {
            name: (("row", "feature"), np.concatenate([*self._stored_texts(part)]))
            for name, part in zip(("caption", "edit"), texts or (), strict=False)
        }
        table = embed_files(
            self.encoder, images, self.store, interventions=interventions, seed=seed
        )
        return table.assign(embedded)

    def store_texts(self, texts: Sequence[str]) -> None:
        """Embed texts and store them, as :meth:`pairs` reads them; holds one shard at a time."""
        for _ in self._stored_texts(texts):
            pass

    def _stored_texts(self, texts: Sequence[str]) -> Iterator[NDArray[np.float32]]:
        """Embed texts, or open what is stored, shard by shard."""

        def embed(shard: Sequence[str]) -> xr.Dataset:
            return xr.Dataset({"text": (("row", "feature"), self.texts(shard))})

        size = self.store.shard_size
        for start in tqdm(range(0, len(texts), size), desc="texts", unit="shard", leave=False):
            shard = texts[start : start + size]
            yield self.store.get(self.encoder.text_key(*shard), partial(embed, shard))[
                "text"
            ].to_numpy()

    def _once(
        self, keys: Sequence[str], compute: Callable[[NDArray[np.intp]], NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Compute the rows whose key is new, in full batches; take the others from memory."""
        if len(self._known) > MOST_KNOWN:  # what is asked for again is computed again
            self._known.clear()
        new = list({key: row for row, key in enumerate(keys) if key not in self._known}.values())
        with tqdm(total=len(new), desc=f"embedding by {self.encoder.name}", leave=False) as bar:
            for batch in self._batches(new):
                values = compute(batch)
                for row, value in zip(batch, values, strict=True):
                    self._known.setdefault(keys[row], value)  # a repeated row counts for nothing
                bar.update(min(len(batch), len(new) - bar.n))
        return np.stack([self._known[key] for key in keys])

    def _batches(self, rows: Sequence[int]) -> Iterator[NDArray[np.intp]]:
        n_batches = -(-len(rows) // self.batch_size)
        return iter(np.resize(np.array(rows, np.intp), (n_batches, self.batch_size)))


def available(table: xr.Dataset) -> tuple[str, ...]:
    """Tell which kinds of interventions (see :data:`INTERVENTIONS`) a table has pairs of."""
    has = {kind for kind, pair in PAIRS.items() if all(name in table for name in pair)}
    return tuple(name for name in INTERVENTIONS if set(name.split("+")) <= has)


def pair_moments(table: xr.Dataset, intervention: str) -> PairMoments:
    """Moments of the pairs in a table.

    Parameters
    ----------
    table : Dataset
        Like the source table of :class:`EmbeddedData`.
    intervention : str
        ``"image"``, ``"text"``, ``"oracle"``, the name of a single image intervention that
        the table has, or for example ``"image+text"``, both in equal parts.

    Returns
    -------
    PairMoments

    Raises
    ------
    ValueError
        If the table has no such pairs.
    """
    groups = table["group"].to_numpy() if "group" in table.coords else None
    return moments_of(intervention, lambda kind: (*pairs_in(table, kind), groups))


def pairs_in(table: xr.Dataset, kind: str) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Give the pairs of one kind, two arrays of shape (n, D)."""
    pairs = PAIRS | {name: ("original", name) for name in IMAGE_INTERVENTIONS}
    if kind not in pairs or not all(name in table for name in pairs[kind]):
        raise ValueError(
            f"Unknown intervention {kind!r}, or one that these data have no pairs of; they have "
            f"{', '.join(available(table))}."
        )
    before, after = pairs[kind]
    return table[before].to_numpy(), table[after].to_numpy()


def moments_of(
    intervention: str,
    pairs_of: Callable[[str], Pairs],
) -> PairMoments:
    """Moments of the pairs of one kind of intervention, or of several in equal parts.

    Parameters
    ----------
    intervention : str
        For example ``"image"`` or ``"image+text"``.
    pairs_of : callable
        From a kind to its pairs, two arrays of shape (n_pairs, D), and their groups, or None.
        Text pairs whose two sides are the same are left out: an edit that found nothing to
        change says nothing. They are held out by their captions, which images of many groups
        can share, and all others by groups.

    Returns
    -------
    PairMoments

    Raises
    ------
    ValueError
        As `pairs_of` and :meth:`~icm_core.moments.PairMoments.update`.
    """
    return mixed([added_up(kind, pairs_of) for kind in intervention.split("+")])


def added_up(kind: str, pairs_of: Callable[[str], Pairs]) -> PairMoments:
    """Add up the pairs of one kind, as :func:`moments_of` does before it mixes kinds."""
    before, after, groups = pairs_of(kind)
    if kind == "text":
        changed = (before != after).any(axis=1)
        before, after, groups = before[changed], after[changed], None
    return PairMoments(before.shape[1]).update(before, after, groups)


def mixed(each: Sequence[PairMoments]) -> PairMoments:
    """Mix kinds of pairs in equal parts."""
    return combine(each, [1.0] * len(each))
