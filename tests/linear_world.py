"""A test bed in numbers alone, where theory says what is right: a linear SCM with a shortcut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from stand_ins import linear_data

from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.testbeds.base import PROTOCOLS, Split, TestBed
from icm_study.testbeds.splits import split

D = 6  # two invariant dimensions, four that follow the shortcut


@dataclass(frozen=True)
class LinearWorld(TestBed):
    """A simulator that draws :func:`stand_ins.linear_data` anew for each seed."""

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
        drawn = linear_data(seed, self.n, self.n_test)
        return replace(drawn, provenance={"seed": seed, "pixels": "none"})

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


def numbers_only(store: EmbeddingStore) -> Embedder:
    """Give an embedder for :class:`LinearWorld`, whose encoder embeds nothing."""
    encoder = SimpleNamespace(name="no encoder", embedding_dim=D, fingerprint="f00", model=None)
    return Embedder(encoder, store)  # type: ignore[arg-type]
