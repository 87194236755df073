"""A folder of images as a test bed: any domain can be the target, and images are what varies.

Where images come in groups (bursts, patients, sessions), it is groups that vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from PIL import ImageOps

from icm_core.interventions import IMAGE_INTERVENTIONS, intervene_images
from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.encoders.animal_clip import SHIPPED
from icm_study.fingerprint import fingerprint
from icm_study.photographs.folders import read_image
from icm_study.photographs.known import CATALOG, class_words
from icm_study.testbeds.base import PROTOCOLS, Loader, Split, TestBed
from icm_study.testbeds.splits import check_counts, split
from icm_study.text.captions import PHOTO_LEXICON
from icm_study.text.pairs import Texts

if TYPE_CHECKING:
    import torch

    from icm_study.encoders.encoder import Encoder

TEMPLATES = ("a photo of a {}",)
EXAMPLE_SIDE = 128  # pixels


@dataclass(frozen=True)
class ImageFolder(TestBed):
    """Images in domains and classes.

    Attributes
    ----------
    name : str
        The data set's, for its words in prompts and captions (see
        :mod:`icm_study.photographs.known`) and for the record.
    images : DataFrame
        Columns path, label and domain, and where images come in groups, group, as
        :func:`~icm_study.photographs.check.load_folder` returns it.
    texts : Texts
        What writes captions and edits them. An encoder that ships with the project knows
        the words of the animal world only, and has no text interventions here.
    protocol : str
    templates : sequence of str
        Prompts for the classes.
    interventions : sequence of str
        Image interventions to draw from: those that leave the class alone. Where the colour
        is the class, none that changes it.
    has_texts : bool
        Whether there are text interventions at all.

    Raises
    ------
    ValueError
        If the protocol is unknown or cannot divide the images, a prompt cannot name a class, or
        tell it from another, or a domain is given a word that cannot be used.
    """

    name: str
    images: pd.DataFrame
    texts: Texts = field(default_factory=Texts)
    protocol: str = PROTOCOLS[0]
    templates: Sequence[str] = TEMPLATES
    interventions: Sequence[str] = IMAGE_INTERVENTIONS
    has_texts: bool = True

    def __post_init__(self) -> None:
        self.check_protocol()
        check_counts(self.images, self.protocol)
        self.texts.check(self.images, self.name)

    @property
    def over(self) -> str:
        """Groups, where images come in some."""
        return "groups" if "group" in self.images else "images"

    @property
    def note(self) -> str:
        """What a page says of the data."""
        grouped = ""
        if "group" in self.images:
            grouped = (
                f" The {len(self.images):,} images come in {self.images['group'].nunique():,} "
                "groups: no group is on two sides of a split, and in an interval each counts as "
                "one image."
            )
        return (
            "The data are a folder of images as they are. No caption comes with "
            f"them: {self.texts.note} Which shortcuts the domains have is not known, and nothing "
            f"can be rendered again.{grouped}"
        )

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of the folders of domains."""
        return tuple(sorted(self.images["domain"].unique()))

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the folders of classes."""
        return tuple(sorted(self.images["label"].unique()))

    @property
    def _known(self) -> str | None:
        return self.name if self.name in CATALOG else None

    @property
    def words(self) -> tuple[str, ...]:
        """The class names as they stand in prompts."""
        return tuple(class_words(self._known, self.classes))

    @property
    def spurious(self) -> tuple[str, ...]:
        """Prompts for kinds of pictures."""
        return tuple(f"a {value} of an object" for value in PHOTO_LEXICON["medium"])

    def prompts(self, embedder: Embedder) -> xr.Dataset:
        """Embed the prompts of the classes, see :meth:`Embedder.prompts`.

        Raises
        ------
        ValueError
            If the encoder does not know a word, or cuts two classes to the same words.
        """
        return embedder.prompts(self.words, self.templates)

    def outline(self, seed: int) -> EmbeddedData:
        """Give the data without any embedding."""
        labels = xr.Dataset(coords={"label": ("row", np.arange(len(self.classes)))})
        source = xr.Dataset(coords=self._coordinates())
        return EmbeddedData(source, None, labels, {}, self.domains, self.classes)

    def embed(self, embedder: Embedder, seed: int) -> EmbeddedData:
        """Embed each image, also after an image intervention, and its texts; whatever the seed.

        Parameters
        ----------
        embedder : Embedder
        seed : int
            Not used: the images are what they are, and their interventions have seed 0.

        Returns
        -------
        EmbeddedData

        Raises
        ------
        ValueError
            As :meth:`prompts`, before any image is embedded; if an image cannot be read, or an
            embedding is not finite; or as the captioner and the editor.
        OSError
            If the store's directory cannot be written.
        """
        encoder = embedder.encoder
        prompts = self.prompts(embedder)  # first, since it refuses what it cannot read
        texts = self.written(embedder)
        source = embedder.pairs(self.images, texts, interventions=self.interventions)
        source = source.assign_coords(self._coordinates())
        written = (text for part in texts or () for text in part)
        return EmbeddedData(
            source=source,
            test=None,
            prompts=prompts,
            provenance={
                "encoder": encoder.name,
                "weights": encoder.fingerprint,
                "dataset": self.name,
                "pixels": source.attrs["images"],
                "texts": fingerprint(*self.templates, *written),
                "seed": 0,
                "n": len(self.images),
            }
            | ({"groups": fingerprint(source["group"].to_numpy())} if "group" in source else {}),
            domains=self.domains,
            classes=self.classes,
        )

    def _coordinates(self) -> dict[str, tuple[str, NDArray[np.integer]]]:
        """Give classes, domains and groups of the images as numbers."""
        names = [name for name in ("label", "domain", "group") if name in self.images]
        return {
            name: ("row", np.unique(self.images[name].to_numpy(str), return_inverse=True)[1])
            for name in names
        }

    def written(self, embedder: Embedder) -> tuple[list[str], list[str]] | None:
        """Write a caption and its edit for each image; None where there are no texts."""
        if not self.has_texts or embedder.encoder.name in SHIPPED:
            return None
        return self.texts.write(self.images, self.name, embedder.store.root)

    def embed_texts(self, embedder: Embedder) -> None:
        """Embed the texts only: what :meth:`embed` then finds stored."""
        for part in self.written(embedder) or ():
            embedder.store_texts(part)
        self.prompts(embedder)

    def split(self, data: EmbeddedData, target: str | None, seed: int) -> Split:
        """Divide the images, see :func:`~icm_study.testbeds.splits.split`."""
        number = None if target is None else self.domains.index(target)
        return split(data, number, protocol=self.protocol, seed=seed)

    def loaders(self, encoder: Encoder, seed: int) -> tuple[Loader, Loader]:
        """Read image files at the encoder's resolution; every image can train or test."""
        load = self.reader(encoder, self.images["path"].to_numpy(str))
        return load, load

    @staticmethod
    def reader(encoder: Encoder, paths: NDArray[np.str_]) -> Loader:
        """Give a way from rows to the pixels of image files."""
        from icm_study.embedding.files import read_images  # imports torch, which is slow

        def load(rows: NDArray[np.intp]) -> torch.Tensor:
            return read_images(encoder, paths[rows].tolist())

        return load

    def examples(self, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        """Show some images, and the same after an image intervention."""
        import torch

        paths = self.images["path"].sample(min(n, len(self.images)), random_state=2)
        original = torch.from_numpy(squares(paths.tolist()))
        return {
            "source": original.numpy(),
            "image intervention": intervene_images(original, self.interventions).numpy(),
        }


def squares(paths: Sequence[str]) -> NDArray[np.uint8]:
    """Read images and cut a square from the middle of each: (n, 3, H, W)."""
    fitted = [ImageOps.fit(read_image(path), (EXAMPLE_SIDE,) * 2) for path in paths]
    return np.stack([np.asarray(image).transpose(2, 0, 1) for image in fitted])
