"""One run's data: the sources that a method is fitted on, what chooses its settings, its tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from icm_core.interventions import IMAGE_INTERVENTIONS
from icm_study.embedding.tables import PAIRS, EmbeddedData, Embedder, Pairs, pairs_in
from icm_study.methods.sources import PREDICTORS, Images, Sources
from icm_study.testbeds.base import Loader, TestBed

if TYPE_CHECKING:
    import torch

_BATCH = 256


@dataclass(frozen=True)
class Task:
    """A test bed with one target and one seed.

    Attributes
    ----------
    sources : Sources
        What is fitted on.
    held_out : Sources
        Other images of the source domains, to choose settings on.
    tests : dict of str to Images
        A test set for each condition (see :mod:`icm_study.testbeds.splits`).
    target : str
        The condition that stands for the target.
    candidates : mapping of str to ndarray
        For a condition, the labels to choose among, where these are not all.
    """

    sources: Sources
    held_out: Sources
    tests: dict[str, Images]
    target: str
    candidates: Mapping[str, NDArray[np.integer]]


def make_task(
    bed: TestBed,
    embedder: Embedder,
    data: EmbeddedData,
    target: str | None,
    seed: int,
    *,
    with_draws: bool = False,
) -> Task:
    """Divide a test bed for one target and seed.

    Parameters
    ----------
    bed : TestBed
    embedder : Embedder
    data : EmbeddedData
        What the test bed's ``embed`` gave for this encoder (and seed, where it matters).
    target : str or None
        One of the test bed's targets.
    seed : int
    with_draws : bool
        Whether to find out which image intervention each image got, which takes its pixels.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        As the test bed's ``split``.
    """
    numbered = replace(
        data,
        source=_numbered(data.source),
        test=None if data.test is None else _numbered(data.test),
    )
    split = bed.split(numbered, target, seed)

    @cache  # the test bed may render all images, once
    def loaders() -> tuple[Loader, Loader]:
        return bed.loaders(embedder.encoder, seed)

    def load(rows: NDArray[np.intp]) -> torch.Tensor:
        return loaders()[0](rows)

    # what loads pixels later keeps no tables
    has_test, names, drawn_by = data.test is not None, _drawn_from(data), data.provenance

    def load_test(rows: NDArray[np.intp]) -> torch.Tensor:
        return loaders()[int(has_test)](rows)

    def intervene(rows: NDArray[np.intp]) -> torch.Tensor:
        from icm_core.interventions import intervene_images

        return intervene_images(load(rows), names, drawn_by["seed"])

    def load_oracle(rows: NDArray[np.intp]) -> torch.Tensor:
        raise ValueError("The oracle's copies of images are known as embeddings only.")

    unknown = np.full(data.source.sizes["row"], "unknown")
    drawn = drawn_interventions(data, load, embedder) if with_draws else unknown
    others = None if split.pairs is None else _pairs(split.pairs)
    loads = {"image": intervene, "oracle": load_oracle}

    def sources(table: xr.Dataset) -> Sources:
        none = np.empty((0, table.sizes["feature"]), np.float32)
        captions, edits = (
            table[name].to_numpy() if name in table else none for name in ("caption", "edit")
        )
        return Sources(
            images=_images(table, "original", load),
            copies={kind: _images(table, kind, loads[kind]) for kind in loads if kind in table},
            drawn=drawn[table["number"].to_numpy()],
            texts=(captions, edits),
            prompts=split.prompts["prompt"].to_numpy(),
            prompt_label=split.prompts["label"].to_numpy(),
            words=bed.words,
            spurious=bed.spurious,
            encoder=embedder.encoder,
            predictors=predictors_for(table, split.tests),
            others=others,
        )

    tests = {name: _images(table, "original", load_test) for name, table in split.tests.items()}
    train, held_out = sources(split.train), sources(split.held_out)
    return Task(train, held_out, tests, split.target, split.candidates)


def predictors_for(train: xr.Dataset, tests: Mapping[str, xr.Dataset]) -> tuple[str, ...]:
    """Both predictors; zero-shot alone where the tests have classes that no probe has seen."""
    tested = np.concatenate([test["label"].to_numpy() for test in tests.values()])
    return PREDICTORS if np.isin(tested, train["label"]).all() else PREDICTORS[:1]


def _pairs(table: xr.Dataset) -> dict[str, Pairs]:
    return {
        kind: (*pairs_in(table, kind), None)
        for kind, names in PAIRS.items()
        if all(name in table for name in names)
    }


def _numbered(table: xr.Dataset) -> xr.Dataset:
    return table.assign_coords(number=("row", np.arange(table.sizes["row"])))


def _images(table: xr.Dataset, variable: str, load: Loader) -> Images:
    label = table["label"].to_numpy()
    return Images(
        embedded=table[variable].to_numpy(),
        label=label,
        domain=table["domain"].to_numpy() if "domain" in table.coords else np.zeros_like(label),
        rows=table["number"].to_numpy(),
        load=load,
        group=table["group"].to_numpy() if "group" in table.coords else None,
    )


def _drawn_from(data: EmbeddedData) -> Sequence[str]:
    """Name the image interventions that were drawn from."""
    return data.source.attrs.get("interventions", IMAGE_INTERVENTIONS)


def drawn_interventions(
    data: EmbeddedData, load: Callable[[NDArray[np.intp]], Any], embedder: Embedder
) -> NDArray[np.str_]:
    """Tell which image intervention each source image got, or open what is stored.

    Parameters
    ----------
    data : EmbeddedData
    load : callable
        From rows of the source table to their pixels, as a test bed's ``loaders`` gives it.
    embedder : Embedder

    Returns
    -------
    ndarray of n str
    """

    def compute() -> xr.Dataset:
        from icm_core.interventions import draw_interventions

        rows = np.arange(data.source.sizes["row"])
        names = [
            name
            for start in range(0, len(rows), _BATCH)
            for name in draw_interventions(
                load(rows[start : start + _BATCH]), _drawn_from(data), data.provenance["seed"]
            )
        ]
        return xr.Dataset({"drawn": ("row", np.array(names))})

    made_by = data.source.attrs.get("pixels")  # of a folder: a fingerprint of the interventions
    key = data.provenance | {"part": "drawn interventions of the source", "made by": made_by}
    key = {name: value for name, value in key.items() if not isinstance(value, dict)}
    return embedder.store.get(key, compute)["drawn"].to_numpy().astype(str)
