"""Tell what would stop a run on a folder of images by an encoder, before anything is embedded."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Embedder
from icm_study.encoders.loading import load_encoder
from icm_study.photographs.check import FolderReport
from icm_study.testbeds.base import PROTOCOLS
from icm_study.testbeds.image_folder import ImageFolder


def rehearse(report: FolderReport, encoder: str, protocol: str = PROTOCOLS[0]) -> None:
    """Divide a folder that was checked for every target, and embed the prompts of its classes.

    Parameters
    ----------
    report : FolderReport
        What :func:`~icm_study.photographs.check.check_folder` found.
    encoder : str
        As :func:`~icm_study.encoders.loading.load_encoder` knows it.
    protocol : str
        One of :data:`~icm_study.testbeds.base.PROTOCOLS`.

    Raises
    ------
    ValueError
        If the images cannot be divided, or the encoder is unknown, lacks a word or cuts two
        classes to the same words.
    """
    bed = ImageFolder(Path(report.root).name, report.images, protocol=protocol)
    bed.foreseen(bed.targets(), seed=0)
    with TemporaryDirectory() as place:
        bed.prompts(Embedder(load_encoder(encoder), EmbeddingStore(place)))
