"""Variants of the animal world: trained on one kind of image, tested on others of the same classes.

They are made as ImageNet's are (see :mod:`icm_study.testbeds.imagenet_variants`). The
source is photos of the source animals in which coat and scene follow the class. The
variants show the test animals, all four the same ones:

- V2: photos drawn from the same distribution as the source, its shortcut included;
- R: cartoons and paintings. A rendition is free in its colours and its ground, so there is
  no shortcut;
- Sketch: line drawings, without the shortcut too;
- A: of photos without the shortcut (as from another place), those that a linear probe on a
  *reference* encoder, trained on the source photos, gets wrong. The reference has 0 % on A
  by construction, so A is only about *other* encoders, and the accuracy on it says nothing
  about photos in general.

Everything is fitted and chosen on the source alone. The oracle pairs show photos only, so
that no method sees a variant's style; but captions may name it, as anyone can without
seeing an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from icm_core.prediction import LinearProbe, class_prompts
from icm_study.animals.latents import sample_latents
from icm_study.animals.silhouettes import CLASSES, Silhouettes, load_silhouettes
from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.encoders.animal_clip import SHIPPED
from icm_study.testbeds.animal_world import (
    NAME,
    TEMPLATES,
    embed_rendered,
    embed_source,
    known_pixels,
    shortcut_strengths,
    stored_examples,
)
from icm_study.testbeds.base import Loader, Split, TestBed
from icm_study.testbeds.splits import check_variant_classes, variant_split

if TYPE_CHECKING:
    from icm_study.embedding.store import EmbeddingStore
    from icm_study.encoders.encoder import Encoder

SOURCE_STYLES = ("photo",)
#: Name -> (styles, shortcut). Of A this is the pool that it is picked from.
VARIANTS = {
    "V2": (SOURCE_STYLES, "aligned"),
    "R": (("cartoon", "painting"), "none"),
    "Sketch": (("sketch",), "none"),
    "A": (SOURCE_STYLES, "none"),
}


@dataclass(frozen=True)
class AnimalVariants(TestBed):
    """Photos of animals as the source, and four variants as tests.

    Attributes
    ----------
    reference : Encoder
        The encoder whose mistakes make A; not the one that is tested.
    shortcut : {"coat", "scene", "coat+scene"}
        What follows the class in the source and in V2.
    strength : float in [0, 1]
        How often it does.
    n : int, optional
        Images in the source and in each variant (for A: in the pool), each of another animal
        as long as there are enough; by default every silhouette of the part once.
    silhouettes : Silhouettes

    Raises
    ------
    ValueError
        If the shortcut is unknown, or the strength is no probability.
    """

    over: ClassVar[str] = "seeds"
    reference: Encoder
    shortcut: str = "coat+scene"
    strength: float = 0.9
    n: int | None = None
    silhouettes: Silhouettes = field(default_factory=load_silhouettes, repr=False)
    name: str = NAME
    protocol: str = "variants"
    interventions: Sequence[str] = ()  # nothing can be rendered again to tell

    def __post_init__(self) -> None:
        shortcut_strengths(self.shortcut, self.strength)

    @property
    def world(self) -> str:
        """The shortcut and its strength, such as ``coat+scene 0.9``."""
        return f"{self.shortcut} {self.strength:g}"

    @property
    def columns(self) -> dict[str, Any]:
        """As of every test bed; here the shortcut is known."""
        return super().columns | {"shortcut": self.shortcut, "strength": self.strength}

    @property
    def note(self) -> str:
        """What a page says of the data."""
        return (
            "**No image of ImageNet is in this run**: the variants imitate its own in the animal "
            "world. The *source* is photos in which coat and scene follow the class. All variants "
            "show the same animals, and none of these is in the source. **V2**: photos drawn "
            "again in the same way, shortcut included. **R**: cartoons and paintings, without the "
            "shortcut. **Sketch**: line drawings, without it too. **A**: of photos without the "
            f"shortcut, those that a linear probe on the encoder `{self.reference.name}`, trained "
            "on the source, gets wrong. That reference has 0 % on A by construction, and what "
            "another encoder has there says how far it fails on the *same* images, not how good "
            "it is on photos."
        )

    @property
    def domains(self) -> tuple[str, ...]:
        """The variants."""
        return tuple(VARIANTS)

    @property
    def words(self) -> tuple[str, ...]:
        """The animals."""
        return CLASSES

    @property
    def spurious(self) -> tuple[str, ...]:
        """None are given."""
        return ()

    @property
    def encoders(self) -> list[Encoder]:
        """The reference."""
        return [self.reference]

    def targets(self, names: Sequence[str] | None = None) -> list[str | None]:
        """Leave no domain out: every variant is a test."""
        return variants_are_no_targets(names)

    def foreseen(self, targets: Sequence[str | None], seed: int) -> list[Split]:
        """Say that the source is one domain, and no test is the target; A is not known yet."""
        none = xr.Dataset(coords={"label": ("row", np.empty(0, int))})
        return [Split(train=none, held_out=none, tests={}, prompts=none, target="none")]

    def embed(self, embedder: Embedder, seed: int) -> EmbeddedData:
        """Embed the source with all its pairs, and the variants.

        Parameters
        ----------
        embedder : Embedder
        seed : int
            Of the latents, the interventions and the captions.

        Returns
        -------
        EmbeddedData
            All variants as ``test``, where ``domain`` is the place of the variant in
            ``domains``; the source has no coordinate ``domain``. All latent factors are
            coordinates.

        Raises
        ------
        ValueError
            If the reference is the encoder itself, or so few images are drawn that a table
            has fewer than two classes, or the source lacks a class of a variant.
        OSError
            If the store's directory cannot be written.
        """
        encoder, reference = embedder.encoder, self.reference
        if reference.fingerprint == encoder.fingerprint:
            other = next(name for name in SHIPPED if name not in (reference.name, encoder.name))
            raise ValueError(
                f"The reference {reference.name!r} is the encoder {encoder.name!r} itself, which "
                "would have 0 % on the variant A by construction. Pass another encoder as "
                f"`reference`, such as {other!r}."
            )
        strengths = shortcut_strengths(self.shortcut, self.strength)
        common = {
            "dataset": "animal-world variants",
            "pixels": known_pixels(self.silhouettes, embedder.store.facts),
            "seed": seed,
            "n": self.n,
        }
        by_reference = Embedder(reference, embedder.store)

        def embedded(by: Embedder, name: str, latents: pd.DataFrame, shortcut: str) -> xr.Dataset:
            relevant = {} if shortcut == "none" else strengths
            key = common | relevant | {
                "encoder": by.encoder.name, "weights": by.encoder.fingerprint,
                "precision": by.encoder.precision, "part": name, "shortcut": shortcut,
            }  # fmt: skip
            return embedder.store.get(key, lambda: self._embed_originals(by, latents))

        photos = self._latents("source", SOURCE_STYLES, "aligned", seed)
        source = embedder.store.get(
            common
            | strengths
            | encoder.text_key(*class_prompts(CLASSES, TEMPLATES)[0])
            | {"encoder": encoder.name, "part": "source"},
            lambda: self._embed_photos(embedder, photos, seed),
        )
        tests = []
        for number, (name, (styles, shortcut)) in enumerate(VARIANTS.items()):
            latents = self._latents("test", styles, shortcut, seed)
            table = embedded(embedder, name, latents, shortcut)
            if name == "A":
                pool = embedded(by_reference, "A", latents, shortcut)
                known = embedded(by_reference, "source originals", photos, "aligned")
                table = table.isel(row=_mistakes(known, pool))
            labels = table["label"].to_numpy()
            check_variant_classes(f"The variant {name!r}", labels, source["label"].to_numpy())
            tests.append(table.assign_coords(domain=("row", [number] * table.sizes["row"])))
        return EmbeddedData(
            source=source,
            test=xr.concat(tests, "row"),
            prompts=embedder.prompts(CLASSES, TEMPLATES),
            provenance=common | strengths | {
                "encoder": encoder.name, "weights": encoder.fingerprint,
                "reference": reference.name, "reference_weights": reference.fingerprint,
            },
            domains=self.domains,
            classes=CLASSES,
        )  # fmt: skip

    def split(self, data: EmbeddedData, target: str | None, seed: int) -> Split:
        """Divide the source, see :func:`~icm_study.testbeds.splits.variant_split`."""
        return variant_split(data, seed)

    def loaders(self, encoder: Encoder, seed: int) -> tuple[Loader, Loader]:
        """Refuse: the mistakes that make A cannot be rendered from rows alone."""
        raise ValueError(
            "Methods that change the encoder cannot be run on variants. Run them on "
            "'animal-world' or on a folder of domains."
        )

    def stored_examples(self, store: EmbeddingStore, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        """Show the examples, or open those that are stored."""
        return stored_examples(self, store, n)

    def examples(self, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        """Show images of the source and of what each variant is drawn from."""
        from icm_study.animals.rendering import render  # imports torch, which is slow

        parts: dict[str, tuple[str, Sequence[str], str]] = {}
        parts["source"] = ("source", SOURCE_STYLES, "aligned")
        parts |= {name: ("test", *how) for name, how in VARIANTS.items()}
        rng = np.random.default_rng(0)
        shown = {}
        for name, (part, styles, shortcut) in parts.items():
            latents = self._latents(part, styles, shortcut, 0)
            rows = latents.iloc[rng.permutation(len(latents))[:n]]
            shown[name] = render(rows, self.silhouettes).numpy()
        return shown

    def _latents(self, part: str, styles: Sequence[str], shortcut: str, seed: int) -> pd.DataFrame:
        return sample_latents(
            self.silhouettes, part, styles=styles, shortcut=shortcut, seed=seed, n=self.n,
            strengths=tuple(shortcut_strengths(self.shortcut, self.strength).values()),
        )  # fmt: skip

    def _embed_photos(self, embedder: Embedder, latents: pd.DataFrame, seed: int) -> xr.Dataset:
        """Source table of photos, whose oracle pairs are photos too."""
        source = embed_source(embedder, self.silhouettes, latents, seed, SOURCE_STYLES)
        source = source.drop_vars(["domain", "oracle_domain"])
        return source.assign_coords({name: ("row", values) for name, values in latents.items()})

    def _embed_originals(self, embedder: Embedder, latents: pd.DataFrame) -> xr.Dataset:
        original = embed_rendered(embedder, self.silhouettes, latents)[:, 0]
        return xr.Dataset(
            {"original": (("row", "feature"), original)},
            {name: ("row", values) for name, values in latents.items()},
        )


def variants_are_no_targets(names: Sequence[str] | None) -> list[str | None]:
    """Give the one target of variants, none; refuse names."""
    if names is not None:
        raise ValueError(
            f"targets={list(names)}: every variant is a test, and none is left out; pass None."
        )
    return [None]


@threadpool_limits.wrap(limits=1, user_api="blas")
def _mistakes(known: xr.Dataset, pool: xr.Dataset) -> NDArray[np.intp]:
    """Rows of a pool that a linear probe gets wrong, both as the reference embeds them."""
    probe = LinearProbe().fit(known["original"].to_numpy(), known["label"].to_numpy())
    return np.flatnonzero(probe.predict(pool["original"].to_numpy()) != pool["label"].to_numpy())
