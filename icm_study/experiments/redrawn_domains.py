"""Which pairs re-draw the domain of a folder of photographs, and whether a probe gains by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.encoders.loading import load_encoder
from icm_study.experiments.diagnosis import read_factor
from icm_study.experiments.left_out_domains import METHODS, across_domains, principal_axes
from icm_study.experiments.redrawing import (
    ANY_PAIRS,
    CLASS_PAIRS,
    COLOURS,
    EMBEDDED,
    SEVEN,
    Labelled,
)
from icm_study.fingerprint import fingerprint
from icm_study.testbeds.base import TestBed
from icm_study.testbeds.image_folder import ImageFolder
from icm_study.testbeds.opening import open_testbeds

ENCODER = "lite0-minilm"
BATCH = 64


def photographs(given: Mapping[str, Any]) -> pd.DataFrame:
    """Ask it of a folder of photographs.

    Parameters
    ----------
    given : mapping of str to value
        *photographs*, the folder; *n_coloured*, how many images of each domain get the colours
        of one from another; and *cache*.

    Returns
    -------
    DataFrame
        The rows of :func:`across_domains` and of :func:`redrawn_shares`, told apart by the
        column quantity: "accuracy" and "share".
    """
    (opened,) = open_testbeds({"dataset": given["photographs"], "cache": given["cache"]})
    bed = replace(cast(ImageFolder, opened), has_texts=False)  # no caption is asked for
    embedder = Embedder(load_encoder(ENCODER, "cpu"), EmbeddingStore(given["cache"]))
    data = bed.embed(embedder, 0)
    label, domain = (data.source[name].to_numpy() for name in ("label", "domain"))
    made = {
        SEVEN: (data.source["image"].to_numpy(), domain),
        COLOURS: coloured(bed, embedder, data, given["n_coloured"]),
    }
    whole = Labelled(data.source["original"].to_numpy(), label, domain, made)
    accuracy = across_domains(whole, METHODS)
    kinds = [SEVEN, COLOURS, EMBEDDED, CLASS_PAIRS, ANY_PAIRS]
    shares = redrawn_shares(whole.projected(principal_axes(whole.X)), kinds)
    tables = [accuracy.assign(quantity="accuracy"), shares.assign(quantity="share")]
    names = dict(enumerate(bed.domains))
    table = pd.concat(tables, ignore_index=True).replace({"target": names})
    table.attrs = {
        "data": {bed.name: data.provenance["pixels"]},
        "weights": {ENCODER: embedder.encoder.fingerprint},
    }
    return table


def coloured(
    bed: TestBed, embedder: Embedder, data: EmbeddedData, n: int
) -> tuple[NDArray[np.floating], NDArray[np.integer]]:
    """Embed n images of each domain with the colours of one from another domain.

    Returns
    -------
    after : ndarray of shape (n_images, D)
        Zeros where no copy was made.
    of : ndarray of shape (n_images,)
        The domain whose colours each got; -1 where none.
    """
    domain = data.source["domain"].to_numpy()
    rng = np.random.default_rng(0)
    rows = np.concatenate(
        [rng.permutation(np.flatnonzero(domain == one))[:n] for one in range(len(data.domains))]
    )
    others = np.array([rng.choice(np.flatnonzero(domain != domain[row])) for row in rows])

    def compute() -> xr.Dataset:
        from icm_study.photographs.colours import with_colours_of

        load, _ = bed.loaders(embedder.encoder, 0)
        embedded = [
            embedder.encoder.encode_images(with_colours_of(load(rows[part]), load(others[part])))
            for part in np.array_split(np.arange(len(rows)), max(1, len(rows) // BATCH))
        ]
        return xr.Dataset({"coloured": (("row", "feature"), np.concatenate(embedded))})

    key = {name: data.provenance[name] for name in ("encoder", "weights", "dataset", "pixels")}
    key |= {"part": "colour statistics", "rows": fingerprint(rows, others)}
    after = np.zeros(data.source["original"].shape, np.float32)
    after[rows] = embedder.store.get(key, compute)["coloured"].to_numpy()
    of = np.full(len(domain), -1)
    of[rows] = domain[others]
    return after, of


def redrawn_shares(data: Labelled, kinds: Sequence[str]) -> pd.DataFrame:
    """How much of what can be read of the domain, and of the class, pairs re-draw.

    Readers of two thirds of the images agree on the differences of pairs from the last third,
    as in :func:`~icm_study.experiments.diagnosis.redrawn_share`. 1 is an independent draw, and
    a little more where the new value always differs.

    Returns
    -------
    DataFrame
        Columns kind, factor ("domain" or "class"), fold and share.
    """
    third = np.random.default_rng(0).permutation(len(data.X)) % 3
    rows = []
    for fold in range(3):
        last = data.take(third == fold)
        for factor, values in (("domain", data.domain), ("class", data.label)):
            one, other = (
                read_factor(data.X, values, third == part)[0] for part in range(3) if part != fold
            )
            spread = last.X - last.X.mean(axis=0)
            whole = 2 * np.mean(((spread @ one) * (spread @ other)).sum(axis=1))
            for kind in kinds:
                before, after = last.pairs(kind)
                change = before - after
                share = np.mean(((change @ one) * (change @ other)).sum(axis=1)) / whole
                rows.append({"kind": kind, "factor": factor, "fold": fold, "share": share})
    return pd.DataFrame(rows)
