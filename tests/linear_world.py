"""A test bed in numbers alone, where theory says what is right: a linear SCM with a shortcut."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.testbeds.base import PROTOCOLS, Split, TestBed
from icm_study.testbeds.splits import split
from icm_study.theory.linear import LinearGaussianSCM

D = 6  # two invariant dimensions, four that follow the shortcut
STRENGTH = {"aligned": 0.9, "none": 0.0, "reversed": -0.9}


@dataclass(frozen=True)
class LinearWorld(TestBed):
    """Embeddings of a linear SCM: z_var follows the label in the sources.

    The oracle re-draws z_var. The image intervention re-draws one half of it only, and moves
    z_inv a little: it covers less than the oracle, and leaks. The domains are copies of each
    other, told apart by name.
    """

    over: ClassVar[str] = "seeds"
    n: int = 600
    n_test: int = 900
    protocol: str = PROTOCOLS[0]
    name: str = "linear world"
    world: str = "linear"
    note: str = "Numbers."
    domains: tuple[str, ...] = ("a", "b", "c")
    words: tuple[str, ...] = ("no", "yes")
    spurious: tuple[str, ...] = ()

    def embed(self, embedder: Embedder, seed: int) -> EmbeddedData:
        """Draw everything anew."""
        scm = LinearGaussianSCM(
            2, 4, condition_number=3, environments=STRENGTH, label_noise=0.1, seed=seed
        )
        rng = np.random.default_rng(seed)
        X, y, z = scm.sample("aligned", self.n, rng)
        fresh, place = rng.normal(size=z.shape), np.arange(D)
        half = np.where(place < 2, z + 0.1 * fresh, np.where(place < 4, fresh, z))
        half, full = half @ scm.mixing_.T, np.where(place < 2, z, fresh) @ scm.mixing_.T
        number = {
            name: rng.integers(len(self.domains), size=self.n)
            for name in ("domain", "oracle_domain")
        }
        source = table(
            {"label": y, **number}, original=X, image=half, oracle=full, caption=X, edit=full
        )
        tests = []
        for shortcut in STRENGTH:
            seen, label, _ = scm.sample(shortcut, self.n_test, rng)
            domain = rng.integers(len(self.domains), size=self.n_test)
            drawn = {"label": label, "domain": domain, "shortcut": [shortcut] * self.n_test}
            tests.append(table(drawn, original=seen, caption=seen))
        invariant = scm.invariant_subspace_ @ scm.invariant_subspace_.T
        prompt = np.outer([-1, 1], invariant @ (X.T @ (y - y.mean())))
        return EmbeddedData(
            source=source,
            test=xr.concat(tests, "row"),
            prompts=table({"label": [0, 1]}, prompt=prompt),
            provenance={"seed": seed, "pixels": "none"},
            domains=self.domains,
            classes=self.words,
        )

    def split(self, data: EmbeddedData, target: str | None, seed: int) -> Split:
        """Divide as every simulator."""
        number = None if target is None else self.domains.index(target)
        return split(data, number, protocol=self.protocol, seed=seed)

    def loaders(self, encoder: Any, seed: int) -> tuple[Any, Any]:
        """Give noise, of which an image intervention is drawn."""

        def load(rows: np.ndarray) -> torch.Tensor:
            noise = np.stack([np.random.default_rng(row).integers(256, size=48) for row in rows])
            return torch.from_numpy(noise.astype(np.uint8).reshape(-1, 3, 4, 4))

        return load, load

    def examples(self, n: int = 12) -> dict[str, np.ndarray]:
        """Show nothing."""
        return {}


def table(coordinates: dict[str, Any], **variables: np.ndarray) -> xr.Dataset:
    """Put arrays of rows together, with their coordinates."""
    rows = {name: (("row", "feature"), values) for name, values in variables.items()}
    return xr.Dataset(rows, {name: ("row", values) for name, values in coordinates.items()})


def numbers_only(store: EmbeddingStore) -> Embedder:
    """Give an embedder for :class:`LinearWorld`, whose encoder embeds nothing."""
    encoder = SimpleNamespace(
        name="no encoder",
        embedding_dim=D,
        fingerprint="f00",
        model=None,
        device="cpu",
    )
    return Embedder(encoder, store)  # type: ignore[arg-type]
