"""What a method is given: labelled images of the sources, with their interventional pairs."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from icm_core.moments import PairMoments
from icm_study.embedding.tables import moments_of
from icm_study.encoders.encoder import Encoder


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
    """

    embedded: np.ndarray
    label: np.ndarray
    domain: np.ndarray
    rows: np.ndarray
    load: Callable[[np.ndarray], torch.Tensor]

    def __len__(self) -> int:
        return len(self.label)

    def take(self, index: np.ndarray | slice) -> Images:
        """Keep the images at these places, or under this mask."""
        kept = {
            name: getattr(self, name)[index] for name in ("embedded", "label", "domain", "rows")
        }
        return replace(self, **kept)

    def pixels(self) -> torch.Tensor:
        """Load all of these images, uint8 (n, 3, H, W)."""
        return self.load(self.rows)


@dataclass(frozen=True)
class Sources:
    """All that a method may see when it is fitted.

    Attributes
    ----------
    images : Images
        The labelled images of the source domains, n of them.
    intervened : Images
        The same images, row by row, each after an image intervention.
    drawn : ndarray of n str
        The intervention that each image got; empty where its intervened copy must not be used.
    captions, edits : ndarray of shape (n, D)
        Embedded captions, and the captions after a text intervention; of shape (0, D)
        where there are none.
    prompts : ndarray of shape (n_prompts, D)
        Embedded prompts. The first of a class is its single prompt.
    prompt_label : ndarray of shape (n_prompts,)
        The class that each prompt names.
    words : tuple of str
        The class names as they stand in prompts. A label is a place in it.
    spurious : tuple of str
        Prompts that name a value of a variant factor and no class.
    encoder : Encoder
    """

    images: Images
    intervened: Images
    drawn: np.ndarray
    captions: np.ndarray
    edits: np.ndarray
    prompts: np.ndarray
    prompt_label: np.ndarray
    words: tuple[str, ...]
    spurious: tuple[str, ...]
    encoder: Encoder
    _known: dict[Hashable, tuple[Any, float]] = field(default_factory=dict, repr=False)
    _known_of_images: dict[Hashable, tuple[Any, float]] = field(default_factory=dict, repr=False)
    _borrowed: list[float] = field(default_factory=list, repr=False)

    def take(self, index: np.ndarray) -> Sources:
        """Keep the images at these places, or under this mask, with their pairs."""
        named = {"images", "intervened"}
        kept = {name: getattr(self, name).take(index) for name in named}
        kept |= {
            name: x[index]
            for name in ("drawn", "captions", "edits")
            if len(x := getattr(self, name))
        }
        return replace(self, **kept, _known={}, _known_of_images={}, _borrowed=[])

    def without(self, intervention: str) -> Sources:
        """Forget every copy made by one image intervention; the images themselves stay."""
        return replace(
            self,
            drawn=np.where(self.drawn == intervention, "", self.drawn),
            _known={},
            _borrowed=[],
        )

    def labelled(self, images: Images) -> Sources:
        """Put other labelled images in place of these; no pairs are left."""
        none = slice(0, 0)
        kept = {name: getattr(self, name)[none] for name in ("drawn", "captions", "edits")}
        return replace(
            self,
            images=images,
            intervened=self.intervened.take(none),
            **kept,
            _known={},
            _known_of_images={},
            _borrowed=[],
        )

    def image_pairs(self) -> tuple[Images, Images]:
        """Give the images whose intervened copy may be used, and these copies."""
        usable = self.drawn != ""
        return self.images.take(usable), self.intervened.take(usable)

    def moments(self, intervention: str) -> PairMoments:
        """Moments of the pairs of ``"image"``, ``"text"``, or both in equal parts, ``"image+text"``.

        Raises
        ------
        ValueError
            If the intervention is another, or there are no captions for a text intervention.
        """

        def pairs_of(kind: str) -> tuple[np.ndarray, np.ndarray]:
            if kind == "image":
                before, after = self.image_pairs()
                return before.embedded, after.embedded
            if kind != "text":
                raise ValueError(
                    f"Unknown intervention {intervention!r}; expected 'image', 'text' or "
                    f"'image+text'."
                )
            if not len(self.captions):
                raise ValueError(
                    f"intervention={intervention!r}: these sources have no captions, so no "
                    f"text pairs. Use 'image', or an "
                    "encoder that knows the words of captions."
                )
            return self.captions, self.edits

        return self.once(("moments", intervention), lambda: moments_of(intervention, pairs_of))

    def once(self, key: Hashable, compute: Callable[[], Any], *, of_pairs: bool = True) -> Any:
        """Compute what several methods share once for these sources, such as moments or tuned weights.

        With ``of_pairs=False`` the result may not depend on which copies may be used;
        :meth:`without` then keeps it."""
        known = self._known if of_pairs else self._known_of_images
        if key not in known:
            start = time.perf_counter()
            value = compute()
            known[key] = value, time.perf_counter() - start
        else:
            self._borrowed.append(known[key][1])
        return known[key][0]

    def borrowed_seconds(self) -> float:
        """Seconds that results given again by :meth:`once` had taken, since the last call."""
        seconds = sum(self._borrowed)
        self._borrowed.clear()
        return seconds
