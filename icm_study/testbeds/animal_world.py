"""The animal world as a test bed: other animals are tested, and every factor is known.

The sources carry a *shortcut*: coat or scene (or both) follow the class with a given
strength. The tests show other animals under three conditions: the shortcut as in the
sources ("aligned"), absent ("none"), and pointing to another class ("reversed").

torch, which renders, is imported when an image is needed, not with this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from icm_core import interventions
from icm_core.interventions import IMAGE_INTERVENTIONS, intervene_captions, intervene_images
from icm_core.prediction import class_prompts
from icm_study.animals import latents as animal_latents
from icm_study.animals.latents import (
    LEXICON,
    SHORTCUTS,
    STYLES,
    captions,
    redraw_variant,
    sample_latents,
)
from icm_study.animals.silhouettes import CLASSES, Silhouettes, load_silhouettes
from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.facts import Facts, made_by
from icm_study.fingerprint import fingerprint
from icm_study.testbeds.base import PROTOCOLS, Loader, Split, TestBed
from icm_study.testbeds.splits import split

if TYPE_CHECKING:
    import torch

    from icm_study.embedding.store import EmbeddingStore
    from icm_study.encoders.encoder import Encoder
    from icm_study.testbeds.animal_variants import AnimalVariants

NAME = "animal-world"
NO_SHORTCUT, REVERSED = "test, no shortcut", "test, reversed"
#: The rows of examples that show what each protocol tests.
TESTED = dict(zip(PROTOCOLS, ((NO_SHORTCUT, REVERSED), (), (NO_SHORTCUT,)), strict=True))
TEMPLATES = ("an image of a {}", *(f"a {style} of a {{}}" for style in STYLES))
#: Prompts that name a value of a variant factor and no class, for each factor.
SPURIOUS = {
    "style": "a {} of an animal",
    "coat": "a {} animal",
    "scene": "an image of an animal {}",
    "light": "an image of an animal in {}",
    "blur": "a {} image of an animal",
}


@dataclass(frozen=True)
class AnimalWorld(TestBed):
    """Rendered animals, whose styles are the domains.

    Attributes
    ----------
    shortcut : {"coat", "scene", "coat+scene"}
        What follows the class in the sources.
    strength : float in [0, 1]
        How often it does.
    n : int, optional
        Images in each table, each of another animal as long as there are enough; by default
        every silhouette of the part once.
    protocol : str
    silhouettes : Silhouettes

    Raises
    ------
    ValueError
        If the shortcut or the protocol is unknown, or the strength is no probability.
    """

    over: ClassVar[str] = "seeds"
    shortcut: str = "coat+scene"
    strength: float = 0.9
    n: int | None = None
    protocol: str = PROTOCOLS[0]
    silhouettes: Silhouettes = field(default_factory=load_silhouettes, repr=False)
    name: str = NAME

    def __post_init__(self) -> None:
        self.check_protocol()
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
            "The data are real animal silhouettes, rendered so that every factor is known. The "
            "styles are the domains. In the sources, coat and scene follow the class most of the "
            "time; on the target they do not, or they point to another class. The captions are "
            "the simulator's: exact, complete, and edited with a lexicon that knows every variant "
            "word, so these text pairs are better than those of a real data set. The *oracle* "
            "renders the same animal again with every variant factor drawn anew, which only a "
            "simulator can do."
        )

    @property
    def domains(self) -> tuple[str, ...]:
        """The styles."""
        return STYLES

    @property
    def words(self) -> tuple[str, ...]:
        """The animals."""
        return CLASSES

    @property
    def spurious(self) -> tuple[str, ...]:
        """Prompts for every value of every variant factor."""
        return tuple(SPURIOUS[name].format(v) for name, values in LEXICON.items() for v in values)

    def latents(self, part: str, shortcut: str, seed: int) -> pd.DataFrame:
        """Draw what the images of a part show, as :func:`sample_latents` does."""
        return sample_latents(
            self.silhouettes, part, shortcut=shortcut, seed=seed, n=self.n,
            strengths=tuple(shortcut_strengths(self.shortcut, self.strength).values()),
        )  # fmt: skip

    def outline(self, seed: int) -> EmbeddedData:
        """Give the data without any embedding."""
        source = self.latents("source", "aligned", seed)
        tests = [
            xr.Dataset(coords=_test_coordinates(self.latents("test", shortcut, seed), shortcut))
            for shortcut in SHORTCUTS
        ]
        return EmbeddedData(
            source=xr.Dataset(
                coords=_source_coordinates(source, redraw_variant(source, seed=seed))
            ),
            test=xr.concat(tests, "row"),
            prompts=xr.Dataset(coords={"label": ("row", np.arange(len(CLASSES)))}),
            provenance={},
            domains=STYLES,
            classes=CLASSES,
        )

    def foreseen(self, targets: Sequence[str | None], seed: int) -> list[Split]:
        """Find out whether there are images enough, before any is embedded."""
        try:
            return super().foreseen(targets, seed)
        except ValueError as error:
            raise ValueError(
                f"n_images={self.n}: with seed {seed} so many images of animals cannot be divided. "
                f"{error} Give more, or None for every animal once."
            ) from error

    def embed(self, embedder: Embedder, seed: int) -> EmbeddedData:
        """Embed sources with all their pairs, and tests under every shortcut.

        Parameters
        ----------
        embedder : Embedder
        seed : int
            Of the latents, the interventions and the captions.

        Returns
        -------
        EmbeddedData

        Raises
        ------
        ValueError
            If an embedding is not finite.
        OSError
            If the store's directory cannot be written.
        """
        encoder, store = embedder.encoder, embedder.store
        strengths = shortcut_strengths(self.shortcut, self.strength)
        common = encoder.text_key(*class_prompts(CLASSES, TEMPLATES)[0]) | {
            "encoder": encoder.name,
            "dataset": self.name,
            "pixels": known_pixels(self.silhouettes, store.facts),
            "seed": seed,
            "n": self.n,
        }
        source = store.get(
            common | {"part": "source", **strengths},
            lambda: embed_source(
                embedder, self.silhouettes, self.latents("source", "aligned", seed), seed
            ),
        )
        tests = []
        for shortcut in SHORTCUTS:
            # without a shortcut the strengths are irrelevant: one stored table serves all
            relevant = {} if shortcut == "none" else strengths
            tests.append(
                store.get(
                    common | {"part": "test", "shortcut": shortcut, **relevant},
                    partial(self._embed_test, embedder, shortcut, seed),
                )
            )
        return EmbeddedData(
            source=source,
            test=xr.concat(tests, "row"),
            prompts=embedder.prompts(CLASSES, TEMPLATES),
            provenance=common | strengths,
            domains=STYLES,
            classes=CLASSES,
        )

    def with_single_interventions(self, embedder: Embedder, data: EmbeddedData) -> EmbeddedData:
        """Add each of the paper's image interventions on its own to the source table.

        Parameters
        ----------
        embedder : Embedder
        data : EmbeddedData
            What :meth:`embed` gave.

        Returns
        -------
        EmbeddedData
            The source table has one more variable for each key of
            :data:`~icm_core.interventions.IMAGE_INTERVENTIONS`.
        """
        key = data.provenance | {"part": "source", "interventions": list(IMAGE_INTERVENTIONS)}
        seed = data.provenance["seed"]

        def compute() -> xr.Dataset:
            from icm_study.animals.rendering import render

            latents = self.latents("source", "aligned", seed)
            keys = _keys(self.silhouettes, latents, seed)
            originals = render(latents, self.silhouettes)  # once, for all interventions

            def intervened(name: str) -> NDArray[np.float32]:
                def load(rows: NDArray[np.intp]) -> torch.Tensor:
                    return intervene_images(originals[rows], [name], seed)

                return embedder.images([f"{name} {key}" for key in keys], load)[:, 0]

            return xr.Dataset(
                {name: (("row", "feature"), intervened(name)) for name in IMAGE_INTERVENTIONS}
            )

        singles = embedder.store.get(key, compute)
        return replace(data, source=data.source.assign(singles.data_vars))

    def split(self, data: EmbeddedData, target: str | None, seed: int) -> Split:
        """Divide the animals, see :func:`~icm_study.testbeds.splits.split`."""
        number = None if target is None else STYLES.index(target)
        return split(data, number, protocol=self.protocol, seed=seed)

    def loaders(self, encoder: Encoder, seed: int) -> tuple[Loader, Loader]:
        """Render images of the source and of the test table when they are asked for, each once."""
        import torch

        from icm_study.animals.rendering import IMAGE_SIZE, render

        tests = pd.concat([self.latents("test", shortcut, seed) for shortcut in SHORTCUTS])

        def loader(latents: pd.DataFrame) -> Loader:
            missing = np.ones(len(latents), dtype=bool)
            shape = len(latents), 3, IMAGE_SIZE, IMAGE_SIZE
            rendered = torch.empty(shape, dtype=torch.uint8)

            def load(rows: NDArray[np.intp]) -> torch.Tensor:
                new = np.unique(rows[missing[rows]])  # every tuned tower embeds the same images
                rendered[new] = render(latents.iloc[new], self.silhouettes)
                missing[new] = False
                return rendered[rows]

            return load

        return loader(self.latents("source", "aligned", seed)), loader(tests)

    def stored_examples(self, store: EmbeddingStore, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        """Show the examples, or open those that are stored; of tests, those of the protocol."""
        shown = stored_examples(self, store, n)
        left_out = {NO_SHORTCUT, REVERSED} - set(TESTED[self.protocol])
        return {name: images for name, images in shown.items() if name not in left_out}

    def examples(self, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        """Show source animals, the same after interventions, and test animals."""
        from icm_study.animals.rendering import render

        strong = partial(sample_latents, self.silhouettes, strengths=(0.9, 0.9), n=n, seed=2)
        source = strong("source")
        original = render(source, self.silhouettes)
        shown = {
            "source": original,
            "image intervention": intervene_images(original),
            "oracle": render(redraw_variant(source), self.silhouettes),
            NO_SHORTCUT: render(
                sample_latents(self.silhouettes, "test", n=n, seed=2), self.silhouettes
            ),
            REVERSED: render(strong("test", shortcut="reversed"), self.silhouettes),
        }
        return {name: images.numpy() for name, images in shown.items()}

    def _embed_test(self, embedder: Embedder, shortcut: str, seed: int) -> xr.Dataset:
        latents = self.latents("test", shortcut, seed)
        original = embed_rendered(embedder, self.silhouettes, latents)[:, 0]
        caption = embedder.texts(captions(latents, left_out=0.0))
        variables = {"original": original, "caption": caption}
        return xr.Dataset(
            {k: (("row", "feature"), v) for k, v in variables.items()},
            _test_coordinates(latents, shortcut),
        )


def shortcut_strengths(shortcut: str, strength: float) -> dict[str, Any]:
    """Turn a shortcut and its strength into those of its factors, coat and scene.

    Raises
    ------
    ValueError
        If the shortcut is none of "coat", "scene" and "coat+scene", or the strength is no
        probability.
    """
    if shortcut not in ("coat", "scene", "coat+scene"):
        raise ValueError(
            f"The shortcut {shortcut!r} is unknown; choose 'coat', 'scene' or 'coat+scene'."
        )
    if not 0 <= strength <= 1:
        raise ValueError(
            f"The strength {strength!r} of the shortcut {shortcut!r} is no probability; expected a "
            "number in [0, 1]."
        )
    factors = shortcut.split("+")
    return {f"{factor}_strength": strength * (factor in factors) for factor in ("coat", "scene")}


def embed_source(
    embedder: Embedder,
    silhouettes: Silhouettes,
    latents: pd.DataFrame,
    seed: int,
    styles: Sequence[str] = STYLES,
) -> xr.Dataset:
    """Embed rows of latents with all their pairs; the oracle draws from `styles`."""
    redrawn = redraw_variant(latents, styles=styles, seed=seed)
    words = captions(latents, left_out=0.0, seed=seed)
    edits = intervene_captions(words, LEXICON, seed=seed, keep=CLASSES)
    original, image = embed_rendered(embedder, silhouettes, latents, seed).swapaxes(0, 1)
    variables = {
        "original": original,
        "image": image,
        "oracle": embed_rendered(embedder, silhouettes, redrawn)[:, 0],
        "caption": embedder.texts(words),
        "edit": embedder.texts(edits),
    }
    return xr.Dataset(
        {k: (("row", "feature"), v) for k, v in variables.items()},
        _source_coordinates(latents, redrawn),
    )


def embed_rendered(
    embedder: Embedder, silhouettes: Silhouettes, latents: pd.DataFrame, seed: int | None = None
) -> NDArray[np.float32]:
    """Render and embed: (n, 1, D), or (n, 2, D) with the image intervention of a seed."""
    import torch

    from icm_study.animals.rendering import render

    def load(rows: NDArray[np.intp]) -> torch.Tensor:
        images = render(latents.iloc[rows], silhouettes)
        if seed is None:
            return images
        return torch.cat([images, intervene_images(images, seed=seed)])

    return embedder.images(_keys(silhouettes, latents, seed), load)


def pixel_fingerprint(silhouettes: Silhouettes) -> str:
    """Hash silhouettes, rendering, interventions and captions: a change in any changes the key."""
    from icm_study.animals.rendering import render

    latents = sample_latents(silhouettes, "source", strengths=(0.5, 0.5), n=64, seed=99)
    images = render(latents, silhouettes)
    words = captions(latents, left_out=0.5, seed=99)
    edits = intervene_captions(words, LEXICON, seed=99, keep=CLASSES)
    return fingerprint(
        silhouettes.images, silhouettes.label, silhouettes.part, images, intervene_images(images),
        *words, *edits, render(redraw_variant(latents, seed=99), silhouettes),
    )  # fmt: skip


def known_pixels(silhouettes: Silhouettes, facts: Facts) -> str:
    """Recall the :func:`pixel_fingerprint`, which takes some hundred images to find out."""
    code = (Path(interventions.__file__), Path(animal_latents.__file__).parent, Path(__file__))
    of = {
        "what": "pixels",
        "silhouettes": fingerprint(silhouettes.images, silhouettes.label, silhouettes.part),
        "by": made_by(code, ("numpy", "pandas", "scipy", "torch", "torchvision")),
    }
    return facts.recall(of, lambda: pixel_fingerprint(silhouettes))


def stored_examples(
    bed: AnimalWorld | AnimalVariants, store: EmbeddingStore, n: int = 12
) -> dict[str, NDArray[np.uint8]]:
    """Show some images of a rendered test bed, or open what is stored."""

    def compute() -> xr.Dataset:
        shown = bed.examples(n)
        variables = {f"row {i}": values for i, values in enumerate(shown.values())}
        return xr.Dataset(
            {k: ((f"n {k}", "channel", "y", "x"), v) for k, v in variables.items()},
            {"label": list(shown)},
        )

    stored = store.get(
        {
            "part": "examples", "n": n, "of": bed.n, "world": bed.world,
            "testbed": type(bed).__name__, "pixels": known_pixels(bed.silhouettes, store.facts),
        },
        compute,
    )  # fmt: skip
    names = stored["label"].to_numpy().tolist()
    return {name: stored[f"row {i}"].to_numpy() for i, name in enumerate(names)}


def _keys(silhouettes: Silhouettes, latents: pd.DataFrame, seed: int | None) -> list[str]:
    """Tell apart what rows of latents show, with the image intervention of a seed."""
    shapes = silhouettes.images[latents["silhouette"].to_numpy()]
    return [
        fingerprint(shape, row, str(seed))
        for shape, row in zip(shapes, latents.to_numpy(float), strict=True)
    ]


def _coordinates(latents: pd.DataFrame) -> dict[str, Any]:
    renamed = latents.rename(columns={"style": "domain"})
    keep = ["silhouette", "label", "domain", "coat", "scene", "light", "blur"]
    return {name: ("row", renamed[name].to_numpy()) for name in keep}


def _source_coordinates(latents: pd.DataFrame, redrawn: pd.DataFrame) -> dict[str, Any]:
    return _coordinates(latents) | {"oracle_domain": ("row", redrawn["style"].to_numpy())}


def _test_coordinates(latents: pd.DataFrame, shortcut: str) -> dict[str, Any]:
    return _coordinates(latents) | {"shortcut": ("row", [shortcut] * len(latents))}
