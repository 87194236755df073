"""Variants of ImageNet: trained on ImageNet's images, tested on others of the same classes.

Each variant asks another question. **V2** was collected again in the same way: does the
accuracy hold at all? **R** shows renditions (paintings, cartoons, toys) and **Sketch**
black-and-white drawings: is it the shape that counts? **A** holds photographs that a
reference model, a ResNet-50, gets wrong: does another model fail with it? R and A have 200
of the 1,000 classes, and a classifier chooses among these only.

Everything is fitted and chosen on the training images alone; only the projection may be
estimated on other images instead, of any classes or none.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from icm_core.interventions import IMAGE_INTERVENTIONS
from icm_study.embedding.tables import EmbeddedData, Embedder
from icm_study.photographs.imagenet import imagenet_index, imagenet_templates
from icm_study.testbeds.animal_variants import variants_are_no_targets
from icm_study.testbeds.base import Loader, Split, TestBed
from icm_study.testbeds.image_folder import ImageFolder, squares
from icm_study.testbeds.splits import check_variant_classes, variant_split
from icm_study.text.pairs import Texts

if TYPE_CHECKING:
    from icm_study.encoders.encoder import Encoder


@dataclass(frozen=True)
class ImageNetVariants(TestBed):
    """Images of ImageNet to train on, and variants of ImageNet as tests.

    Attributes
    ----------
    name : str
        The name of the folder of training images.
    images : DataFrame
        Columns path, label and domain, as :func:`~icm_study.photographs.check.load_folder`
        returns it. The labels are ImageNet's WordNet ids or numbers, of all classes or of
        some.
    variants : mapping of str to DataFrame
        For each variant its name and its images, in the same form.
    texts : Texts
        What writes captions and edits them.
    others : (name, DataFrame), optional
        Other images to estimate the projection on, as
        :func:`~icm_study.photographs.check.load_images` returns them, and the name of their
        data set, for the words of its classes and domains. By default it is estimated on
        the training images.

    Raises
    ------
    ValueError
        If there is no variant, a label is no ImageNet class, a variant has classes that the
        training images have not, there are fewer than two classes, or two of variant,
        training images and images for the projection share a folder.
    """

    over: ClassVar[str] = "images"
    name: str
    images: pd.DataFrame
    variants: Mapping[str, pd.DataFrame]
    texts: Texts = field(default_factory=Texts)
    others: tuple[str, pd.DataFrame] | None = None
    protocol: str = "variants"
    _index: dict[str, list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError("No variant is given; expected at least one name with its images.")
        if self.others is not None:
            what = "The data for the projection"
            _check_apart(what, self.others[1], "the training images", self.images)
        for name, images in self.variants.items():
            _check_apart(f"The variant {name!r}", images, "the training images", self.images)
            if self.others is not None:
                what = "the images for the projection"
                _check_apart(f"The variant {name!r}", images, what, self.others[1])
        index = {
            name: imagenet_index(table["label"].tolist()) for name, table in self.variants.items()
        }
        object.__setattr__(self, "_index", index)
        known = np.array(imagenet_index(sorted(self.images["label"].unique())))
        for name, numbers in index.items():
            check_variant_classes(f"The variant {name!r}", np.array(numbers), known)

    @property
    def note(self) -> str:
        """What a page says of the data."""
        other = f"; the projection is estimated on `{self.others[0]}`" if self.others else ""
        return (
            f"The training images are ImageNet's, or some of them{other}. **V2** was collected "
            "again in the same way; **R** shows renditions; **Sketch** shows black-and-white "
            "drawings; **A** holds photographs that a ResNet-50 gets wrong, so the accuracy on it "
            f"is no accuracy on photos in general. No caption exists: {self.texts.note}"
        )

    @property
    def domains(self) -> tuple[str, ...]:
        """The variants."""
        return tuple(self.variants)

    @property
    def words(self) -> tuple[str, ...]:
        """The class names as they stand in prompts."""
        return self._folder.words

    @property
    def spurious(self) -> tuple[str, ...]:
        """None are given."""
        return ()

    def targets(self, names: Sequence[str] | None = None) -> list[str | None]:
        """Leave no domain out: every variant is a test."""
        return variants_are_no_targets(names)

    @property
    def has_other_pairs(self) -> bool:
        """Whether there are other images for the projection."""
        return self.others is not None

    def outline(self, seed: int) -> EmbeddedData:
        """Give the data without any embedding."""
        data = self._folder.outline(seed)
        labels = [self._labels(name, data.classes) for name in self.variants]
        numbers = np.repeat(np.arange(len(labels)), [len(part) for part in labels])
        test = {"label": ("row", np.concatenate(labels)), "domain": ("row", numbers)}
        return replace(
            data,
            source=data.source.drop_vars("domain"),
            test=xr.Dataset(coords=test),
            domains=self.domains,
        )

    def embed(self, embedder: Embedder, seed: int) -> EmbeddedData:
        """Embed the training images, with interventions, and the variants as they are.

        Parameters
        ----------
        embedder : Embedder
        seed : int
            Not used: the images are what they are, and their interventions have seed 0.

        Returns
        -------
        EmbeddedData
            The training images as ``source``, with no coordinate ``domain``; all variants
            as ``test``, where ``domain`` is the place of the variant in ``domains``. Labels
            are places in ``classes``, the label names of the training images. The prompts
            are open_clip's 80 templates. With other images for the projection, their
            interventional pairs as ``pairs``: of images, and of texts if each image lies in
            the folder of a class.

        Raises
        ------
        ValueError
            If an image cannot be read, or as the captioner and the editor.
        OSError
            If the store's directory cannot be written.
        """
        from icm_study.embedding.files import embed_files  # imports torch, which is slow

        pairs, folder = None, self._folder
        folder.prompts(embedder)  # first, since it refuses what it cannot read
        if self.others is not None:
            pairs = embedder.pairs(self.others[1], self._texts_of_others(embedder))
        data = folder.embed(embedder, seed)
        tests, pixels = [], {}
        for number, (name, images) in enumerate(self.variants.items()):
            embedded = embed_files(embedder.encoder, images, embedder.store, interventions=())
            pixels[name] = embedded.attrs["images"]
            labels = self._labels(name, data.classes)
            numbers = [number] * len(labels)
            tests.append(embedded.assign_coords(label=("row", labels), domain=("row", numbers)))
        return replace(
            data,
            source=data.source.drop_vars("domain"),
            test=xr.concat(tests, "row", combine_attrs="drop"),
            provenance=data.provenance | {"variants": pixels},
            domains=self.domains,
            pairs=pairs,
        )

    @property
    def images_to_embed(self) -> list[tuple[pd.DataFrame, tuple[str, ...]]]:
        """The images, and the image interventions that they are embedded after, too."""
        others = [] if self.others is None else [(self.others[1], tuple(IMAGE_INTERVENTIONS))]
        trained = (self.images, tuple(self._folder.interventions))
        return [*others, trained, *((images, ()) for images in self.variants.values())]

    def embed_texts(self, embedder: Embedder) -> None:
        """Embed the texts only: what :meth:`embed` then finds stored."""
        for part in self._texts_of_others(embedder) or ():
            embedder.store_texts(part)
        self._folder.embed_texts(embedder)

    def _texts_of_others(self, embedder: Embedder) -> tuple[list[str], list[str]] | None:
        """Write texts for the images of the projection, if each lies in the folder of a class."""
        if self.others is None or not (self.others[1]["label"] != "").all():
            return None
        return self.texts.write(self.others[1], self.others[0], embedder.store.root)

    def _labels(self, name: str, classes: Sequence[str]) -> list[int]:
        """Give the class of each image of a variant, as its place among those of training."""
        place = {index: number for number, index in enumerate(imagenet_index(list(classes)))}
        return [place[index] for index in self._index[name]]

    def split(self, data: EmbeddedData, target: str | None, seed: int) -> Split:
        """Divide the training images, see :func:`~icm_study.testbeds.splits.variant_split`."""
        return variant_split(data, seed)

    def loaders(self, encoder: Encoder, seed: int) -> tuple[Loader, Loader]:
        """Read image files at the encoder's resolution."""
        tests = pd.concat(self.variants.values())["path"].to_numpy(str)
        folder, _ = self._folder.loaders(encoder, seed)
        return folder, ImageFolder.reader(encoder, tests)

    def examples(self, n: int = 12) -> dict[str, NDArray[np.uint8]]:
        """Show images of the training images and of each variant."""
        return {
            name: squares(images["path"].sample(min(n, len(images)), random_state=0).tolist())
            for name, images in {"source": self.images, **self.variants}.items()
        }

    @property
    def _folder(self) -> ImageFolder:
        """The training images as one domain, whose texts are of use where they are estimated on."""
        return ImageFolder(
            "imagenet", self.images.assign(domain="imagenet"), self.texts, "open class",
            imagenet_templates(), has_texts=self.others is None,
        )  # fmt: skip


def _check_apart(name: str, images: pd.DataFrame, other: str, others: pd.DataFrame) -> None:
    folders = [
        {os.path.realpath(os.path.dirname(path)) for path in table["path"]}
        for table in (images, others)
    ]
    shared = sorted(folders[0] & folders[1])
    if shared:
        raise ValueError(
            f"{name} has images in {shared[0]!r}, where {other} are; the projection must not be "
            "estimated on images that are tested. Give another folder."
        )
