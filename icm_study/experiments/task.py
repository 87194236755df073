"""The data of one run: the sources that a method is fitted on, what chooses its settings, and what it is tested on.

Built from the same environments and splits as every other page. What is added is a way
back to the pixels, for the methods that change the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from icm_core.interventions import draw_interventions, intervene_images
from icm_study.animals.latents import LEXICON, SHORTCUTS, sample_latents
from icm_study.animals.rendering import render
from icm_study.animals.silhouettes import CLASSES, Silhouettes
from icm_study.embedding.files import read_images
from icm_study.embedding.store import EmbeddingStore
from icm_study.embedding.tables import Environments
from icm_study.encoders.encoder import Encoder
from icm_study.experiments.domain_generalization import World, embed_world, strengths
from icm_study.methods.sources import Images, Sources
from icm_study.testbeds.splits import split
from icm_study.text.captions import LEXICON as PHOTO_LEXICON

#: Prompts that name a value of a variant factor and no class, for each factor of the animal world.
SPURIOUS = {
    "style": "a {} of an animal",
    "coat": "a {} animal",
    "scene": "an image of an animal {}",
    "light": "an image of an animal in {}",
    "blur": "a {} image of an animal",
}

_BATCH = 256


@dataclass(frozen=True)
class Task:
    """One target domain and one seed.

    Attributes
    ----------
    sources : Sources
        What is fitted on.
    held_out : Sources
        Other images of the source domains, to choose settings on.
    tests : dict of str to Images
        A test set for each condition (see :mod:`icm_study.testbeds.splits`).
    """

    sources: Sources
    held_out: Sources
    tests: dict[str, Images]


def animal_task(
    encoder: Encoder,
    silhouettes: Silhouettes,
    store: EmbeddingStore,
    world: World | Sequence[Any],
    target: int,
    *,
    seed: int = 0,
    n: int | None = None,
) -> Task:
    """Set one style of the animal world aside.

    Parameters
    ----------
    encoder : Encoder
    silhouettes : Silhouettes
    store : EmbeddingStore
    world : (shortcut, strength)
    target : int
        Number of the style that is left out.
    seed : int
    n : int, optional
        Images in each table; by default every silhouette of the part once.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        As :func:`~icm_study.experiments.domain_generalization.embed_world` and
        :func:`~icm_study.testbeds.splits.split`.
    """
    given: dict[str, Any] = {"seed": seed, "n": n} | strengths(world)
    latents = {
        "source": sample_latents(silhouettes, "source", shortcut="aligned", **given),
        "test": pd.concat(
            [sample_latents(silhouettes, "test", shortcut=name, **given) for name in SHORTCUTS]
        ),
    }
    spurious = [
        SPURIOUS[factor].format(value) for factor, values in LEXICON.items() for value in values
    ]

    @cache  # every tuned tower embeds the same images
    def pixels(part: str) -> torch.Tensor:
        return render(latents[part], silhouettes)

    return _task(
        embed_world(encoder, silhouettes, store, world, seed, n), encoder, store, target, seed=seed,
        words=CLASSES, spurious=spurious,
        load=lambda rows: pixels("source")[rows], load_test=lambda rows: pixels("test")[rows],
    )  # fmt: skip


def folder_task(
    encoder: Encoder,
    folder: Environments,
    words: Sequence[str],
    store: EmbeddingStore,
    target: int,
    *,
    seed: int = 0,
) -> Task:
    """Set one domain of a folder of images aside.

    Parameters
    ----------
    encoder : Encoder
    folder : Environments
        As :func:`~icm_study.experiments.domain_generalization.load_environments`
        returns them for a folder.
    words : sequence of str
        The class names as they stand in prompts.
    store : EmbeddingStore
    target : int
        Number of the domain that is left out.
    seed : int
        Of the split. The interventions are those that were stored.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        If the words are not one for each class, or as :func:`~icm_study.testbeds.splits.split`.
    """
    if isinstance(words, str) or len(words) != len(folder.classes):
        raise ValueError(
            f"words={words!r:.80}: expected a sequence of {len(folder.classes)} strings, one "
            f"for each of the classes "
            f"{list(folder.classes)[:5]} and so on, in this order."
        )
    paths = folder.source["path"].to_numpy()

    def load(rows: np.ndarray) -> torch.Tensor:
        return read_images(encoder, paths[rows])

    return _task(
        folder, encoder, store, target, seed=seed, words=words, load=load, load_test=load,
        spurious=[f"a {value} of an object" for value in PHOTO_LEXICON["medium"]],
    )  # fmt: skip


def _task(
    environments: Environments,
    encoder: Encoder,
    store: EmbeddingStore,
    target: int,
    *,
    seed: int,
    words: Sequence[str],
    spurious: Sequence[str],
    load: Callable[[np.ndarray], torch.Tensor],
    load_test: Callable[[np.ndarray], torch.Tensor],
) -> Task:
    drawn = _drawn(environments, load, store)
    source, test = _numbered(environments.source), environments.test
    numbered = replace(environments, source=source, test=None if test is None else _numbered(test))
    data = split(numbered, target, seed=seed)

    def intervene(rows: np.ndarray) -> torch.Tensor:
        return intervene_images(load(rows), seed=environments.provenance["seed"])

    def sources(table: xr.Dataset) -> Sources:
        texts = [table[name].to_numpy() if name in table else np.empty((0, encoder.embedding_dim))
                 for name in ("caption", "edit")]  # fmt: skip
        return Sources(
            images=_images(table, "original", load),
            intervened=_images(table, "image", intervene),
            drawn=drawn[table["number"].to_numpy()],
            captions=texts[0],
            edits=texts[1],
            prompts=data.prompts["prompt"].to_numpy(),
            prompt_label=data.prompts["label"].to_numpy(),
            words=tuple(words),
            spurious=tuple(spurious),
            encoder=encoder,
        )

    tests = {name: _images(table, "original", load_test) for name, table in data.tests.items()}
    return Task(sources(data.train), sources(data.held_out), tests)


def _numbered(table: xr.Dataset) -> xr.Dataset:
    return table.assign_coords(number=("row", np.arange(table.sizes["row"])))


def _images(table: xr.Dataset, variable: str, load: Callable[[np.ndarray], torch.Tensor]) -> Images:
    return Images(
        embedded=table[variable].to_numpy(),
        label=table["label"].to_numpy(),
        domain=table["domain"].to_numpy(),
        rows=table["number"].to_numpy(),
        load=load,
    )


def _drawn(
    environments: Environments, load: Callable[[np.ndarray], torch.Tensor], store: EmbeddingStore
) -> np.ndarray:
    """Tell which image intervention each source image got."""

    def compute() -> xr.Dataset:
        rows = np.arange(environments.source.sizes["row"])
        names = [
            name
            for start in range(0, len(rows), _BATCH)
            for name in draw_interventions(
                load(rows[start : start + _BATCH]), seed=environments.provenance["seed"]
            )
        ]
        return xr.Dataset({"drawn": ("row", np.array(names))})

    made_by = environments.source.attrs.get(
        "pixels"
    )  # of a folder: a fingerprint of the interventions
    key = environments.provenance | {
        "part": "drawn interventions of the source",
        "made by": made_by,
    }
    return store.get(key, compute)["drawn"].to_numpy().astype(str)
