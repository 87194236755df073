"""Stand-ins that several tests share: a quick encoder, and a test bed made of tables at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from linear_world import LinearWorld
from numpy.typing import NDArray

from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.fingerprint import fingerprint
from icm_study.testbeds.base import PROTOCOLS, Loader, Split, TestBed
from icm_study.testbeds.splits import split

D = 24


class StandInEncoder:
    """Embeds by fixed random maps of thumbnails and letters: equal inputs, equal embeddings.

    It counts what it is given, as `seen_images` and `seen_texts`.
    """

    precision = "float32"
    device = "cpu"
    embedding_dim = D

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.name, self.fingerprint = f"stand-in {seed}", f"weights {seed}"
        self._pixels = rng.normal(size=(3 * 4 * 4, D))
        self._letters = rng.normal(size=(128, D))
        self.seen_images = self.seen_texts = 0

    def text_key(self, *texts: str) -> dict[str, str]:
        return {"weights": self.fingerprint, "tokens": fingerprint(*texts)}

    def is_cut(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        return np.zeros(len(texts), bool)

    def resize(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.interpolate(images, size=(64, 64))

    def encode_images(self, images: torch.Tensor) -> NDArray[np.float32]:
        self.seen_images += len(images)
        small = torch.nn.functional.avg_pool2d(images.float(), 16).flatten(1).double().numpy()
        return self._unit((1 + small) @ self._pixels)  # 1: an image may be black all over

    def encode_text(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.seen_texts += len(texts)
        letters = [np.bincount(list(text.encode("ascii")), minlength=128) for text in texts]
        return self._unit(np.array(letters) @ self._letters)

    @staticmethod
    def _unit(X: NDArray) -> NDArray[np.float32]:
        return (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class TableBed(TestBed):
    """Embedded data that are at hand, under a protocol."""

    over: ClassVar[str] = "images"
    data: EmbeddedData
    protocol: str = PROTOCOLS[0]
    name: str = "tables"
    note: ClassVar[str] = ""
    spurious: ClassVar[tuple[str, ...]] = ()

    @property
    def domains(self) -> tuple[str, ...]:
        return self.data.domains

    @property
    def words(self) -> tuple[str, ...]:
        return self.data.classes

    def embed(self, embedder: Embedder, seed: int) -> EmbeddedData:
        return self.data

    def split(self, data: EmbeddedData, target: str | None, seed: int) -> Split:
        number = None if target is None else self.domains.index(target)
        return split(data, number, protocol=self.protocol, seed=seed)

    def loaders(self, encoder: Any, seed: int) -> tuple[Loader, Loader]:
        raise NotImplementedError("no pixels belong to these tables")

    def examples(self, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        return {}


def linear_data(seed: int = 0, n: int = 600) -> EmbeddedData:
    """Give the tables of a linear world, see :class:`~linear_world.LinearWorld`."""
    return LinearWorld(n=n).embed(None, seed)  # type: ignore[arg-type]


def change(data: EmbeddedData, name: str, variable: str, function: Any) -> EmbeddedData:
    """Copy data with one variable or coordinate of one table changed."""
    copy = getattr(data, name).copy(deep=True)
    copy[variable] = (copy[variable].dims, function(copy[variable].to_numpy(), copy))
    return replace(data, **{name: copy})
