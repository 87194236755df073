"""Stand-ins that several tests share: a quick encoder, and test beds made of tables at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.fingerprint import fingerprint
from icm_study.testbeds.base import PROTOCOLS, Loader, Split, TestBed
from icm_study.testbeds.splits import split
from icm_study.theory.linear import LinearGaussianSCM

D = 24
STRENGTH = {"aligned": 0.9, "none": 0.0, "reversed": -0.9}


class StandInEncoder:
    """Embeds by fixed random maps of thumbnails and letters: equal inputs, equal embeddings.

    It counts what it is given, as `seen_images` and `seen_texts`.
    """

    precision = "float32"
    embedding_dim = D

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.name, self.fingerprint = f"stand-in {seed}", f"weights {seed}"
        self._pixels = rng.normal(size=(3 * 4 * 4, D))
        self._letters = rng.normal(size=(128, D))
        self.seen_images = self.seen_texts = 0

    def text_key(self, *texts: str) -> dict[str, str]:
        return {"weights": self.fingerprint, "tokens": fingerprint(*texts)}

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


def table(coordinates: dict[str, Any], **variables: NDArray) -> xr.Dataset:
    """Make a table of embeddings."""
    rows = {name: (("row", "feature"), values) for name, values in variables.items()}
    return xr.Dataset(rows, {name: ("row", values) for name, values in coordinates.items()})


def linear_data(seed: int = 0, n: int = 600, n_test: int = 900) -> EmbeddedData:
    """Data of a linear SCM: z_var follows the label in the sources, the oracle re-draws it.

    The image intervention re-draws one half of z_var only, and moves z_inv a little: it
    covers less than the oracle, and leaks. The domains are copies of each other, told
    apart by name."""
    scm = LinearGaussianSCM(
        2, 4, condition_number=3, environments=STRENGTH, label_noise=0.1, seed=seed
    )
    rng = np.random.default_rng(seed)

    def embed(z: NDArray) -> NDArray:
        return z @ scm.mixing_.T

    X, y, z = scm.sample("aligned", n, rng)
    fresh = rng.normal(size=z.shape)
    half = np.where(np.arange(6) < 2, z + 0.1 * fresh, np.where(np.arange(6) < 4, fresh, z))
    full = np.where(np.arange(6) < 2, z, fresh)
    coordinates = {name: rng.integers(3, size=n) for name in ("domain", "oracle_domain")}
    source = table(
        coordinates | {"label": y},
        original=X, image=embed(half), oracle=embed(full), caption=X, edit=embed(full),
    )  # fmt: skip
    tests = []
    for shortcut in STRENGTH:
        X, y, _ = scm.sample(shortcut, n_test, rng)
        where = {"domain": rng.integers(3, size=n_test), "shortcut": [shortcut] * n_test}
        tests.append(table(where | {"label": y}, original=X, caption=X))
    towards = scm.invariant_subspace_ @ scm.invariant_subspace_.T @ (X.T @ (y - y.mean()))
    prompts = table({"label": [0, 1]}, prompt=np.outer([-1, 1], towards))
    return EmbeddedData(source, xr.concat(tests, "row"), prompts, {}, ("a", "b", "c"), ("0", "1"))


def change(data: EmbeddedData, name: str, variable: str, function: Any) -> EmbeddedData:
    """Copy data with one variable or coordinate of one table changed."""
    copy = getattr(data, name).copy(deep=True)
    copy[variable] = (copy[variable].dims, function(copy[variable].to_numpy(), copy))
    return replace(data, **{name: copy})
