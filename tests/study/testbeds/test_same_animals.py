"""No animal is on two sides: not trained on and tested, not held out and trained on, at any n."""

from itertools import combinations

import numpy as np
import pytest
import xarray as xr
from conftest import ROOT  # noqa: F401  (the tests' path is set there)
from PIL import Image

from icm_study.animals.latents import STYLES, sample_latents
from icm_study.animals.rendering import write_folder
from icm_study.animals.silhouettes import load_silhouettes
from icm_study.embedding.tables import EmbeddedData
from icm_study.testbeds.animal_variants import VARIANTS
from icm_study.testbeds.splits import split, variant_split


@pytest.fixture(scope="module")
def silhouettes():
    return load_silhouettes()


def table(latents, **coordinates):
    """Give rows of latents as a table with embeddings that say nothing."""
    columns = {name: ("row", latents[name].to_numpy()) for name in ("silhouette", "label")}
    variables = {"original": (("row", "feature"), np.zeros((len(latents), 2), np.float32))}
    return xr.Dataset(variables, columns | {k: ("row", v) for k, v in coordinates.items()})


def sides(found):
    """Name the animals of every part of a split."""
    parts = {"train": found.train, "held out": found.held_out, **found.tests}
    return {name: set(part["silhouette"].to_numpy().tolist()) for name, part in parts.items()}


PROMPTS = xr.Dataset({"prompt": (("row", "feature"), np.eye(10, 2))}, {"label": ("row", range(10))})


@pytest.mark.parametrize("n", [600, 1500, 5000, None])
@pytest.mark.parametrize("seed", range(3))
def test_no_animal_is_on_two_sides_of_variants(silhouettes, n, seed):
    source = sample_latents(silhouettes, "source", styles=("photo",), seed=seed, n=n)
    tests = []
    for number, (styles, _) in enumerate(VARIANTS.values()):
        latents = sample_latents(silhouettes, "test", styles=styles, seed=seed, n=n)
        tests.append(table(latents, domain=[number] * len(latents)))
    data = EmbeddedData(table(source), xr.concat(tests, "row"), PROMPTS, {}, tuple(VARIANTS), ())
    animals = sides(variant_split(data, seed))
    for one, other in combinations(["train", "held out", "in_distribution"], 2):
        assert not animals[one] & animals[other], (one, other)
    for name in VARIANTS:
        assert not animals[name] & animals["train"]


@pytest.mark.parametrize("n", [600, 5000, None])
def test_no_animal_is_on_two_sides_of_the_world(silhouettes, n):
    source = sample_latents(silhouettes, "source", seed=1, n=n)
    test = [
        sample_latents(silhouettes, "test", shortcut=s, seed=1, n=n)
        for s in ("aligned", "none", "reversed")
    ]
    tests = [
        table(one, domain=one["style"].to_numpy(), shortcut=[name] * len(one))
        for one, name in zip(test, ("aligned", "none", "reversed"), strict=True)
    ]
    whole = table(source, domain=source["style"].to_numpy())
    data = EmbeddedData(whole, xr.concat(tests, "row"), PROMPTS, {}, STYLES, ())
    animals = sides(split(data, 0, seed=3))
    assert not animals["train"] & animals["held out"]
    for name in ("in_distribution", "unseen", "reversed"):
        assert not animals[name] & (animals["train"] | animals["held out"])


@pytest.mark.parametrize("n", [600, None])
def test_styles_share_no_animal(silhouettes, n):
    latents = sample_latents(silhouettes, "source", seed=0, n=n)
    assert latents.groupby("silhouette")["style"].nunique().max() == 1


def test_the_example_folder_shows_each_animal_once(silhouettes, tmp_path, monkeypatch):
    seen = []

    def render(latents, animals):
        seen.extend(latents["silhouette"])
        raise_nothing = np.zeros((len(latents), 3, 8, 8), np.uint8)
        import torch

        return torch.from_numpy(raise_nothing)

    monkeypatch.setattr("icm_study.animals.rendering.render", render)
    root = write_folder(tmp_path, silhouettes, per_class=20)
    assert len(seen) == len(set(seen)) == 20 * 10 * 4
    assert len(list(root.glob("*/*/*.png"))) == len(seen)
    assert Image.open(next(root.glob("*/*/*.png"))).size == (8, 8)
