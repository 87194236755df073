"""Small CLIPs that differ: which are trained, that they are kept, and what is compared."""

import numpy as np
import pytest

from icm_study.encoders import animal_pretraining
from icm_study.experiments.animal_encoders import (
    FACTORS,
    UNTRAINED,
    Variants,
    compare,
    train_variants,
)

TINY = Variants(seeds=[0], widths=[8, 128], lengths=[32])


@pytest.fixture
def quick(monkeypatch):
    """Train on batches of 32; 32 pairs are then a single one."""
    monkeypatch.setitem(animal_pretraining.TRAINING, "batch_size", 32)
    monkeypatch.setattr(animal_pretraining, "tqdm", _silent)


def _silent(*arguments, **options):
    from tqdm import tqdm

    return tqdm(*arguments, **options, disable=True)


def test_the_first_width_has_every_length_and_seed_and_others_the_longest():
    recipes = Variants([0, 1], [64, 16, 256], [128, 6400]).recipes()
    assert [tuple(one.values()) for one in recipes] == [
        (0, 64, 128), (0, 64, 6400), (1, 64, 128), (1, 64, 6400), (0, 16, 6400), (0, 256, 6400),
    ]  # fmt: skip
    assert list(recipes[0]) == ["seed", "embed_dim", "samples"]


def test_encoders_are_kept_and_not_trained_twice(quick, tmp_path, monkeypatch):
    first = train_variants(TINY, tmp_path)
    assert list(first) == [f"seed 0, width {width}, {UNTRAINED}" for width in (8, 128)]
    assert [one.embedding_dim for one in first.values()] == [8, 128]
    monkeypatch.setattr(
        animal_pretraining, "render", lambda *_: pytest.fail("rendered to be trained again")
    )
    again = train_variants(TINY, tmp_path)
    assert [one.fingerprint for one in again.values()] == [
        one.fingerprint for one in first.values()
    ]


@pytest.mark.slow
def test_encoders_are_compared(quick, tmp_path):
    encoders = train_variants(TINY, tmp_path)
    compared = compare(encoders, n_images=160)
    read, spans, pairs = compared["read"], compared["spans"], compared["pairs"]
    assert read.groupby("encoder")["factor"].apply(tuple).tolist() == [FACTORS, FACTORS]
    assert (read["r2"] <= 1).all()
    wide = spans.set_index("dimension").loc[128]
    assert wide["text_rank"] < 128  # its text tower has 96 channels
    assert 0 < wide["outside"] < 1
    narrow = spans.set_index("dimension").loc[8]
    assert (narrow["text_rank"], narrow["outside"]) == (8, 0)
    assert np.isnan(narrow["class_outside"])
    own, shuffled = pairs.set_index("control")["agreement"][["own rows", "shuffled rows"]]
    assert own > shuffled
    assert pairs["read"].iloc[0] == pytest.approx(read.groupby("encoder")["r2"].mean().min())


def test_a_recipe_of_ones_own_needs_no_name(quick, tmp_path):
    with pytest.raises(ValueError, match="no recipe for 'zoo'"):
        animal_pretraining.train("zoo", tmp_path, samples=32, images=32)
    recipe = {"coat_strength": 0.0, "scene_strength": 0.0, "seed": 3}
    made = animal_pretraining.train("zoo", tmp_path, samples=32, images=32, recipe=recipe)
    assert made.name == "zoo"
