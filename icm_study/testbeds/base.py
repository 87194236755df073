"""What a test bed is: a data set under a protocol, and all that an experiment asks of it.

An experiment runs on a test bed and asks nothing else about where the data come from: how
they are embedded, which domain may be the target, who trains, who chooses and who is
tested, what an interval speaks for, and what a page says and shows of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from icm_core.interventions import IMAGE_INTERVENTIONS
from icm_study.embedding.tables import EmbeddedData, Embedder

if TYPE_CHECKING:
    import torch

    from icm_study.embedding.store import EmbeddingStore
    from icm_study.encoders.encoder import Encoder

PROTOCOLS = ("leave-one-domain-out", "open class", "domain shift with open classes")
CONDITIONS = ("in_distribution", "unseen", "reversed", "seen_classes", "new_classes")

#: From rows of a table to the pixels of these images, uint8 (n, 3, H, W).
Loader = Callable[[NDArray[np.intp]], "torch.Tensor"]


@dataclass(frozen=True)
class Split:
    """What a method may see.

    Attributes
    ----------
    train, held_out : Dataset
        Source rows to fit on, and source rows to choose hyperparameters on.
    tests : dict of str to Dataset
        A test set for each condition.
    prompts : Dataset
        The prompts of every class that may be predicted.
    target : str
        The condition that stands for the target: what a method tuned on the target looks at.
    candidates : dict of str to ndarray
        For a condition, the labels to choose among, where these are not all.
    pairs : Dataset or None
        Other images whose interventional pairs the projection is estimated from; None: the
        pairs of `train`.
    """

    train: xr.Dataset
    held_out: xr.Dataset
    tests: dict[str, xr.Dataset]
    prompts: xr.Dataset
    target: str = "unseen"
    candidates: Mapping[str, NDArray] = field(default_factory=dict)
    pairs: xr.Dataset | None = None

    @property
    def paired(self) -> xr.Dataset:
        """The table whose interventional pairs the projection is estimated from."""
        return self.train if self.pairs is None else self.pairs


class TestBed(ABC):
    """A data set under a protocol.

    Attributes
    ----------
    name : str
        The data set's, as tables and pages call it.
    protocol : str
        One of :data:`PROTOCOLS`.
    interventions : sequence of str
        Image interventions that are drawn from; empty where it cannot be told later which
        image got which.
    """

    __test__: ClassVar[bool] = False  # the name is no test to pytest
    name: str
    protocol: str = PROTOCOLS[0]
    interventions: Sequence[str] = IMAGE_INTERVENTIONS

    @property
    def has_other_pairs(self) -> bool:
        """Whether the projection is estimated from pairs of other images."""
        return False

    @property
    @abstractmethod
    def over(self) -> str:
        """What an interval speaks for, one of :data:`~icm_study.experiments.intervals.OVER`.

        Other draws of the simulator (``"seeds"``), whose runs are independent, or, where
        seeds only split anew, other ``"images"`` of the same domains, or ``"groups"`` of them.
        """

    @property
    def world(self) -> str:
        """Which of the data set's worlds this is, such as ``coat+scene 0.9``; else the name."""
        return self.name

    @property
    def columns(self) -> dict[str, Any]:
        """What a table of results says of this test bed in each row."""
        return {
            "dataset": self.name,
            "protocol": self.protocol,
            "world": self.world,
            "shortcut": "unknown",
            "strength": float("nan"),
        }

    @property
    @abstractmethod
    def note(self) -> str:
        """What a page says of the data, in Markdown."""

    @property
    @abstractmethod
    def domains(self) -> tuple[str, ...]:
        """Names of the domains that can be the target."""

    @property
    @abstractmethod
    def words(self) -> tuple[str, ...]:
        """Class names as they stand in prompts, in the order of the labels."""

    @property
    @abstractmethod
    def spurious(self) -> tuple[str, ...]:
        """Prompts that name a value of a variant factor and no class."""

    @property
    def encoders(self) -> list[Encoder]:
        """Encoders that the data were made with, beside the one that is tested."""
        return []

    def check_protocol(self) -> None:
        """Refuse a protocol that is none."""
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol={self.protocol!r} is unknown; choose one of {PROTOCOLS}.")

    def targets(self, names: Sequence[str] | None = None) -> list[str | None]:
        """Name the domains to leave out in turn; under ``"open class"`` none is.

        Parameters
        ----------
        names : sequence of str, optional
            By default every domain.

        Raises
        ------
        TypeError
            If the names are a single string.
        ValueError
            If a name is no domain, is given twice or none is given, or the protocol leaves
            no domain out and names are given.
        """
        if isinstance(names, str):
            raise TypeError(f"targets: {names!r}; expected a sequence of names. Write [{names!r}].")
        if self.protocol == "open class":
            if names is not None:
                raise ValueError(
                    f"targets={list(names)}: the protocol 'open class' leaves no domain out; pass "
                    "None."
                )
            return [None]
        chosen = self.domains if names is None else tuple(names)
        unknown = [name for name in chosen if name not in self.domains]
        if unknown or not chosen or len(set(chosen)) < len(chosen):
            raise ValueError(
                f"targets={list(chosen)}; expected some of the domains {list(self.domains)}, each "
                f"once. Unknown: {unknown}."
            )
        return list(chosen)

    def outline(self, seed: int) -> EmbeddedData | None:
        """Give the data without any embedding, as far as a split needs them; None if unknown."""
        return None

    def foreseen(self, targets: Sequence[str | None], seed: int) -> list[Split]:
        """Divide the data for each target before anything is embedded, as far as that is known.

        Raises
        ------
        ValueError
            As :meth:`split`.
        """
        data = self.outline(seed)
        return [] if data is None else [self.split(data, target, seed) for target in targets]

    @abstractmethod
    def embed(self, embedder: Embedder, seed: int) -> EmbeddedData:
        """Embed the data, or open what is stored.

        Parameters
        ----------
        embedder : Embedder
        seed : int
            Of the images that a simulator draws. What is a folder is embedded once.
        """

    @abstractmethod
    def split(self, data: EmbeddedData, target: str | None, seed: int) -> Split:
        """Divide the embedded data: who trains, who chooses and who is tested.

        Parameters
        ----------
        data : EmbeddedData
            What :meth:`embed` gave.
        target : str or None
            One of :meth:`targets`.
        seed : int
        """

    @abstractmethod
    def loaders(self, encoder: Encoder, seed: int) -> tuple[Loader, Loader]:
        """Give ways from rows of the source and the test table back to pixels."""

    def stored_examples(self, store: EmbeddingStore, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        """Show what :meth:`examples` shows; what is rendered is kept, for who has no renderer."""
        return self.examples(n)

    @abstractmethod
    def examples(self, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        """Show some images: rows of n, each (n, 3, H, W), by what they show."""
