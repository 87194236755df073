"""How long a run on a folder will take, before it starts: a few images and one probe, timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from icm_core.prediction import LinearProbe
from icm_study.methods.registry import METHODS

if TYPE_CHECKING:
    import pandas as pd

    from icm_study.embedding.tables import Embedder

SAMPLE = 8  # images that are embedded to see how long one takes


def embedding_seconds(
    embedder: Embedder, images: pd.DataFrame, interventions: Sequence[str]
) -> float:
    """Tell how long it will take to embed images that are not stored yet.

    Parameters
    ----------
    embedder : Embedder
    images : DataFrame
        As :func:`~icm_study.embedding.files.embed_files` takes it.
    interventions : sequence of str
        Of images; empty: the originals only.
    """
    import torch

    from icm_core.interventions import intervene_images
    from icm_study.embedding.files import count_missing, read_images

    encoder = embedder.encoder
    missing = count_missing(encoder, images, embedder.store, interventions)
    if not missing:
        return 0.0
    paths = images["path"].sample(min(SAMPLE, len(images)), random_state=0).tolist()

    def embed() -> None:
        pixels = read_images(encoder, paths)
        if interventions:
            pixels = torch.cat([pixels, intervene_images(pixels, interventions)])
        encoder.encode_images(pixels)

    embed()  # the first call takes longer
    return missing * _seconds(embed) / len(paths)


def fitting_seconds(methods: Sequence[str], n_runs: int, shape: tuple[int, int, int]) -> float:
    """Tell how long it will take to fit methods in all their settings, at about a probe each.

    Parameters
    ----------
    methods : sequence of str
        Names in :data:`~icm_study.methods.registry.METHODS`.
    n_runs : int
        Targets times seeds.
    shape : tuple of int
        Images that are fitted on, dimension of the embedding, and classes.
    """
    n, d, n_classes = shape
    rng = np.random.default_rng(0)
    y = np.arange(n) % n_classes
    X = (rng.normal(size=(n_classes, d))[y] + 2 * rng.normal(size=(n, d))).astype(np.float32)
    entries = [METHODS[name] for name in methods]
    n_fits = sum(
        sum(map(len, entry.then.values()))
        + len(entry.settings(d)) * (entry.after not in methods)  # else they have been tried
        for entry in entries
    )
    return n_runs * n_fits * _seconds(lambda: LinearProbe().fit(X, y))


def said(seconds: float) -> str:
    """Say a duration in words, as roughly as it is known."""
    if seconds < 60:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
