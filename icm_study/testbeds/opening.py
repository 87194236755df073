"""Open the test beds that the parameters of a notebook name: the one factory."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from icm_core.interventions import IMAGE_INTERVENTIONS
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding.store import EmbeddingStore
from icm_study.encoders.loading import load_encoder
from icm_study.photographs.check import load_folder, load_images
from icm_study.photographs.known import guess_dataset
from icm_study.photographs.seen import hash_files
from icm_study.testbeds import animal_world
from icm_study.testbeds.animal_variants import AnimalVariants
from icm_study.testbeds.animal_world import AnimalWorld
from icm_study.testbeds.base import PROTOCOLS, TestBed
from icm_study.testbeds.image_folder import ImageFolder
from icm_study.testbeds.imagenet_variants import ImageNetVariants
from icm_study.text.pairs import Texts


def open_testbeds(given: Mapping[str, Any]) -> list[TestBed]:
    """Open the test beds of a run: a folder, or each world of the animals.

    Parameters
    ----------
    given : mapping of str to value
        Parameters of a notebook, of which these count: *dataset*, ``"animal-world"`` or a
        folder; *protocol*; for animals *worlds*, pairs of a shortcut and its strength, or
        *world*, one of them, *n_images*, and for variants *reference*; for a folder
        *accept_problems*, *nested*, *groups*, *classes* and *value_range* (see
        :class:`~icm_study.photographs.check.Reading`), *captioner*, *editor* and
        *domain_words* (see :class:`~icm_study.text.pairs.Texts`), and *interventions*, image
        interventions to draw from (all where none is named). Where *variants* is
        given, the test beds are variants: of animals, or the named folders, with
        *n_images* training images of each class, and *projection_images*.

    Returns
    -------
    list of TestBed

    Raises
    ------
    ValueError
        If a parameter is not valid, a folder has problems, or as the test beds.
    FileNotFoundError
        If a folder does not exist.
    """
    if given["dataset"] == animal_world.NAME:
        return _animals(given)
    _refuse_what_needs_animals(given)
    texts = Texts(
        given.get("captioner"), given.get("editor", "rules"), given.get("domain_words") or None
    )
    if "variants" in given:
        return [_imagenet(given, texts)]
    folder = Path(given["dataset"])
    images = load_folder(folder, **_reading(given))
    protocol = given.get("protocol", PROTOCOLS[0])
    drawn = {"interventions": given["interventions"]} if given.get("interventions") else {}
    return [ImageFolder(folder.name, images, texts, protocol, **drawn)]


def images_to_embed(given: Mapping[str, Any]) -> list[tuple[pd.DataFrame, tuple[str, ...]]]:
    """List the image files that a run on folders embeds, whatever its protocol is.

    Parameters
    ----------
    given : mapping of str to value
        As for :func:`open_testbeds`.

    Returns
    -------
    list of (DataFrame, tuple of str)
        Tables with the columns path, label and domain, and for each the image interventions
        that its images are embedded after, too.

    Raises
    ------
    ValueError, FileNotFoundError
        As :func:`open_testbeds`.
    """
    if "variants" in given:
        return _imagenet(given, Texts()).images_to_embed
    drawn = tuple(given.get("interventions") or IMAGE_INTERVENTIONS)
    return [(load_folder(given["dataset"], **_reading(given)), drawn)]


def example_or_folder(given: Mapping[str, Any]) -> dict[str, Any]:
    """Name the data set of a user's run: the folder, or without one an example that is written.

    Parameters
    ----------
    given : mapping of str to value
        Parameters of a notebook: *folder*, *encoder* and *example*.

    Returns
    -------
    dict
        With *dataset* too, and the encoder of the example.

    Raises
    ------
    ValueError
        If there is a folder and no encoder.
    """
    if given["folder"] is None:
        from icm_study.animals.rendering import write_folder  # imports torch, which is slow

        written = write_folder(given["example"], load_silhouettes())
        return {**given, "dataset": str(written), "encoder": given["encoder"] or animal_world.NAME}
    if given["encoder"] is None:
        raise ValueError(
            "Name an encoder for your images: encoder='ViT-B-16/openai', or 'lite0-minilm' where "
            "there is no network."
        )
    return {**given, "dataset": given["folder"]}


def _animals(given: Mapping[str, Any]) -> list[TestBed]:
    if given.get("variants"):
        raise ValueError(
            f"variants={dict(given['variants'])}: these folders are variants of ImageNet, and "
            f"dataset={given['dataset']!r} is rendered. Name the folder of training images as "
            "dataset, or leave variants empty."
        )
    worlds, n = _worlds(given), given.get("n_images")
    if "variants" in given:
        facts = EmbeddingStore(given.get("cache", "cache")).facts
        reference = load_encoder(given["reference"], facts=facts)
        return [
            AnimalVariants(reference=reference, shortcut=shortcut, strength=strength, n=n)
            for shortcut, strength in worlds
        ]
    protocol = given.get("protocol", PROTOCOLS[0])
    return [
        AnimalWorld(shortcut=shortcut, strength=strength, n=n, protocol=protocol)
        for shortcut, strength in worlds
    ]


def _worlds(given: Mapping[str, Any]) -> list[tuple[str, float]]:
    worlds = []
    for world in given["worlds"] if "worlds" in given else [given["world"]]:
        match world:
            case [str() as shortcut, int() | float() as strength]:
                worlds.append((shortcut, strength))
            case _:
                raise ValueError(
                    f"worlds: {world!r} is none; expected a shortcut and its strength, such as "
                    "['coat+scene', 0.9]."
                )
    if not worlds:
        raise ValueError(
            "worlds: there is none; expected at least one, such as ['coat+scene', 0.9]."
        )
    return worlds


def _imagenet(given: Mapping[str, Any], texts: Texts) -> ImageNetVariants:
    accept, n = given.get("accept_problems", False), given.get("n_images")
    if n is not None and n < 1:
        raise ValueError(
            f"n_images={n}; expected at least one training image of each class, or None for all."
        )
    kept = {"accept_problems": accept, "cache": given.get("cache", "cache")}
    images = load_folder(given["dataset"], "imagenet", **kept)
    if n is not None:
        shuffled = images.sample(frac=1, random_state=0)
        images = shuffled.groupby("label").head(n).sort_index()
    variants = {}
    for name, folder in given["variants"].items():
        known = guess_dataset(folder)  # a part of a known variant would pass for the whole
        kept["accept_problems"] = accept and not known
        variants[name] = load_folder(folder, known or "imagenet", **kept)
    others = None
    if given.get("projection_images"):
        folder = Path(given["projection_images"])
        kept["accept_problems"] = accept
        others = (folder.name, load_images(folder, **kept))
    bed = ImageNetVariants(Path(given["dataset"]).name, images, variants, texts, others)
    fitted = {"the training images": images}
    if others is not None:
        fitted["the images for the projection"] = others[1]
    _check_copies(variants, fitted, given.get("cache", "cache"), accept)
    return bed


def _check_copies(
    variants: Mapping[str, pd.DataFrame],
    fitted: Mapping[str, pd.DataFrame],
    cache: str,
    accept: bool,
) -> None:
    """Refuse variants with the same files as what is fitted on; only warn if it is accepted."""
    digests = {
        name: hash_files(table["path"].tolist(), cache)
        for name, table in [*variants.items(), *fitted.items()]
    }
    for name, other in product(variants, fitted):
        known = dict(zip(digests[other], fitted[other]["path"], strict=True))
        files = zip(digests[name], variants[name]["path"], strict=True)
        copies = [(path, known[digest]) for digest, path in files if digest in known]
        if not copies:
            continue
        said = (
            f"The variant {name!r} has {len(copies)} of its {len(digests[name])} files among "
            f"{other} too, such as {copies[0][0]} = {copies[0][1]}"
        )
        if not accept:
            raise ValueError(
                f"{said}. What is tested must not be fitted on: remove them from one of the two, "
                "or pass accept_problems=True."
            )
        warnings.warn(f"going on in spite of problems, as asked: {said}.", stacklevel=2)


def _reading(given: Mapping[str, Any]) -> dict[str, Any]:
    """Give the parameters that say how a folder is read."""
    names = ("accept_problems", "nested", "groups", "classes", "value_range", "cache")
    return {name: given[name] for name in names if name in given}


def _refuse_what_needs_animals(given: Mapping[str, Any]) -> None:
    if given.get("n_images") is not None and "variants" not in given:
        raise ValueError(
            f"n_images={given['n_images']}: only rendered images can be drawn in any number; a "
            "folder has the images that it has. Leave n_images out."
        )
