"""What a method is given: labelled images of the sources, with their interventional pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from icm_core.moments import PairMoments
from icm_study.embedding.tables import Pairs, added_up, mixed
from icm_study.methods.shared import Shared
from icm_study.testbeds.base import Loader

if TYPE_CHECKING:
    import torch

    from icm_study.encoders.encoder import Encoder

PREDICTORS = ("zero-shot", "linear probe")
#: Images × features × classes of the sources above which a probe takes so long that settings are
#: chosen with another in its place.
LARGE = 2e9
#: What stands in for a probe: one of least squares, or one that is fitted on so many of the images
#: that they are not :data:`LARGE`.
LEAST_SQUARES, PART = "least squares", "part of the images"


@dataclass(frozen=True)
class Images:
    """Embedded images, with a way to their pixels.

    Attributes
    ----------
    embedded : ndarray of shape (n, D)
        Unit rows, by the encoder as it came.
    label, domain : ndarray of shape (n,)
        Numbers of the class and of the domain.
    rows : ndarray of shape (n,)
        What `load` calls these images.
    load : callable
        From an array of rows to their pixels, uint8 (n, 3, H, W), before the encoder's
        resizing or after it.
    group : ndarray of shape (n,), optional
        Which images belong together, as frames of a burst do.
    """

    embedded: NDArray[np.floating]
    label: NDArray[np.integer]
    domain: NDArray[np.integer]
    rows: NDArray[np.intp]
    load: Loader
    group: NDArray[np.integer] | None = None

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: NDArray | slice) -> Images:
        """Keep the images at these places, or under this mask."""
        names = ["embedded", "label", "domain", "rows", *["group"] * (self.group is not None)]
        return replace(self, **{name: getattr(self, name)[index] for name in names})

    def pixels(self) -> torch.Tensor:
        """Load all of these images, uint8 (n, 3, H, W)."""
        return self.load(self.rows)


#: Embedded captions and their edits, each (n, D).
Texts = tuple[NDArray[np.floating], NDArray[np.floating]]


@dataclass(frozen=True)
class Sources:
    """All that a method may see when it is fitted.

    Attributes
    ----------
    images : Images
        The labelled images of the source domains, n of them.
    copies : mapping of str to Images
        The same images, row by row, after an intervention: ``"image"``, and of a simulator
        ``"oracle"``.
    drawn : ndarray of n str
        The image intervention that each image got, where it is known; empty where its
        intervened copy must not be used.
    texts : (captions, edits)
        Embedded captions, and the captions after a text intervention, each (n, D); of shape
        (0, D) where there are none.
    prompts : ndarray of shape (n_prompts, D)
        Embedded prompts. The first of a class is its single prompt.
    prompt_label : ndarray of shape (n_prompts,)
        The class that each prompt names.
    words : tuple of str
        The class names as they stand in prompts. A label is a place in it.
    spurious : tuple of str
        Prompts that name a value of a variant factor and no class.
    encoder : Encoder
    predictors : tuple of str
        The predictors that are asked for.
    others : mapping of str to (before, after, groups), optional
        Pairs of other images, by kind of intervention, that the projection is estimated
        from instead.
    stand_in : str
        What a fit that is only to be judged has in the place of its probe: nothing,
        :data:`LEAST_SQUARES` or :data:`PART`.
    shared : Shared
        What methods have computed once on these sources.
    """

    images: Images
    copies: Mapping[str, Images]
    drawn: NDArray[np.str_]
    texts: Texts
    prompts: NDArray[np.floating]
    prompt_label: NDArray[np.integer]
    words: tuple[str, ...]
    spurious: tuple[str, ...]
    encoder: Encoder
    predictors: tuple[str, ...] = PREDICTORS
    others: Mapping[str, Pairs] | None = None
    stand_in: str = ""
    shared: Shared = field(default_factory=Shared, repr=False, compare=False)

    @property
    def device(self) -> str | None:
        """Give the encoder's CUDA device, where probes are fitted too; None where it has none."""
        device = self.encoder.device
        return device if device.startswith("cuda") else None

    @property
    def is_large(self) -> bool:
        """Say whether a logistic probe at each of many settings would take days."""
        return self.images.embedded.size * len(self.words) > LARGE

    def part(self, label: NDArray[np.integer], n_features: int) -> NDArray[np.intp]:
        """Give places of every s-th image of each class, so few that a probe is quick.

        Parameters
        ----------
        label : ndarray of shape (n,)
        n_features : int
            What the probe has of each.
        """
        step = math.ceil(len(label) * n_features * len(self.words) / LARGE)
        return np.argsort(label, kind="stable")[::step]

    def take(self, index: NDArray) -> Sources:
        """Keep the images at these places, or under this mask, with their pairs."""
        captions, edits = self.texts
        return replace(
            self,
            images=self.images.take(index),
            copies={kind: copy.take(index) for kind, copy in self.copies.items()},
            drawn=self.drawn[index],
            texts=(captions[index], edits[index]) if len(captions) else self.texts,
            shared=Shared(),
        )

    def without(self, intervention: str) -> Sources:
        """Forget every copy made by one image intervention; the images themselves stay.

        Raises
        ------
        ValueError
            If the projection is estimated from pairs of other images.
        """
        if self.others is not None:
            raise ValueError(
                "The projection is estimated from pairs of other images, so no intervention can be "
                "left out of its fit. Choose settings in another way, such as 'intervened'."
            )
        drawn = np.where(self.drawn == intervention, "", self.drawn)
        return replace(self, drawn=drawn, shared=self.shared.of_other_pairs())

    def labelled(self, images: Images) -> Sources:
        """Put other labelled images in place of these; no pairs are left."""
        none = slice(0, 0)
        return replace(
            self,
            images=images,
            copies={kind: copy.take(none) for kind, copy in self.copies.items()},
            drawn=self.drawn[none],
            texts=(self.texts[0][none], self.texts[1][none]),
            shared=Shared(),
        )

    def copied(self, kind: str) -> tuple[Images, Images]:
        """Give the images whose copy after an intervention may be used, and these copies.

        Raises
        ------
        ValueError
            If there are no such copies.
        """
        if kind not in self.copies:
            raise ValueError(
                f"Intervention {kind!r}: these sources have no such copies of their images; they "
                f"have {', '.join(map(repr, self.copies))}."
            )
        if kind != "image":
            return self.images, self.copies[kind]
        usable = self.drawn != ""
        return self.images.take(usable), self.copies[kind].take(usable)

    def pairs(self, kind: str) -> Pairs:
        """Give the pairs of a kind that a projection is estimated from, such as ``"image"``.

        Raises
        ------
        ValueError
            If there are no such pairs.
        """
        if self.others is not None:
            pairs = self.others.get(kind)
        elif kind == "text":
            pairs = (*self.texts, None) if len(self.texts[0]) else None
        else:
            before, after = self.copied(kind)
            pairs = before.embedded, after.embedded, before.group
        if pairs is None:
            raise ValueError(
                f"Intervention {kind!r}: these sources have no such pairs. Text pairs need an "
                "encoder that knows the words of captions; use 'image' otherwise."
            )
        return pairs

    def moments(self, intervention: str) -> PairMoments:
        """Moments of the pairs of a kind, or of several joined by ``+`` in equal parts."""

        def of_kind(kind: str) -> PairMoments:  # which joint ones have part in too
            return self.shared.once(("pairs", kind), lambda: added_up(kind, self.pairs))

        def mix() -> PairMoments:
            return mixed([of_kind(kind) for kind in intervention.split("+")])

        return self.shared.once(("moments", intervention), mix)
